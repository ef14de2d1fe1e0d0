//! Words of images, registries and parsers, made fit for a message.

/// The beginning, for a message that quotes it.
pub(crate) fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// The beginning on one line, whatever it holds, for a message that does not quote it.
pub(crate) fn one_line(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c });
    shown.take(most).collect()
}
