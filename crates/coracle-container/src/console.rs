//! Terminals of a container, made in its own devpts and handed over by descriptor (class CVE-2025-52565).

use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::process_io::ConsoleSize;

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
