//! bpf(2), as far as device programs of cgroups need it.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use crate::fork::last_errno;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// One instruction (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Operation.
    pub code: u8,
    /// Destination register in the low, source in the high half.
    pub registers: u8,
    /// Distance of a jump or an access.
    pub offset: i16,
    /// Constant.
    pub immediate: i32,
}

/// Room for the parts of `union bpf_attr` used here; what follows them is zero, as the kernel wants it.
#[repr(C, align(8))]
struct Attr {
    words: [u32; 32],
}

impl Attr {
    fn new() -> Self {
        Self { words: [0; 32] }
    }

    fn pointer(&mut self, word: usize, address: usize) {
        let address = address as u64;
        self.words[word] = (address & 0xffff_ffff) as u32;
        self.words[word + 1] = (address >> 32) as u32;
    }
}

fn bpf(command: libc::c_int, attr: &mut Attr) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is 128 bytes as said; the pointers in it are set by the callers to memory that lives
    // over the call and is as long as the attributes say.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<Attr>()) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = i32::try_from(result).map_err(|_| Errno::BADF)?;
    // SAFETY: the commands whose result is passed here return a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(clippy::cast_sign_loss, reason = "open descriptors are not negative")]
fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Loads a program that decides on the use of devices (Linux 4.15).
///
/// # Errors
/// `EACCES` or `EINVAL` when the verifier refuses it.
pub fn load_device_program(instructions: &[Instruction]) -> Result<OwnedFd, Errno> {
    let licence = c"Apache-2.0";
    let mut attr = Attr::new();
    attr.words[0] = TYPE_CGROUP_DEVICE;
    attr.words[1] = u32::try_from(instructions.len()).map_err(|_| Errno::TOOBIG)?;
    attr.pointer(2, instructions.as_ptr() as usize);
    attr.pointer(4, licence.as_ptr() as usize);
    owned(bpf(PROG_LOAD, &mut attr)?)
}

/// Attaches a device program to a cgroup v2 directory, beside others.
///
/// # Errors
/// `EINVAL` when the kernel has no CONFIG_CGROUP_BPF.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut attr = Attr::new();
    attr.words[0] = number(cgroup);
    attr.words[1] = number(program);
    attr.words[2] = ATTACH_CGROUP_DEVICE;
    attr.words[3] = ALLOW_MULTI;
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

/// Attaches `program` and takes away every device program that was attached to the cgroup before, so that
/// the rules are replaced with no instant in between in which none hold.
///
/// # Errors
/// As [`attach_device_program`].
pub fn replace_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> Result<(), Errno> {
    let before = device_programs(cgroup)?;
    attach_device_program(cgroup, program)?;
    for id in before {
        let mut by_id = Attr::new();
        by_id.words[0] = id;
        let old = match bpf(PROG_GET_FD_BY_ID, &mut by_id).and_then(owned) {
            Ok(old) => old,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let mut attr = Attr::new();
        attr.words[0] = number(cgroup);
        attr.words[1] = {
            use std::os::fd::AsFd as _;
            number(old.as_fd())
        };
        attr.words[2] = ATTACH_CGROUP_DEVICE;
        bpf(PROG_DETACH, &mut attr)?;
    }
    Ok(())
}

/// Ids of the device programs attached to a cgroup, 64 at most.
///
/// # Errors
/// `ENOSPC` when there are more.
pub fn device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    let mut ids = [0_u32; 64];
    let mut attr = Attr::new();
    attr.words[0] = number(cgroup);
    attr.words[1] = ATTACH_CGROUP_DEVICE;
    attr.pointer(4, ids.as_mut_ptr() as usize);
    attr.words[6] = 64;
    bpf(PROG_QUERY, &mut attr)?;
    let count = usize::try_from(attr.words[6]).unwrap_or(0).min(ids.len());
    Ok(ids[..count].to_vec())
}
