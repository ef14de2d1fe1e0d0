//! execve(2) with arguments prepared beforehand.

use std::ffi::{CStr, CString, NulError};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::fork::last_errno;

/// Strings and the null-terminated array of pointers to them that exec wants.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl StringArray {
    /// From strings that own their bytes.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|text| text.as_ptr())
            .chain(std::iter::once(std::ptr::null()))
            .collect();
        Self { strings, pointers }
    }

    /// From text, refusing NUL bytes.
    pub fn from_text<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NulError> {
        Ok(Self::new(
            texts.into_iter().map(CString::new).collect::<Result<_, _>>()?,
        ))
    }

    /// The strings.
    #[must_use]
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces the program by the one at `path`; returns only when that failed.
#[must_use]
pub fn exec(path: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: both arrays end with a null pointer and point to strings that live as long as they do.
    unsafe {
        libc::execve(
            path.as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
        )
    };
    last_errno()
}

/// Replaces the program by the file of a descriptor; returns only when that failed. A script needs the
/// descriptor to stay open over the exec.
#[must_use]
pub fn exec_fd(file: BorrowedFd<'_>, arguments: &StringArray, environment: &StringArray) -> Errno {
    // SAFETY: as in `exec`; the path is empty as AT_EMPTY_PATH wants it.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}
