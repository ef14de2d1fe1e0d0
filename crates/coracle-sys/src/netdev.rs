//! The loopback device of the calling thread's network namespace.

use std::os::fd::AsRawFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::fork::last_errno;

/// Brings `lo` up; the kernel then gives it 127.0.0.1/8 and ::1/128.
///
/// # Errors
/// What socket(2) or the two ioctls say.
pub fn loopback_up() -> Result<(), Errno> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an ifreq of zeros is valid: an empty name and a number.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: both calls take a whole ifreq with a terminated name; the flags are the union's valid member
    // after SIOCGIFFLAGS.
    let result = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request) == 0 {
            #[allow(clippy::cast_possible_truncation, reason = "IFF_UP is 1")]
            {
                request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
            }
            libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw mut request)
        } else {
            -1
        }
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}
