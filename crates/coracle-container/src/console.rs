//! Terminals of a container, made in its own devpts and handed over by descriptor (class CVE-2025-52565).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstatfs};
use rustix::io::Errno;
use rustix::process::{ioctl_tiocsctty, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::filesystem::{Submounts, attach, clone_tree};
use crate::paths::{Root, Target};
use crate::process_io::ConsoleSize;
use crate::step::{At as _, Failure, Step};

const DEVPTS: i64 = 0x1cd1;

/// Tells a terminal its size; its foreground processes get SIGWINCH.
///
/// # Errors
/// What TIOCSWINSZ says.
pub fn resize(master: BorrowedFd<'_>, size: ConsoleSize) -> Result<(), Errno> {
    tcsetwinsize(
        master,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )
}

/// Both ends of a terminal.
#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

/// In the child: a new terminal of the container's devpts, for the user `uid`.
///
/// The slave is opened through the master (TIOCGPTPEER), never by the path that the master's number
/// suggests, so that what lies at that path plays no part.
pub(crate) fn open(root: &Root, size: Option<ConsoleSize>, uid: u32) -> Result<Console, Failure> {
    let step = Step::OpenConsole;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = root
        .open("/dev/pts/ptmx", flags)
        .at(step, || "/dev/pts/ptmx (is devpts mounted there?)")?;
    if fstatfs(&master).at(step, || "/dev/pts/ptmx")?.f_type != DEVPTS {
        return Err(Failure::new(
            step,
            Errno::XDEV,
            "/dev/pts/ptmx is not on a devpts",
        ));
    }
    unlockpt(&master).at(step, || "unlock the terminal")?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, peer).at(step, || "open the terminal's other end")?;
    fchmod(&slave, Mode::from_raw_mode(0o620)).at(step, || "mode of the terminal")?;
    fchown(&slave, Some(Uid::from_raw(uid)), None::<Gid>).at(step, || "owner of the terminal")?;
    if let Some(size) = size {
        resize(master.as_fd(), size).at(step, || "size of the terminal")?;
    }
    Ok(Console { master, slave })
}

impl Console {
    /// Binds the terminal on /dev/console from its descriptor.
    pub(crate) fn bind(&self, root: &Root) -> Result<(), Failure> {
        let step = Step::OpenConsole;
        let point = root
            .ensure("/dev/console", Target::File)
            .at(step, || "/dev/console")?;
        let tree = clone_tree(self.slave.as_fd(), Submounts::Without).at(step, || "/dev/console")?;
        attach(tree.as_fd(), point.as_fd()).at(step, || "/dev/console")
    }

    /// Makes it the controlling terminal of the calling process, which leads a session for that.
    pub(crate) fn control(&self) -> Result<(), Failure> {
        ioctl_tiocsctty(&self.slave).at(Step::OpenConsole, || "controlling terminal")
    }
}

/// A session of its own; one that leads a session already stays in it.
pub(crate) fn new_session() -> Result<(), Failure> {
    match setsid() {
        Ok(_) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(Failure::new(Step::ConnectStdio, errno, "setsid")),
    }
}
