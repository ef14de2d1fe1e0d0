//! The fields of a header block, read strictly: what is no number is refused, not guessed.

use rustix::fs::Timespec;
use tar::Header;

use crate::extract::ExtractError;

/// Sum of the block with its checksum field as spaces; old archives summed signed bytes.
pub(super) fn checksum_is_right(header: &Header) -> bool {
    let Some(stored) = number(&header.as_old().cksum) else {
        return false;
    };
    let (mut unsigned, mut signed) = (0_i128, 0_i128);
    for (at, byte) in header.as_bytes().iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { *byte };
        unsigned += i128::from(byte);
        signed += i128::from(byte as i8);
    }
    stored == unsigned || stored == signed
}

/// An octal field (blank is 0) or, with the first bit set, a signed big-endian one (GNU, star).
pub(super) fn number(field: &[u8]) -> Option<i128> {
    let first = *field.first()?;
    if first & 0x80 != 0 {
        // Bit 7 marks the form, bit 6 is the sign.
        let mut value = if first & 0x40 != 0 { -1_i128 } else { 0 };
        value = value << 6 | i128::from(first & 0x3f);
        for byte in &field[1..] {
            value = value << 8 | i128::from(*byte);
        }
        return Some(value);
    }
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    let digits = field[..end].trim_ascii();
    let mut value = 0_i128;
    for digit in digits {
        if !(b'0'..=b'7').contains(digit) {
            return None;
        }
        value = value << 3 | i128::from(digit - b'0');
    }
    Some(value)
}

/// The size field of a header block.
pub(super) fn size(header: &Header) -> Result<u64, ExtractError> {
    number(&header.as_old().size)
        .and_then(|size| u64::try_from(size).ok())
        .filter(|size| *size <= i64::MAX as u64)
        .ok_or_else(|| ExtractError::refused(&header.path_bytes(), "its size is no number of bytes"))
}

/// The size that counts. A PAX record overrides the block's field, as in GNU tar, libarchive and Go; a
/// field that holds another number than that is read differently by others.
pub(super) fn data_size(header: &Header, path: &[u8], pax: Option<u64>) -> Result<u64, ExtractError> {
    let field = size(header)?;
    match pax {
        Some(pax) if field != 0 && field != pax => Err(ExtractError::refused(
            path,
            format!("its header gives {field} bytes, its PAX record {pax}"),
        )),
        Some(pax) => Ok(pax),
        None => Ok(field),
    }
}

pub(super) fn mode(header: &Header, path: &[u8]) -> Result<u32, ExtractError> {
    number(&header.as_old().mode)
        .and_then(|mode| u32::try_from(mode).ok())
        .map(|mode| mode & 0o7777)
        .ok_or_else(|| ExtractError::refused(path, "its mode is no octal number"))
}

/// A user or group id. 4294967295 is "no change" to chown(2) and never an owner.
pub(super) fn id(
    path: &[u8],
    pax: Option<u64>,
    field: &[u8],
    what: &'static str,
) -> Result<u32, ExtractError> {
    let value = pax.map(i128::from).or_else(|| number(field));
    value
        .and_then(|value| u32::try_from(value).ok())
        .filter(|value| *value != u32::MAX)
        .ok_or_else(|| {
            let shown = value.map_or_else(|| "no number".to_owned(), |value| value.to_string());
            ExtractError::refused(
                path,
                format!("its {what} is {shown}, not an id from 0 to 4294967294"),
            )
        })
}

pub(super) fn mtime(header: &Header, path: &[u8]) -> Result<Timespec, ExtractError> {
    number(&header.as_old().mtime)
        .and_then(|seconds| i64::try_from(seconds).ok())
        .map(|seconds| Timespec {
            tv_sec: seconds,
            tv_nsec: 0,
        })
        .ok_or_else(|| ExtractError::refused(path, "its modification time is out of range"))
}

/// Major and minor number, as wide as Linux has them.
pub(super) fn device(header: &Header, path: &[u8]) -> Result<(u32, u32), ExtractError> {
    let fields = header
        .as_ustar()
        .map(|ustar| (&ustar.dev_major, &ustar.dev_minor))
        .or_else(|| header.as_gnu().map(|gnu| (&gnu.dev_major, &gnu.dev_minor)));
    let part = |field: &[u8], most: i128| {
        number(field)
            .filter(|value| (0..=most).contains(value))
            .and_then(|value| u32::try_from(value).ok())
    };
    fields
        .and_then(|(major, minor)| Some((part(major, 0xfff)?, part(minor, 0xf_ffff)?)))
        .ok_or_else(|| ExtractError::refused(path, "its device number is none of Linux"))
}

/// GNU long names end at their first zero byte.
pub(super) fn until_nul(mut name: Vec<u8>) -> Vec<u8> {
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_octal_or_signed_binary() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0"), Some(0));
        assert_eq!(number(b"0000648\0"), None);
        assert_eq!(number(b"-1\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff, 0xff, 0xff, 0xfe]), Some(-2));
    }
}
