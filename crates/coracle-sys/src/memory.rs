//! Memory that is given back: what the allocator keeps free, and pages of the program that were used once.

use std::ffi::{c_int, c_void};
use std::ptr;

/// Lets all threads allocate from at most so many arenas. glibc makes up to eight a core, one for each thread
/// that comes and goes, and what was freed in one serves no other.
///
/// Counts for arenas that are made from now on, so it is called before threads are.
pub fn limit_arenas(most: u16) {
    // SAFETY: mallopt(3) changes a number of the allocator's; any value is allowed.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, c_int::from(most)) };
}

/// Gives back what the allocator keeps free, and unmaps the program's own text and constants: what is used again
/// is mapped again from the page cache, sixteen pages at a time, and what only a start needs is not. The kernel
/// may then drop those pages without asking who has them mapped.
pub fn give_back() {
    // SAFETY: malloc_trim(3) may be called at any time; it locks the arenas itself.
    unsafe { libc::malloc_trim(0) };
    // SAFETY: the callback keeps nothing of what it is given, and the pointer it gets is not used.
    unsafe { libc::dl_iterate_phdr(Some(unmap_first), ptr::null_mut()) };
}

/// How many pages were mapped so far without reading a disk: grows with what is touched anew.
#[must_use]
pub fn faults() -> u64 {
    // SAFETY: an all-zero rusage is a value of it: it has numbers only.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage(2) writes to the rusage it is given, which lives long enough.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    u64::try_from(usage.ru_minflt).unwrap_or(0)
}

/// Called for each object of the process; the first is the program, and of a static one the only.
unsafe extern "C" fn unmap_first(info: *mut libc::dl_phdr_info, _: usize, _: *mut c_void) -> c_int {
    // SAFETY: sysconf(3) reads a number, which there always is for the page.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    let Ok(page) = usize::try_from(page) else {
        return 1;
    };
    // SAFETY: dl_iterate_phdr(3) gives a pointer that is valid for the time of the call, and in it as many
    // program headers as it says.
    let (base, headers) = unsafe {
        let info = &*info;
        let headers = std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum));
        (info.dlpi_addr, headers)
    };
    for header in headers {
        // Only what was never writable is as it is in the file: what the start relocated is in other segments.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        // Whole pages only; those at the ends may be shared with another segment.
        let begin = (base + header.p_vaddr) as usize;
        let end = begin + header.p_filesz as usize;
        let (begin, end) = (begin.next_multiple_of(page), end - end % page);
        if begin < end {
            // SAFETY: these pages map a file privately and nobody ever wrote to them, so what is read from them
            // after they are unmapped is the same as before (madvise(2), MADV_DONTNEED). That a refusal is
            // passed over costs memory only.
            unsafe { libc::madvise(begin as *mut c_void, end - begin, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_files() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        line.unwrap().trim_end_matches("kB").trim().parse().unwrap()
    }

    #[test]
    fn pages_of_the_program_go_and_come_again() {
        limit_arenas(2);
        // Touches all of the program, so that there is something to give back.
        let program = std::fs::read_to_string("/proc/self/maps").unwrap();
        let text = program.lines().find(|line| line.contains(" r-xp ")).unwrap();
        let (begin, end) = text.split(' ').next().unwrap().split_once('-').unwrap();
        let address = |text: &str| usize::from_str_radix(text, 16).unwrap();
        let mut sum = 0_u64;
        for place in (address(begin)..address(end)).step_by(4096) {
            // SAFETY: the kernel says that these pages are mapped for reading.
            sum += u64::from(unsafe { ptr::read_volatile(place as *const u8) });
        }
        assert!(faults() > 0);
        let before = of_files();
        give_back();
        let after = of_files();
        assert!(after < before, "{before} kB before, {after} kB after ({sum})");
    }
}
