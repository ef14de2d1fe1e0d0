//! What parent and child say to one another while a container is made: bounded messages on a socket pair.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use coracle_sys::seqpacket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::step::{Failure, Step};

/// Longest message. A longer detail is cut; lengths are never read from a message (class CVE-2021-43784).
const LONGEST: usize = 4096;

/// Said by the child.
#[derive(Debug)]
pub(crate) enum FromChild {
    /// Everything is set up. With what it had to go on without, and the master of its terminal.
    Ready {
        warnings: Vec<String>,
        console: Option<OwnedFd>,
    },
    /// A step failed and the child is gone.
    Failed(Failure),
    /// The namespaces are there: hooks of the runtime may run.
    Hooks,
    /// A process made by the child that takes its place.
    Successor(i32),
}

/// Said by the parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FromParent {
    /// Go on with setting up.
    Continue,
    /// Execute the program.
    Start,
}

/// Why nothing was heard.
#[derive(Debug)]
pub(crate) enum Silence {
    /// The other side closed: it executed its program or ended.
    Closed,
    /// The time was over.
    TimedOut,
    /// The socket failed.
    Broken(Errno),
}

pub(crate) fn tell_parent(socket: BorrowedFd<'_>, message: &FromChild) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    let mut fds = Vec::new();
    match message {
        FromChild::Ready { warnings, console } => {
            bytes.push(b'R');
            bytes.extend(warnings.join("\n").bytes());
            fds.extend(console.as_ref().map(|fd| fd.as_fd()));
        }
        FromChild::Failed(failure) => {
            bytes.push(b'F');
            bytes.push(failure.step as u8);
            bytes.extend(failure.errno.raw_os_error().to_ne_bytes());
            bytes.extend(failure.detail.bytes());
        }
        FromChild::Hooks => bytes.push(b'H'),
        FromChild::Successor(pid) => {
            bytes.push(b'P');
            bytes.extend(pid.to_ne_bytes());
        }
    }
    bytes.truncate(LONGEST);
    seqpacket::send(socket, &bytes, &fds)
}

pub(crate) fn hear_child(socket: BorrowedFd<'_>, patience: Duration) -> Result<FromChild, Silence> {
    let mut buffer = [0; LONGEST];
    let (length, mut fds) = receive(socket, &mut buffer, Some(patience))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &buffer[..length] {
        [b'R', warnings @ ..] => Ok(FromChild::Ready {
            warnings: text(warnings).lines().map(str::to_owned).collect(),
            console: fds.pop(),
        }),
        [b'F', step, e0, e1, e2, e3, detail @ ..] => {
            let errno = i32::from_ne_bytes([*e0, *e1, *e2, *e3]);
            Ok(FromChild::Failed(Failure::new(
                Step::from_number(*step),
                Errno::from_raw_os_error(errno.clamp(1, 4095)),
                text(detail),
            )))
        }
        [b'H'] => Ok(FromChild::Hooks),
        [b'P', p0, p1, p2, p3] => Ok(FromChild::Successor(i32::from_ne_bytes([*p0, *p1, *p2, *p3]))),
        _ => Err(Silence::Broken(Errno::PROTO)),
    }
}

pub(crate) fn tell_child(socket: BorrowedFd<'_>, message: FromParent) -> Result<(), Errno> {
    seqpacket::send(
        socket,
        &[if message == FromParent::Continue {
            b'C'
        } else {
            b'S'
        }],
        &[],
    )
}

/// Waits for ever: the parent may let a container wait for its start as long as it likes.
pub(crate) fn hear_parent(socket: BorrowedFd<'_>) -> Result<FromParent, Silence> {
    let mut buffer = [0; 8];
    let (length, _) = receive(socket, &mut buffer, None)?;
    match &buffer[..length] {
        b"C" => Ok(FromParent::Continue),
        b"S" => Ok(FromParent::Start),
        _ => Err(Silence::Broken(Errno::PROTO)),
    }
}

fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    patience: Option<Duration>,
) -> Result<(usize, Vec<OwnedFd>), Silence> {
    if let Some(patience) = patience {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(Silence::TimedOut),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Silence::Broken(errno)),
            }
        }
    }
    match seqpacket::receive(socket, buffer) {
        Ok((0, _)) | Err(Errno::CONNRESET) => Err(Silence::Closed),
        Ok(received) => Ok(received),
        Err(errno) => Err(Silence::Broken(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_detail_of_any_length_arrives_cut_and_a_closed_end_is_told() {
        let (parent, child) = seqpacket::pair().unwrap();
        let failure = Failure::new(Step::AttachMounts, Errno::NOENT, "x".repeat(100_000));
        tell_parent(child.as_fd(), &FromChild::Failed(failure)).unwrap();
        let patience = Duration::from_secs(5);
        match hear_child(parent.as_fd(), patience) {
            Ok(FromChild::Failed(failure)) => {
                assert_eq!((failure.step, failure.errno), (Step::AttachMounts, Errno::NOENT));
                assert!(failure.detail.len() < LONGEST);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            hear_child(parent.as_fd(), Duration::ZERO),
            Err(Silence::TimedOut)
        ));
        drop(child);
        assert!(matches!(
            hear_child(parent.as_fd(), patience),
            Err(Silence::Closed)
        ));
    }
}
