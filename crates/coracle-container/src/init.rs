//! The child that becomes a container: from its namespaces to the exec of its program.

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use coracle_sys::mount_attr::{Change, Depth, Flag};
use coracle_sys::namespaces::Namespace;
use coracle_sys::process::set_umask;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use crate::channel::{FromChild, FromParent};
use crate::console::{self, Console};
use crate::devices::Devices;
use crate::filesystem::attach;
use crate::hooks::{self, Point};
use crate::masks;
use crate::mounts::Planned;
use crate::namespace::set_sysctls;
use crate::paths::Root;
use crate::process::{ProcessPlan, connect};
use crate::process_io::{ProcessIo, Stdio};
use crate::spawn::{ChildSide, Layout};
use crate::step::{At as _, Failure, Step};

/// All that the child does, decided beforehand.
#[derive(Debug)]
pub(crate) struct InitPlan {
    pub(crate) rootfs: OwnedFd,
    pub(crate) read_only: bool,
    pub(crate) propagation: Option<MountPropagationFlags>,
    pub(crate) mounts: Vec<Planned>,
    pub(crate) devices: Devices,
    pub(crate) masked: Vec<String>,
    pub(crate) read_only_paths: Vec<String>,
    pub(crate) sysctls: Vec<(String, String)>,
    pub(crate) hostname: Option<String>,
    pub(crate) domainname: Option<String>,
    pub(crate) hooks: Option<hooks::Plan>,
    pub(crate) process: ProcessPlan,
    pub(crate) io: ProcessIo,
}

impl InitPlan {
    /// Descriptors that the child needs.
    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.rootfs.as_fd()];
        fds.extend(self.mounts.iter().flat_map(Planned::descriptors));
        fds.extend(stdio(&self.io).into_iter().flatten());
        fds
    }

    fn has(&self, point: Point) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.has(point))
    }

    fn run(&self, point: Point, step: Step) -> Result<(), Failure> {
        match self.hooks.as_ref().filter(|hooks| hooks.has(point)) {
            Some(hooks) => hooks
                .run(point, hooks::own_pid())
                .map_err(|error| Failure::new(step, Errno::CANCELED, error.to_string())),
            None => Ok(()),
        }
    }

    /// Runs in the child and ends in the program.
    pub(crate) fn become_program(
        &self,
        layout: &Layout<'_>,
        side: &ChildSide<'_>,
    ) -> Result<Infallible, Failure> {
        let progress = side.progress;
        if self.has(Point::CreateRuntime) {
            progress.enter(Step::RuntimeHooks);
            side.tell(&FromChild::Hooks)?;
            side.wait_for(FromParent::Continue)?;
        }
        let console = self.build_root(side)?;
        progress.enter(Step::Sysctls);
        set_sysctls(side.procfs, self.sysctls.iter().map(|(key, value)| (key, value)))?;
        if layout.has(Namespace::Uts) {
            progress.enter(Step::Hostname);
            self.set_names()?;
        }
        progress.enter(Step::ConnectStdio);
        connect_io(&self.io, console.as_ref(), &self.process)?;
        let root = crate::process::own_root(Step::WorkingDirectory)?;
        let mut warnings = Vec::new();
        let prepared = self
            .process
            .prepare(progress, side.procfs, &root, &mut warnings)?;
        progress.enter(Step::Ready);
        side.tell(&FromChild::Ready {
            warnings,
            console: console.map(|console| console.master),
        })?;
        side.wait_for(FromParent::Start)?;
        progress.enter(Step::StartHooks);
        self.run(Point::StartContainer, Step::StartHooks)?;
        Err(self.process.execute(&prepared, progress))
    }

    fn set_names(&self) -> Result<(), Failure> {
        let step = Step::Hostname;
        if let Some(name) = &self.hostname {
            rustix::system::sethostname(name.as_bytes()).at(step, || name.clone())?;
        }
        if let Some(name) = &self.domainname {
            rustix::system::setdomainname(name.as_bytes()).at(step, || name.clone())?;
        }
        Ok(())
    }

    /// Attaches everything, and changes into it; the host's tree is gone afterwards.
    fn build_root(&self, side: &ChildSide<'_>) -> Result<Option<Console>, Failure> {
        let progress = side.progress;
        progress.enter(Step::DetachPropagation);
        // What is attached here must not appear on the host, and what goes with the old root must not go there.
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).at(Step::DetachPropagation, || "/")?;
        progress.enter(Step::AttachRootfs);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let old = open("/", flags, Mode::empty()).at(Step::AttachRootfs, || "/")?;
        attach(self.rootfs.as_fd(), old.as_fd()).at(Step::AttachRootfs, || "move_mount")?;
        let root = rustix::io::fcntl_dupfd_cloexec(&self.rootfs, 3).map(Root::new);
        let root = root.at(Step::AttachRootfs, || "dup")?;

        progress.enter(Step::AttachMounts);
        set_umask(0o022);
        for mount in &self.mounts {
            mount.attach(&root)?;
        }
        progress.enter(Step::MakeDevices);
        set_umask(0);
        self.devices.make(&root)?;
        set_umask(0o022);
        let console = self.open_console(side, &root)?;
        if self.has(Point::CreateContainer) {
            progress.enter(Step::ContainerHooks);
            self.run(Point::CreateContainer, Step::ContainerHooks)?;
        }
        for mount in &self.mounts {
            mount.finish(&root)?;
        }
        progress.enter(Step::MaskPaths);
        masks::mask(&root, &self.masked)?;
        progress.enter(Step::ReadonlyPaths);
        masks::make_read_only(&root, &self.read_only_paths)?;
        if self.read_only {
            let step = Step::ReadonlyPaths;
            Change::new()
                .set(Flag::ReadOnly)
                .apply(self.rootfs.as_fd(), Depth::This)
                .at(step, || "/")?;
        }
        progress.enter(Step::PivotRoot);
        change_root(&self.rootfs, &old)?;
        if let Some(propagation) = self.propagation {
            mount_change("/", propagation).at(Step::PivotRoot, || "propagation of /")?;
        }
        Ok(console)
    }

    fn open_console(&self, side: &ChildSide<'_>, root: &Root) -> Result<Option<Console>, Failure> {
        if !self.process.terminal {
            return Ok(None);
        }
        side.progress.enter(Step::OpenConsole);
        let console = console::open(root, self.process.console_size, self.process.uid)?;
        console.bind(root)?;
        Ok(Some(console))
    }
}

/// pivot_root(2) of the new root on itself: the old one lies over it then, and is taken off.
pub(crate) fn change_root(new: &OwnedFd, old: &OwnedFd) -> Result<(), Failure> {
    let step = Step::PivotRoot;
    fchdir(new).at(step, || "into the new root")?;
    pivot_root(".", ".").at(step, || "pivot_root")?;
    fchdir(old).at(step, || "into the old root")?;
    unmount(".", UnmountFlags::DETACH).at(step, || "detach the old root")?;
    chdir("/").at(step, || "/")
}

/// The descriptors of the caller, if it is those.
pub(crate) fn stdio(io: &ProcessIo) -> Option<[BorrowedFd<'_>; 3]> {
    match io {
        ProcessIo::Stdio(Stdio {
            stdin,
            stdout,
            stderr,
        }) => Some([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        ProcessIo::Console(_) => None,
    }
}

/// Connects 0, 1 and 2.
pub(crate) fn connect_io(
    io: &ProcessIo,
    console: Option<&Console>,
    process: &ProcessPlan,
) -> Result<(), Failure> {
    match (stdio(io), console) {
        (Some(fds), _) => {
            process.own_stdio(&fds);
            connect(fds)
        }
        (None, Some(console)) => {
            console.control()?;
            connect([console.slave.as_fd(); 3])
        }
        (None, None) => Ok(()),
    }
}
