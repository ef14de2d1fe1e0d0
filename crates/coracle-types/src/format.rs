//! Formats of files that outlive the program which wrote them: a number that says who can read it.
//!
//! Files gain fields, which older programs pass over; that changes no number. The number goes up when an older
//! program would misread what is there, so that it says so instead and leaves the file as it is.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The field `format` of a file whose newest format that this program can read is `KNOWN`, which is also what
/// it writes. It comes first in its struct: what a newer program wrote behind it may be anything. Files of
/// before the field was there have format 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Format<const KNOWN: u32>;

impl<const KNOWN: u32> Serialize for Format<KNOWN> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(KNOWN)
    }
}

impl<'de, const KNOWN: u32> Deserialize<'de> for Format<KNOWN> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = u32::deserialize(deserializer)?;
        if found > KNOWN {
            return Err(D::Error::custom(Newer { found, known: KNOWN }));
        }
        Ok(Self)
    }
}

/// A file is of a newer program than this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has format {found} and this program knows {known}: run the program that wrote it again; the file is left as it is"
)]
pub struct Newer {
    /// The file's format.
    pub found: u32,
    /// The newest that this program can read.
    pub known: u32,
}

impl Newer {
    /// Whether the JSON object `text` says that it is newer than `known`, whatever else is in it.
    ///
    /// # Errors
    /// It is.
    pub fn check(text: &[u8], known: u32) -> Result<(), Self> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        match serde_json::from_slice(text) {
            Ok(Head { format: found }) if found > known => Err(Self { found, known }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct File {
        #[serde(default)]
        format: Format<2>,
        name: String,
    }

    fn read(text: &str) -> Result<File, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn older_files_are_read_and_newer_ones_are_refused_in_words() {
        for text in [
            r#"{"name":"a"}"#,
            r#"{"format":1,"name":"a"}"#,
            r#"{"format":2,"name":"a","more":1}"#,
        ] {
            assert!(read(text).is_ok(), "{text}");
            assert_eq!(Newer::check(text.as_bytes(), 2), Ok(()));
        }
        // What the rest means now is not this program's to judge.
        let newer = r#"{"format":3,"name":["a","b"]}"#;
        let words = read(newer).expect_err("newer");
        assert!(words.contains("format 3") && words.contains("knows 2"), "{words}");
        assert_eq!(
            Newer::check(newer.as_bytes(), 2),
            Err(Newer { found: 3, known: 2 })
        );
        let damaged = r#"{"format":3,"na"#;
        assert_eq!(Newer::check(damaged.as_bytes(), 2), Ok(()));
    }

    #[test]
    fn what_is_written_says_its_format_first() {
        let file = File {
            format: Format,
            name: "a".into(),
        };
        let text = serde_json::to_string(&file).expect("JSON");
        assert_eq!(text, r#"{"format":2,"name":"a"}"#);
        assert_eq!(read(&text), Ok(file));
    }
}
