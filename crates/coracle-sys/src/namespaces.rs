//! Sets of namespaces, unshare(2) and setns(2).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space,
    move_into_thread_name_spaces,
};

/// One kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// User and group ids, capabilities.
    User,
    /// Mounts.
    Mount,
    /// Process numbers.
    Pid,
    /// Network.
    Net,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name.
    Uts,
    /// The root of cgroups.
    Cgroup,
    /// Monotonic clocks.
    Time,
}

impl Namespace {
    /// All, a user namespace first: it owns those made or joined after it.
    pub const ALL: [Self; 8] = [
        Self::User,
        Self::Ipc,
        Self::Uts,
        Self::Net,
        Self::Pid,
        Self::Cgroup,
        Self::Time,
        Self::Mount,
    ];

    /// Its file below `/proc/<pid>/ns`.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Mount => "mnt",
            Self::Pid => "pid",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }

    fn bit(self) -> u32 {
        let flag = match self {
            Self::User => libc::CLONE_NEWUSER,
            Self::Mount => libc::CLONE_NEWNS,
            Self::Pid => libc::CLONE_NEWPID,
            Self::Net => libc::CLONE_NEWNET,
            Self::Ipc => libc::CLONE_NEWIPC,
            Self::Uts => libc::CLONE_NEWUTS,
            Self::Cgroup => libc::CLONE_NEWCGROUP,
            Self::Time => libc::CLONE_NEWTIME,
        };
        flag.cast_unsigned()
    }

    fn link(self) -> LinkNameSpaceType {
        match self {
            Self::User => LinkNameSpaceType::User,
            Self::Mount => LinkNameSpaceType::Mount,
            Self::Pid => LinkNameSpaceType::ProcessID,
            Self::Net => LinkNameSpaceType::Network,
            Self::Ipc => LinkNameSpaceType::InterProcessCommunication,
            Self::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            Self::Cgroup => LinkNameSpaceType::ControlGroup,
            Self::Time => LinkNameSpaceType::Time,
        }
    }
}

/// A set of kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Namespaces(u32);

impl Namespaces {
    /// No namespace.
    pub const NONE: Self = Self(0);

    /// With `kind` in it.
    #[must_use]
    pub fn with(self, kind: Namespace) -> Self {
        Self(self.0 | kind.bit())
    }

    /// Without `kind`.
    #[must_use]
    pub fn without(self, kind: Namespace) -> Self {
        Self(self.0 & !kind.bit())
    }

    /// Whether `kind` is in it.
    #[must_use]
    pub fn has(self, kind: Namespace) -> bool {
        self.0 & kind.bit() != 0
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn bits(self) -> u64 {
        u64::from(self.0)
    }
}

impl FromIterator<Namespace> for Namespaces {
    fn from_iter<I: IntoIterator<Item = Namespace>>(kinds: I) -> Self {
        kinds.into_iter().fold(Self::NONE, Self::with)
    }
}

/// New namespaces for the calling thread (for its next children where it is PID or time).
pub fn unshare(namespaces: Namespaces) -> Result<(), Errno> {
    // SAFETY: only CLONE_NEW* flags can be in the set; the descriptor table stays shared, which is what
    // makes unshare unsafe otherwise.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::from_bits_retain(namespaces.0)) }
}

/// Joins the namespace that `link` refers to; the kernel checks that it is of `kind`.
pub fn join(link: BorrowedFd<'_>, kind: Namespace) -> Result<(), Errno> {
    move_into_link_name_space(link, Some(kind.link()))
}

/// Joins namespaces of the process of a pidfd in one call (Linux 5.8), its user namespace first.
pub fn join_process(pidfd: BorrowedFd<'_>, namespaces: Namespaces) -> Result<(), Errno> {
    move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::from_bits_retain(namespaces.0))
}
