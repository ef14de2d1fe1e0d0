//! Replacing the file behind a descriptor that another thread is using.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// Makes `shared` refer to the file of `new`, in one step: a write by another thread goes to the old
/// file or to the new one, never to neither. `new` is consumed; the result is close-on-exec.
///
/// # Errors
/// What dup3(2) answers.
pub fn replace_descriptor(shared: &OwnedFd, new: OwnedFd) -> io::Result<()> {
    let shared = shared.as_fd();
    // SAFETY: both descriptors are open for the call. The number of `shared` stays owned by its
    // `OwnedFd`; only the file behind it changes, as it does under dup2(2) of a `&mut OwnedFd`.
    let done = unsafe { libc::dup3(new.as_raw_fd(), shared.as_raw_fd(), libc::O_CLOEXEC) };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_is_written_after_the_swap_is_in_the_new_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        let shared: OwnedFd = std::fs::File::create(&old).expect("old").into();
        replace_descriptor(&shared, std::fs::File::create(&new).expect("new").into()).expect("swap");
        std::fs::File::from(shared).write_all(b"x").expect("write");
        let mut text = String::new();
        std::fs::File::open(&new)
            .expect("open")
            .read_to_string(&mut text)
            .expect("read");
        assert_eq!(text, "x");
        assert_eq!(std::fs::metadata(&old).expect("old").len(), 0);
    }
}
