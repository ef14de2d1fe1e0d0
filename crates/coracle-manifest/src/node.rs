//! What a YAML document holds: scalars, lists and maps that know their line.

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// What stands there.
    pub(crate) value: Value,
    /// Nodes in it, itself included.
    pub(crate) size: usize,
}

/// A value before anybody said what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A text; a plain one (without quotes) may be meant as a number, a truth value or nothing.
    Scalar {
        /// The characters.
        text: String,
        /// Written without quotes.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// The characters.
    pub(crate) text: String,
    /// Line in the file, from 1.
    pub(crate) line: usize,
}

impl Node {
    /// A node around a value whose parts know their sizes.
    pub(crate) fn new(line: usize, value: Value) -> Self {
        let inside = match &value {
            Value::Scalar { .. } => 0,
            Value::List(list) => list.iter().map(|node| node.size).sum(),
            Value::Map(map) => map.iter().map(|(_, node)| node.size + 1).sum(),
        };
        Self {
            line,
            value,
            size: inside + 1,
        }
    }

    /// Nothing: `null`, `~` or a key without a value.
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if is_null(text))
    }

    /// An empty map or list, or nothing.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.value {
            Value::Scalar { .. } => self.is_null(),
            Value::List(list) => list.is_empty(),
            Value::Map(map) => map.is_empty(),
        }
    }

    /// What a map has under a key.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(map) => map
                .iter()
                .find(|(have, _)| have.text == key)
                .map(|(_, node)| node),
            _ => None,
        }
    }

    /// The characters of a scalar.
    pub(crate) fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }
}

fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// A plain scalar as a truth value; YAML 1.1's words count, as they do for Kubernetes.
pub(crate) fn as_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// A plain scalar as a whole number: decimal, `0x1f`, `0o17` and YAML 1.1's `017`.
pub(crate) fn as_int(text: &str) -> Option<i64> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let read = |digits: &str, base| {
        let begins_well = digits.starts_with(|first: char| first.is_ascii_alphanumeric());
        i64::from_str_radix(digits, base).ok().filter(|_| begins_well)
    };
    let value = if let Some(hex) = digits.strip_prefix("0x") {
        read(hex, 16)
    } else if let Some(octal) = digits.strip_prefix("0o") {
        read(octal, 8)
    } else if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| (b'0'..b'8').contains(&b))
    {
        read(&digits[1..], 8)
    } else {
        read(digits, 10)
    }?;
    Some(sign * value)
}

/// What a plain scalar is taken for when it is no text.
pub(crate) fn taken_for(text: &str) -> Option<&'static str> {
    let numeric = text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && text.bytes().any(|b| b.is_ascii_digit());
    if is_null(text) {
        Some("nothing")
    } else if as_bool(text).is_some() {
        Some("a truth value")
    } else if as_int(text).is_some() || (numeric && text.parse::<f64>().is_ok()) {
        Some("a number")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_are_what_kubernetes_takes_them_for() {
        for (text, meaning) in [
            ("yes", Some("a truth value")),
            ("On", Some("a truth value")),
            ("1", Some("a number")),
            ("1.5", Some("a number")),
            ("-3e2", Some("a number")),
            ("0x1F", Some("a number")),
            ("~", Some("nothing")),
            ("", Some("nothing")),
            ("1.2.3", None),
            ("inf", None),
            ("-", None),
            ("web", None),
            ("10.0.0.1", None),
            ("64Mi", None),
        ] {
            assert_eq!(taken_for(text), meaning, "{text:?}");
        }
    }

    #[test]
    fn whole_numbers_are_read_in_every_base() {
        for (text, value) in [
            ("420", Some(420)),
            ("0644", Some(0o644)),
            ("0o644", Some(0o644)),
            ("0x1a4", Some(420)),
            ("-7", Some(-7)),
            ("+7", Some(7)),
            ("0", Some(0)),
            ("089", Some(89)),
            ("--7", None),
            ("0x-1", None),
            ("1.0", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(as_int(text), value, "{text}");
        }
    }
}
