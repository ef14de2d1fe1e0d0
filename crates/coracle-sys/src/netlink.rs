//! Socket options of netlink that no safe crate offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks the kernel to say in words what it refused, and not to send refused messages back whole
/// (NETLINK_EXT_ACK, NETLINK_CAP_ACK; Linux 4.12).
///
/// # Errors
/// ENOPROTOOPT when the socket is not a netlink socket or the kernel is older.
pub fn extended_acks(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_flag(socket, libc::NETLINK_EXT_ACK)?;
    set_flag(socket, libc::NETLINK_CAP_ACK)
}

fn set_flag(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value is an int that outlives the call and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
