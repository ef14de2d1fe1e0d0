//! A page that parent and children see alike: where a child writes how far it came.

use std::sync::atomic::AtomicU64;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Words in the page.
pub const WORDS: usize = 512;

/// One page of zeros, shared with every child made after it.
#[derive(Debug)]
pub struct SharedPage {
    address: *mut libc::c_void,
}

// SAFETY: the page is only reached as atomics.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    /// A new one.
    pub fn new() -> Result<Self, Errno> {
        // SAFETY: an anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                WORDS * 8,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
            )
        }?;
        Ok(Self { address })
    }

    /// Its words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the mapping is as long, page-aligned and lives until `self` is dropped.
        unsafe { &*self.address.cast() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and no reference outlives `self`.
        let _ = unsafe { munmap(self.address, WORDS * 8) };
    }
}
