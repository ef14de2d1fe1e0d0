//! What `ps` shows for a process that was forked without exec.

use std::io;

/// Writes `title` over the arguments of the process (cut to their room) and the first 15 bytes over its
/// name. Read the arguments before: afterwards they are gone.
///
/// # Errors
/// When `/proc/self/stat` cannot be read or understood.
pub fn set(title: &str) -> io::Result<()> {
    let name: Vec<u8> = title.bytes().filter(|byte| *byte != 0).take(15).collect();
    let name = std::ffi::CString::new(name).unwrap_or_default();
    rustix::thread::set_name(&name)?;
    let (start, end) = argument_area()?;
    let room = end.saturating_sub(start);
    if room == 0 {
        return Ok(());
    }
    let length = title.len().min(room - 1);
    // SAFETY: the kernel says that the arguments lie from `start` to `end`; the area is writable (it is
    // part of the first stack), nobody reads it at this time, and the last byte stays NUL.
    unsafe {
        let area = start as *mut u8;
        std::ptr::write_bytes(area, 0, room);
        std::ptr::copy_nonoverlapping(title.as_ptr(), area, length);
    }
    Ok(())
}

/// Fields 48 and 49 of proc_pid_stat(5).
fn argument_area() -> io::Result<(usize, usize)> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "/proc/self/stat is not as documented");
    let after_name = stat.rsplit_once(')').ok_or_else(malformed)?.1;
    let mut fields = after_name.split_ascii_whitespace().skip(48 - 3);
    let mut number = || {
        fields
            .next()
            .and_then(|field| field.parse().ok())
            .ok_or_else(malformed)
    };
    Ok((number()?, number()?))
}
