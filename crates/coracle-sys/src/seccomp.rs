//! seccomp(2): installs a filter that was compiled elsewhere.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::fork::last_errno;

/// A classic BPF program of seccomp, checked to be whole instructions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    instructions: Vec<libc_filter::Instruction>,
}

mod libc_filter {
    //! One instruction as the kernel lays it out, comparable unlike libc's.

    /// `struct sock_filter` of linux/filter.h.
    #[repr(C)]
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Instruction {
        pub(super) code: u16,
        pub(super) jt: u8,
        pub(super) jf: u8,
        pub(super) k: u32,
    }
}

impl Filter {
    /// From the bytes that libseccomp exports; `None` when they are no whole instructions or more than the
    /// kernel takes (4096).
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (chunks, rest) = bytes.as_chunks::<8>();
        if !rest.is_empty() || chunks.is_empty() || chunks.len() > 4096 {
            return None;
        }
        let instructions = chunks
            .iter()
            .map(|[c0, c1, jt, jf, k0, k1, k2, k3]| libc_filter::Instruction {
                code: u16::from_ne_bytes([*c0, *c1]),
                jt: *jt,
                jf: *jf,
                k: u32::from_ne_bytes([*k0, *k1, *k2, *k3]),
            })
            .collect();
        Some(Self { instructions })
    }

    /// How many instructions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instructions.len()
    }

    /// Whether it has none; it never has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instructions.is_empty()
    }
}

/// Flags of a filter (linux/seccomp.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u32);

impl Flags {
    /// None.
    pub const NONE: Self = Self(0);
    /// All threads get the filter.
    pub const TSYNC: Self = Self(1);
    /// Actions except allow are logged.
    pub const LOG: Self = Self(1 << 1);
    /// No mitigation of speculative store bypass.
    pub const SPEC_ALLOW: Self = Self(1 << 2);
    /// The caller gets a descriptor on which it is asked.
    pub const NEW_LISTENER: Self = Self(1 << 3);
    /// A call that was received is only interrupted by a fatal signal.
    pub const WAIT_KILLABLE_RECV: Self = Self(1 << 5);

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are in it.
    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Installs `filter` on the calling thread; with [`Flags::NEW_LISTENER`] returns the listener.
///
/// # Errors
/// `EACCES` without no_new_privs and CAP_SYS_ADMIN, `EINVAL` for a flag the kernel does not know.
pub fn install(filter: &Filter, flags: Flags) -> Result<Option<OwnedFd>, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.instructions.len()).map_err(|_| Errno::TOOBIG)?,
        filter: filter.instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program` describes `len` whole instructions that live over the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags.0,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(last_errno());
    }
    if !flags.has(Flags::NEW_LISTENER) {
        return Ok(None);
    }
    let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: with this flag the kernel returns a new descriptor that nobody else owns.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
