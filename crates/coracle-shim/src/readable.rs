//! Descriptors whose readability, or news, is awaited.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `descriptor` with the runtime, in whose context this must be called.
pub(crate) fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    registered(descriptor, Interest::READABLE)
}

/// As [`readable`], for priority events (POLLPRI): the files of a cgroup that tell of changes.
pub(crate) fn urgent(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    registered(descriptor, Interest::PRIORITY)
}

fn registered(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // Deprecated for types whose number may come to mean another file. An `OwnedFd` that nobody else can
    // reach keeps its number until the `AsyncFd` is dropped, which is all that the unsafe successor asks.
    #[expect(
        deprecated,
        reason = "its successor is unsafe, and this type holds what that asks for"
    )]
    AsyncFd::with_interest(descriptor, interest)
}
