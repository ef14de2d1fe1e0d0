//! sync_file_range(2): lets the disk begin to write before anybody waits for it.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// Begins to write a part of a file out, `length` bytes from `offset`. Waits for nothing and promises
/// nothing: durable the bytes are after fdatasync(2). A file system that cannot do this is no error.
///
/// # Errors
/// What the kernel says of an earlier write error.
pub fn begin(file: impl AsFd, offset: u64, length: u64) -> Result<()> {
    let (offset, length) = (
        i64::try_from(offset).map_err(|_| Errno::INVAL)?,
        i64::try_from(length).map_err(|_| Errno::INVAL)?,
    );
    // SAFETY: takes no memory; the descriptor is open for the call.
    let result = unsafe {
        libc::sync_file_range(
            file.as_fd().as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        )
    };
    if result == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        Some(Errno::SPIPE | Errno::INVAL | Errno::NOSYS) => Ok(()),
        Some(errno) => Err(errno),
        None => Err(Errno::IO),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_cannot_be_written_ahead_is_no_error() {
        let file = tempfile_like();
        super::begin(&file, 0, 4096).expect("nothing to write");
        super::begin(std::io::stdin(), 0, 4096).expect("pipes and terminals are passed over");
    }

    fn tempfile_like() -> std::fs::File {
        std::fs::File::open("/proc/self/exe").expect("this program")
    }
}
