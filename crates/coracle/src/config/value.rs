//! A value as somebody wrote it, in TOML or as plain text, and the trait of what can be read from it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::json;
use toml::de::DeValue;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Whole(i64),
    /// A TOML boolean.
    Flag(bool),
    /// A TOML array.
    List(Vec<Value>),
    /// A TOML table; never printed, since those that there are hold secrets.
    Table(BTreeMap<String, Value>),
    /// Anything else that TOML has: what it is called and how it was written.
    Other(&'static str, String),
    /// From a command line or the environment, where everything is text.
    Word(String),
}

impl Value {
    /// From TOML.
    pub(super) fn of_toml(value: &DeValue<'_>) -> Self {
        match value {
            DeValue::String(text) => Self::Text(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                .map_or_else(|_| Self::Other("integer", number.to_string()), Self::Whole),
            DeValue::Boolean(flag) => Self::Flag(*flag),
            DeValue::Array(values) => Self::List(
                values
                    .iter()
                    .map(|value| Self::of_toml(value.get_ref()))
                    .collect(),
            ),
            DeValue::Float(number) => Self::Other("float", number.to_string()),
            DeValue::Datetime(time) => Self::Other("date", time.to_string()),
            DeValue::Table(table) => Self::Table(
                table
                    .iter()
                    .map(|(name, value)| (name.get_ref().to_string(), Self::of_toml(value.get_ref())))
                    .collect(),
            ),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) | Self::Word(text) => f.write_str(&quoted(text)),
            Self::Whole(number) => number.fmt(f),
            Self::Flag(flag) => flag.fmt(f),
            Self::List(values) => f.debug_list().entries(values.iter().map(ByDisplay)).finish(),
            Self::Table(_) => f.write_str("a table"),
            Self::Other(_, text) => f.write_str(text),
        }
    }
}

struct ByDisplay<'a>(&'a Value);

impl fmt::Debug for ByDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)
    }
}

/// A string as TOML writes it.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A type of the configuration: how it is read, written and described.
pub(crate) trait Setting: Sized {
    /// What it is, in a few words for people: `a path`, `true or false`.
    const WHAT: &'static str;

    /// Whether a value may hold a secret; then no message repeats it, and `write` leaves it out.
    const SECRET: bool = false;

    /// The same, of whatever it is made.
    fn what() -> String {
        Self::WHAT.to_owned()
    }

    /// Reads it.
    ///
    /// # Errors
    /// A sentence that says how to write it.
    fn read(value: &Value) -> Result<Self, String>;

    /// As TOML.
    fn write(&self) -> String;

    /// As JSON Schema.
    fn schema() -> serde_json::Value;

    /// The refusal of a value that is of another type.
    fn refuse() -> String {
        format!("write {}", Self::what())
    }
}

impl Setting for bool {
    const WHAT: &'static str = "true or false";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Flag(flag) => Ok(*flag),
            Value::Word(word) => word.parse().map_err(|_| Self::refuse()),
            _ => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }

    fn schema() -> serde_json::Value {
        json!({"type": "boolean"})
    }
}

impl Setting for PathBuf {
    const WHAT: &'static str = "an absolute path";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Word(text) if text.starts_with('/') && !text.contains('\0') => {
                Ok(text.into())
            }
            Value::Text(_) | Value::Word(_) => Err("it is not absolute: begin it with /".to_owned()),
            _ => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        quoted(&self.to_string_lossy())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^/"})
    }
}

/// A path, or none.
impl Setting for Option<PathBuf> {
    const WHAT: &'static str = "an absolute path, or \"\" for none";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Word(text) if text.is_empty() => Ok(None),
            _ => PathBuf::read(value).map(Some),
        }
    }

    fn write(&self) -> String {
        self.as_ref().map_or_else(|| quoted(""), Setting::write)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^(/|$)"})
    }
}

impl<T: Setting> Setting for Vec<T> {
    const WHAT: &'static str = "a list in brackets";

    fn what() -> String {
        format!("{}, each {}", Self::WHAT, T::what())
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::List(values) => values
                .iter()
                .map(|value| T::read(value).map_err(|remedy| format!("{value}: {remedy}")))
                .collect(),
            Value::Word(word) if word.is_empty() => Ok(Vec::new()),
            // Paths hold no commas as a rule; who needs one has the file.
            Value::Word(word) => word
                .split(',')
                .map(|part| T::read(&Value::Word(part.to_owned())))
                .collect(),
            _ => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        let values: Vec<String> = self.iter().map(Setting::write).collect();
        format!("[{}]", values.join(", "))
    }

    fn schema() -> serde_json::Value {
        json!({"type": "array", "items": T::schema()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let path = PathBuf::from("/a \"b\" \\ c");
        let text = format!("x = {}", path.write());
        let table = toml::de::DeTable::parse(&text).unwrap();
        let value = Value::of_toml(table.get_ref().values().next().unwrap().get_ref());
        assert_eq!(PathBuf::read(&value), Ok(path));
    }

    #[test]
    fn words_are_read_by_the_type_that_wants_them() {
        let word = |text: &str| Value::Word(text.to_owned());
        assert_eq!(bool::read(&word("false")), Ok(false));
        assert!(bool::read(&Value::Text("false".to_owned())).is_err());
        assert_eq!(
            Vec::<PathBuf>::read(&word("/a,/b")),
            Ok(vec!["/a".into(), "/b".into()])
        );
        assert_eq!(Vec::<PathBuf>::read(&word("")), Ok(Vec::new()));
        assert!(PathBuf::read(&word("a")).unwrap_err().contains("begin it with /"));
    }
}
