//! Lines of a CRI log, framed without allocation: `2026-01-02T03:04:05.000000000Z stdout F text`.
//!
//! The format is the kubelet's (pkg/kubelet/kuberuntime/logs): time, stream, `F` for a whole line or its
//! last piece and `P` for a piece that goes on, a space each, the text, a newline.

/// Longest text of one log line; longer lines are written in pieces.
pub(super) const LINE_MAX: usize = 16 * 1024;
/// Bytes before the text: time, stream and tag with their spaces.
const HEAD_MAX: usize = STAMP + " stdout F ".len();
/// `2026-01-02T03:04:05.000000000Z`
const STAMP: usize = 30;
const OUT: usize = 32 * 1024;

/// Where framed lines gather until they are written.
#[derive(Debug)]
pub(super) struct Out {
    bytes: Box<[u8; OUT]>,
    length: usize,
}

impl Default for Out {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; OUT]),
            length: 0,
        }
    }
}

impl Out {
    /// What is to be written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// After it was written.
    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    /// Whether a line of `text` bytes still fits, with its newline.
    fn fits(&self, text: usize) -> bool {
        self.length + HEAD_MAX + text < OUT
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

/// Text of one stream that is not written yet.
#[derive(Debug)]
pub(super) struct Pending {
    stream: &'static [u8],
    text: Box<[u8; LINE_MAX]>,
    length: usize,
    /// The last piece written was a `P`.
    unfinished: bool,
}

impl Pending {
    pub(super) fn new(stream: &'static [u8]) -> Self {
        Self {
            stream,
            text: Box::new([0; LINE_MAX]),
            length: 0,
            unfinished: false,
        }
    }

    pub(super) fn reset(&mut self) {
        self.length = 0;
        self.unfinished = false;
    }

    /// Where the next bytes are read to; never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.text[self.length..]
    }

    /// Takes `count` bytes that were read into [`Pending::room`]: every whole line, and a line that fills the
    /// buffer, goes to `out`; `flush` empties it when it is full.
    pub(super) fn take(
        &mut self,
        count: usize,
        stamp: Stamp,
        out: &mut Out,
        flush: &mut impl FnMut(&mut Out),
    ) {
        let mut begin = 0;
        let mut search = self.length;
        self.length += count;
        while let Some(at) = self.text[search..self.length]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let end = search + at;
            self.emit(begin..end, b'F', stamp, out, flush);
            begin = end + 1;
            search = begin;
        }
        self.text.copy_within(begin..self.length, 0);
        self.length -= begin;
        if self.length == LINE_MAX {
            self.emit(0..LINE_MAX, b'P', stamp, out, flush);
            self.length = 0;
        }
    }

    /// Writes what has no newline: the last piece when the stream has `ended`, else a piece that goes on.
    pub(super) fn finish(
        &mut self,
        ended: bool,
        stamp: Stamp,
        out: &mut Out,
        flush: &mut impl FnMut(&mut Out),
    ) {
        if self.length > 0 || (ended && self.unfinished) {
            self.emit(0..self.length, if ended { b'F' } else { b'P' }, stamp, out, flush);
            self.length = 0;
        }
    }

    fn emit(
        &mut self,
        text: std::ops::Range<usize>,
        tag: u8,
        stamp: Stamp,
        out: &mut Out,
        flush: &mut impl FnMut(&mut Out),
    ) {
        if !out.fits(text.len()) {
            flush(out);
        }
        out.push(&stamp.0);
        out.push(b" ");
        out.push(self.stream);
        out.push(&[b' ', tag, b' ']);
        out.push(&self.text[text]);
        out.push(b"\n");
        self.unfinished = tag == b'P';
    }
}

/// An instant as RFC 3339 with nine digits of fraction, in UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp([u8; STAMP]);

impl Stamp {
    /// From a Unix time; the years 0 to 9999 are told apart.
    pub(super) fn new(seconds: i64, nanos: i64) -> Self {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let mut stamp = Self(*b"0000-00-00T00:00:00.000000000Z");
        for (at, digits, value) in [
            (0, 4, year),
            (5, 2, month),
            (8, 2, day),
            (11, 2, second / 3600),
            (14, 2, second / 60 % 60),
            (17, 2, second % 60),
            (20, 9, nanos),
        ] {
            stamp.number(at, digits, value);
        }
        stamp
    }

    fn number(&mut self, at: usize, digits: usize, mut value: i64) {
        for place in (at..at + digits).rev() {
            self.0[place] = b'0' + u8::try_from(value.rem_euclid(10)).unwrap_or(0);
            value /= 10;
        }
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar: counted from
/// 0000-03-01, so that a leap day is the last of its year, in eras of 400 years (146,097 days).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(stamp: Stamp) -> String {
        String::from_utf8(stamp.0.to_vec()).expect("digits")
    }

    #[test]
    fn instants_are_written_as_the_kubelet_reads_them() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (1_767_323_045, 999_999_999, "2026-01-02T03:04:05.999999999Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
            (-1, 0, "1969-12-31T23:59:59.000000000Z"),
        ] {
            assert_eq!(text(Stamp::new(seconds, nanos)), expected);
        }
    }

    /// Feeds `chunks` and returns tag and text of each line written.
    fn framed(chunks: &[&[u8]], ended: bool) -> Vec<(char, Vec<u8>)> {
        let (mut pending, mut out, mut written) = (Pending::new(b"stdout"), Out::default(), Vec::new());
        let mut flush = |out: &mut Out| {
            written.extend_from_slice(out.bytes());
            out.clear();
        };
        let stamp = Stamp::new(0, 0);
        for chunk in chunks {
            let mut rest = *chunk;
            while !rest.is_empty() {
                let count = pending.room().len().min(rest.len());
                pending.room()[..count].copy_from_slice(&rest[..count]);
                pending.take(count, stamp, &mut out, &mut flush);
                rest = &rest[count..];
            }
        }
        pending.finish(ended, stamp, &mut out, &mut flush);
        flush(&mut out);
        let head = HEAD_MAX;
        let mut lines = Vec::new();
        let mut at = 0;
        while at < written.len() {
            let end = at
                + written[at..]
                    .iter()
                    .position(|byte| *byte == b'\n')
                    .expect("a newline");
            lines.push((
                char::from(written[at + head - 2]),
                written[at + head..end].to_vec(),
            ));
            at = end + 1;
        }
        lines
    }

    #[test]
    fn lines_and_their_pieces_are_tagged() {
        assert_eq!(
            framed(&[b"one\n\ntw", b"o\nthree"], true),
            [
                ('F', b"one".to_vec()),
                ('F', vec![]),
                ('F', b"two".to_vec()),
                ('F', b"three".to_vec())
            ]
        );
        assert_eq!(framed(&[b"going on"], false), [('P', b"going on".to_vec())]);
        assert!(framed(&[b""], true).is_empty());
    }

    #[test]
    fn a_long_line_is_written_in_pieces_that_add_up() {
        for extra in [0, 1, 100] {
            let mut long = vec![b'x'; 3 * LINE_MAX + extra];
            long.push(b'\n');
            let lines = framed(&[&long], true);
            let (last, pieces) = lines.split_last().expect("lines");
            assert!(
                pieces
                    .iter()
                    .all(|(tag, piece)| *tag == 'P' && piece.len() == LINE_MAX)
            );
            assert_eq!(last.0, 'F');
            let sum: usize = lines.iter().map(|(_, piece)| piece.len()).sum();
            assert_eq!(sum, long.len() - 1, "extra {extra}");
        }
    }

    #[test]
    fn a_flood_of_empty_lines_fits() {
        assert_eq!(framed(&[&[b'\n'; 5000]], true).len(), 5000);
    }
}
