//! PAX extended headers (POSIX pax, "pax Extended Header"): `<length> <key>=<value>\n` records, where a
//! value may hold any byte.

use rustix::fs::Timespec;

use super::sparse::PaxSparse;
use crate::extract::ExtractError;
use crate::limits::Limits;

/// What the records of one extended header say that concerns unpacking.
#[derive(Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timespec>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Option<PaxSparse>,
}

impl Pax {
    pub(super) fn parse(entry: &[u8], content: &[u8], limits: &Limits) -> Result<Self, ExtractError> {
        let mut pax = Self::default();
        for record in Records(content) {
            let (key, value) = record.ok_or_else(|| malformed(entry))?;
            pax.take(entry, key, value, limits)?;
        }
        Ok(pax)
    }

    /// A global header describes all entries that follow. Go ignores it, GNU tar obeys it: only one that
    /// changes no entry means the same to both.
    pub(super) fn refuse_global(entry: &[u8], content: &[u8], limits: &Limits) -> Result<(), ExtractError> {
        let global = Self::parse(entry, content, limits)?;
        let changes = global.path.is_some()
            || global.linkpath.is_some()
            || global.size.is_some()
            || global.uid.is_some()
            || global.gid.is_some()
            || global.mtime.is_some()
            || global.sparse.is_some()
            || !global.xattrs.is_empty();
        if changes {
            return Err(ExtractError::refused(
                entry,
                "a global PAX header changes other entries",
            ));
        }
        Ok(())
    }

    fn take(&mut self, entry: &[u8], key: &[u8], value: &[u8], limits: &Limits) -> Result<(), ExtractError> {
        match key {
            b"path" => once(entry, "path", &mut self.path, value.to_vec())?,
            b"linkpath" => once(entry, "linkpath", &mut self.linkpath, value.to_vec())?,
            b"size" => once(entry, "size", &mut self.size, decimal(entry, value)?)?,
            b"uid" => once(entry, "uid", &mut self.uid, decimal(entry, value)?)?,
            b"gid" => once(entry, "gid", &mut self.gid, decimal(entry, value)?)?,
            b"mtime" => once(entry, "mtime", &mut self.mtime, time(entry, value)?)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.take_xattr(entry, name, value, limits)?;
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse
                        .get_or_insert_default()
                        .take(entry, name, value, limits)?;
                }
            }
        }
        Ok(())
    }

    fn take_xattr(
        &mut self,
        entry: &[u8],
        name: &[u8],
        value: &[u8],
        limits: &Limits,
    ) -> Result<(), ExtractError> {
        // 255 bytes is the kernel's XATTR_NAME_MAX.
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err(ExtractError::refused(
                entry,
                "the name of an extended attribute is malformed",
            ));
        }
        if value.len() > limits.xattr_bytes {
            let limit = limits.xattr_bytes as u64;
            return Err(ExtractError::limit(
                entry,
                "bytes in an extended attribute",
                limit,
            ));
        }
        match self.xattrs.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => *known = value.to_vec(),
            None => self.xattrs.push((name.to_vec(), value.to_vec())),
        }
        Ok(())
    }
}

fn malformed(entry: &[u8]) -> ExtractError {
    ExtractError::refused(entry, "its PAX header is malformed")
}

fn once<T>(entry: &[u8], key: &'static str, slot: &mut Option<T>, value: T) -> Result<(), ExtractError> {
    if slot.replace(value).is_some() {
        return Err(ExtractError::refused(
            entry,
            format!("its PAX header has '{key}' twice"),
        ));
    }
    Ok(())
}

/// An unsigned decimal number and nothing else.
pub(super) fn decimal(entry: &[u8], value: &[u8]) -> Result<u64, ExtractError> {
    let digits = value.iter().all(u8::is_ascii_digit) && !value.is_empty();
    digits
        .then(|| std::str::from_utf8(value).ok()?.parse::<u64>().ok())
        .flatten()
        .filter(|number| *number <= i64::MAX as u64)
        .ok_or_else(|| malformed(entry))
}

/// Seconds since the epoch, with a sign and a fraction if need be.
fn time(entry: &[u8], value: &[u8]) -> Result<Timespec, ExtractError> {
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &digits[..0]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(malformed(entry));
    }
    let seconds = i64::try_from(decimal(entry, whole)?).map_err(|_| malformed(entry))?;
    let nanoseconds = (0..9).fold(0_i64, |sum, place| {
        sum * 10 + fraction.get(place).map_or(0, |digit| i64::from(digit - b'0'))
    });
    Ok(match (negative, nanoseconds) {
        (false, _) => Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds,
        },
        (true, 0) => Timespec {
            tv_sec: -seconds,
            tv_nsec: 0,
        },
        (true, _) => Timespec {
            tv_sec: -seconds - 1,
            tv_nsec: 1_000_000_000 - nanoseconds,
        },
    })
}

/// The records of an extended header; `None` where one is malformed, and then no more.
struct Records<'c>(&'c [u8]);

impl<'c> Iterator for Records<'c> {
    type Item = Option<(&'c [u8], &'c [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        // Some writers fill the last block up with zeros inside the declared size.
        if self.0.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.0 = &[];
        }
        Some(record)
    }
}

impl<'c> Records<'c> {
    fn record(&mut self) -> Option<(&'c [u8], &'c [u8])> {
        let space = self.0.iter().take(20).position(|byte| *byte == b' ')?;
        let digits = &self.0[..space];
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        let record = self.0.get(space + 1..length)?;
        let record = record.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        self.0 = &self.0[length..];
        (equals > 0).then(|| (&record[..equals], &record[equals + 1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        let mut bytes = format!("{length} {key}=").into_bytes();
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn a_value_may_hold_newlines_and_zeros() {
        let limits = Limits::default();
        let content = record("SCHILY.xattr.security.capability", b"\x01\n\0=9 x=y\n");
        let pax = Pax::parse(b"e", &content, &limits).expect("well formed");
        assert_eq!(
            pax.xattrs,
            [(b"security.capability".to_vec(), b"\x01\n\0=9 x=y\n".to_vec())]
        );
    }

    #[test]
    fn times_before_the_epoch_round_down() {
        let read = |text: &str| time(b"e", text.as_bytes()).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(read("1.5").ok(), Some((1, 500_000_000)));
        assert_eq!(read("-1.25").ok(), Some((-2, 750_000_000)));
        assert_eq!(read("-3").ok(), Some((-3, 0)));
        assert_eq!(read("7.1234567891").ok(), Some((7, 123_456_789)));
        for bad in ["", "x", "1.x", "99999999999999999999", "--1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn malformed_and_doubled_records_are_refused() {
        let limits = Limits::default();
        let doubled = [record("size", b"1"), record("size", b"2")].concat();
        for bad in [
            &b"5 a=b"[..],
            b"99 a=b\n",
            b"x",
            b"4 =\n",
            b"18446744073709551616 a=b\n",
            b"3 \n",
            &doubled,
        ] {
            assert!(Pax::parse(b"e", bad, &limits).is_err(), "{}", bad.escape_ascii());
        }
    }
}
