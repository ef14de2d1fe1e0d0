//! The end of an order's output: a line with the run's token and the exit status, which people do not see.

/// Splits a stream into what is shown and the exit status behind the token.
#[derive(Debug)]
pub(super) struct Trailer {
    token: Vec<u8>,
    held: Vec<u8>,
}

impl Trailer {
    pub(super) fn new(token: &str) -> Self {
        Self {
            token: format!("{token} ").into_bytes(),
            held: Vec::new(),
        }
    }

    /// Takes what has come; gives what may be shown, and the exit status once it is there.
    pub(super) fn take(&mut self, bytes: &[u8]) -> (Vec<u8>, Option<u8>) {
        self.held.extend_from_slice(bytes);
        let found = self
            .held
            .windows(self.token.len())
            .position(|part| part == self.token);
        let Some(place) = found else {
            let keep = self.beginning();
            return (self.held.drain(..self.held.len() - keep).collect(), None);
        };
        let digits = &self.held[place + self.token.len()..];
        let Some(end) = digits.iter().position(|byte| *byte == b'\n') else {
            return (self.held.drain(..place).collect(), None);
        };
        // A status that is none can only come from a guest gone mad.
        let text = String::from_utf8_lossy(&digits[..end]);
        let code = text.trim().parse().unwrap_or(u8::MAX);
        let shown = self.held[..place].to_vec();
        self.held.clear();
        (shown, Some(code))
    }

    /// How much at the end may be the token's beginning.
    fn beginning(&self) -> usize {
        (1..self.token.len().min(self.held.len() + 1))
            .rev()
            .find(|length| self.held.ends_with(&self.token[..*length]))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_shown_and_the_status_is_not_wherever_the_stream_is_cut() {
        let whole = b"one\ntoktok two\ntoken 42\n";
        for cut in 0..whole.len() {
            for second in cut..whole.len() {
                let mut trailer = Trailer::new("token");
                let (mut shown, mut status) = (Vec::new(), None);
                for part in [&whole[..cut], &whole[cut..second], &whole[second..]] {
                    let (text, code) = trailer.take(part);
                    shown.extend(text);
                    status = status.or(code);
                }
                assert_eq!(shown, b"one\ntoktok two\n", "{cut} {second}");
                assert_eq!(status, Some(42), "{cut} {second}");
            }
        }
    }

    #[test]
    fn nothing_is_held_back_without_a_reason() {
        let mut trailer = Trailer::new("token");
        assert_eq!(trailer.take(b"a prompt> "), (b"a prompt> ".to_vec(), None));
        assert_eq!(trailer.take(b"t"), (Vec::new(), None));
        assert_eq!(trailer.take(b"wo"), (b"two".to_vec(), None));
    }
}
