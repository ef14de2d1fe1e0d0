//! Why the kernel does not execute a file: what the file says that it needs.

use std::ffi::CStr;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// As much of a file as tells: the kernel itself reads 256 bytes, program headers lie a little further.
const HEAD: usize = 4096;
/// Longest name that is told.
const NAME_MAX: usize = 200;
/// The machine that this program is for (elf(5), `e_machine`), and how it is called.
const OWN: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// What can be told of a file that could not be executed, for an error's text; empty when nothing can.
pub(crate) fn describe(path: &CStr) -> String {
    head(path).map_or(String::new(), |head| describe_head(&head))
}

/// Nothing that blocks is waited for, and what the user may not read stays unread.
fn head(path: &CStr) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty()).ok()?;
    if FileType::from_raw_mode(fstat(&file).ok()?.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut head = vec![0; HEAD];
    let length = rustix::io::read(&file, &mut head).ok()?;
    head.truncate(length);
    Some(head)
}

fn describe_head(head: &[u8]) -> String {
    if head.is_empty() {
        return "the file is empty".to_owned();
    }
    if let Some(line) = head.strip_prefix(b"#!") {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let rest = &line[line.iter().take_while(|byte| blank(byte)).count()..];
        let end = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | 0);
        return format!("its `#!` line names {:?}", name(rest.split(end).next()));
    }
    if !head.starts_with(b"\x7fELF") {
        return String::new();
    }
    let machine = half(head, 18).unwrap_or(OWN);
    if machine != OWN {
        return format!(
            "it is an ELF program for {}, this machine is {}",
            machine_name(machine),
            machine_name(OWN)
        );
    }
    match interpreter(head) {
        Some(bytes) => format!("its dynamic loader is {:?}", name(Some(bytes))),
        None => String::new(),
    }
}

fn name(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default())
        .chars()
        .take(NAME_MAX)
        .collect()
}

/// The name in the segment PT_INTERP of a 64-bit file.
fn interpreter(head: &[u8]) -> Option<&[u8]> {
    const PT_INTERP: u64 = 3;
    let headers = usize::try_from(number(head, 32, 8)?).ok()?;
    let (size, count) = (usize::from(half(head, 54)?), usize::from(half(head, 56)?));
    let mut places = (0..count).map(|index| headers.saturating_add(index * size));
    let header = places.find(|place| number(head, *place, 4) == Some(PT_INTERP))?;
    let start = usize::try_from(number(head, header.checked_add(8)?, 8)?).ok()?;
    head.get(start..)?.split(|byte| *byte == 0).next()
}

/// Of a file's own byte order, which byte 5 tells.
fn number(head: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = head.get(at..at.checked_add(length)?)?;
    let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    Some(if head.get(5) == Some(&2) {
        bytes.iter().fold(0, join)
    } else {
        bytes.iter().rev().fold(0, join)
    })
}

fn half(head: &[u8], at: usize) -> Option<u16> {
    u16::try_from(number(head, at, 2)?).ok()
}

/// As images' platforms and uname(2) call them.
fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "i386",
        8 => "mips",
        20 => "ppc",
        21 => "ppc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv",
        258 => "loongarch",
        other => return format!("machine {other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_needs_is_told() {
        for (head, told) in [
            (&b""[..], "the file is empty"),
            (b"#!/bin/none -e\necho", "its `#!` line names \"/bin/none\""),
            (b"#! \t/x", "its `#!` line names \"/x\""),
            (b"#!", "its `#!` line names \"\""),
            (b"text", ""),
            (b"\x7fELF", ""),
        ] {
            assert_eq!(describe_head(head), told);
        }
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x02");
        elf[18..20].copy_from_slice(&22_u16.to_be_bytes());
        let told = describe_head(&elf);
        assert!(told.contains("for s390x"), "{told}");
    }

    #[test]
    fn hostile_headers_are_survived() {
        let mut elf = vec![0xff; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18..20].copy_from_slice(&OWN.to_le_bytes());
        assert_eq!(describe_head(&elf), "");
        elf[32..40].copy_from_slice(&8_u64.to_le_bytes());
        assert_eq!(describe_head(&elf), "");
    }
}
