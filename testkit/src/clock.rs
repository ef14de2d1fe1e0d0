//! The wall clock of one process, moved: the machine's own stays as it is.
//!
//! A time namespace has no CLOCK_REALTIME, setting the machine's clock would move everybody's, and a static
//! program loads no library that could lie. But a program asks the kernel's vDSO for the time, a few pages
//! in its own address space, and /proc/PID/mem writes to them: a private copy of the process, and of what it
//! forks from then on. Monotonic clocks go on as before, as they do when an administrator sets the time.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// What programs call through; the C library looks for this name.
const SYMBOL: &[u8] = b"__vdso_clock_gettime";
/// Where the offset stands in [`BODY`], which is aligned so that it is replaced at once.
const OFFSET: usize = 16;
/// Asks the kernel itself and adds an offset in seconds when the clock is CLOCK_REALTIME. As a function of
/// the C ABI: the clock in edi, where to in rsi.
const BODY: [u8; 32] = [
    0xb8, 0xe4, 0, 0, 0, // mov eax, SYS_clock_gettime
    0x0f, 0x05, // syscall
    0x85, 0xff, // test edi, edi
    0x75, 0x10, // jnz end
    0x0f, 0x1f, 0, // nop
    0x48, 0xb9, 0, 0, 0, 0, 0, 0, 0, 0, // mov rcx, offset
    0x48, 0x01, 0x0e, // add [rsi], rcx
    0xc3, // end: ret
    0, 0, 0, 0,
];

/// Moves the wall clock of the process with this /proc directory by so many seconds against the machine's;
/// 0 puts it right. What it forks later inherits that.
///
/// # Errors
/// When the process is gone, or its vDSO is not what this knows (x86-64 only).
pub fn move_by(process: &Path, seconds: i64) -> Result<()> {
    let what = || format!("the vDSO of {}", process.display());
    let (start, end) = vdso(process)?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(process.join("mem"))?;
    let mut image = vec![0; usize::try_from(end - start)?];
    memory.read_exact_at(&mut image, start).with_context(what)?;
    let function = symbol(&image).with_context(what)?;
    // Behind the image the last page is empty.
    let place = image.len() - BODY.len();
    if image[place..].iter().all(|byte| *byte == 0) {
        write(&memory, start + place as u64, &BODY)?;
    }
    write(&memory, start + (place + OFFSET) as u64, &seconds.to_le_bytes())?;
    // Last, and in one piece: a thread that is on its way into the function finds it old or new.
    let mut jump: [u8; 8] = image[function..function + 8].try_into()?;
    let distance = i32::try_from(place)? - i32::try_from(function)? - 5;
    jump[0] = 0xe9;
    jump[1..5].copy_from_slice(&distance.to_le_bytes());
    write(&memory, start + function as u64, &jump)
}

fn write(memory: &File, at: u64, bytes: &[u8]) -> Result<()> {
    memory.write_all_at(bytes, at).context("write to the vDSO")
}

/// Where it is mapped.
fn vdso(process: &Path) -> Result<(u64, u64)> {
    let maps = std::fs::read_to_string(process.join("maps"))?;
    let line = maps.lines().find(|line| line.ends_with("[vdso]"));
    let range = line.and_then(|line| line.split_once(' ')?.0.split_once('-'));
    let (start, end) = range.with_context(|| format!("{} has no vDSO", process.display()))?;
    Ok((u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?))
}

/// The offset of [`SYMBOL`] in the image (elf(5): section headers, symbols of 24 bytes).
fn symbol(image: &[u8]) -> Result<usize> {
    const SYMBOLS: usize = 11;
    let at = |offset: usize, length: usize| -> Result<usize> {
        let bytes = image.get(offset..offset + length).context("it is cut")?;
        let mut number = [0; 8];
        number[..length].copy_from_slice(bytes);
        Ok(usize::try_from(u64::from_le_bytes(number))?)
    };
    ensure!(
        image.starts_with(b"\x7fELF") && at(18, 2)? == 62,
        "it is not an ELF image for x86-64"
    );
    let (headers, size, count) = (at(0x28, 8)?, at(0x3a, 2)?, at(0x3c, 2)?);
    let section = |index: usize| headers + index * size;
    for header in (0..count).map(section) {
        if at(header + 4, 4)? != SYMBOLS {
            continue;
        }
        let (table, length) = (at(header + 24, 8)?, at(header + 32, 8)?);
        let names = at(section(at(header + 40, 4)?) + 24, 8)?;
        for entry in (table..table + length).step_by(24) {
            let name = names + at(entry, 4)?;
            let whole = image.get(name..name + SYMBOL.len() + 1);
            if whole.is_some_and(|name| name.strip_suffix(b"\0") == Some(SYMBOL)) {
                return at(entry + 8, 8);
            }
        }
    }
    anyhow::bail!("it has no {}", String::from_utf8_lossy(SYMBOL))
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_process_has_another_time_and_the_machine_does_not() {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        // The kernel stamps a file with the machine's time.
        let difference = || {
            let file = tempfile::NamedTempFile::new().expect("a file");
            let made = file.as_file().metadata().and_then(|meta| meta.modified());
            seconds(SystemTime::now()).cast_signed() - seconds(made.expect("a time")).cast_signed()
        };
        let monotonic = std::time::Instant::now();
        for hours in [5, -7, 0] {
            move_by(Path::new("/proc/self"), hours * 3600).expect("moved");
            assert!((difference() - hours * 3600).abs() < 60, "{hours} h");
        }
        assert!(monotonic.elapsed().as_secs() < 3600);
    }
}
