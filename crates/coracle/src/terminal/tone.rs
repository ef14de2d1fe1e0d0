//! Colours by meaning, and text of strangers made harmless.

use anstyle::{AnsiColor, Style};

/// What a piece of text means. A tone only underlines what the words say already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Tone {
    /// As it stands.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// Well.
    Good,
    /// Costs something, or is on its way.
    Costs,
    /// Broken.
    Bad,
    /// Beside the point.
    Faint,
    /// A name to act on.
    Name,
    /// Part of a picture.
    Picture,
}

impl Tone {
    /// How a terminal shows it. Only the sixteen colours that every palette defines.
    pub(crate) fn style(self) -> Style {
        let colour = |colour: AnsiColor| Style::new().fg_color(Some(colour.into()));
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Good => colour(AnsiColor::Green),
            Self::Costs => colour(AnsiColor::Yellow),
            Self::Bad => colour(AnsiColor::Red).bold(),
            Self::Faint => Style::new().dimmed(),
            Self::Name => Style::new().bold(),
            Self::Picture => colour(AnsiColor::Cyan),
        }
    }
}

/// C0, DEL, C1, and the marks that turn the direction of what follows.
pub(crate) fn moves_terminal(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A document of JSON, which holds such characters in its strings only: there they become escapes.
pub(crate) fn clean_json(document: &str) -> String {
    let mut clean = String::with_capacity(document.len());
    for character in document.chars() {
        if character != '\n' && moves_terminal(character) {
            clean.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            clean.push(character);
        }
    }
    clean
}

/// The text without what would move a cursor or change a terminal: names, labels and messages come
/// from clients and images.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\t' => clean.push(' '),
            c if moves_terminal(c) => clean.extend(c.escape_default()),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_hold_nothing_that_moves_a_terminal_and_mean_the_same() {
        let value = serde_json::json!({"a\u{202e}": "b\u{9b}31m\u{7f}\u{1b}\n"});
        let document = serde_json::to_string_pretty(&value).unwrap();
        let clean = clean_json(&document);
        assert!(!clean.contains(|c| c != '\n' && moves_terminal(c)), "{clean:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&clean).unwrap(), value);
    }
}
