//! JSON values as YAML: block style, and quotes wherever a reader could take a text for something else.

use std::fmt::Write;

use serde_json::Value;

use super::tone::moves_terminal;

/// The value as a YAML document, with a newline at its end.
pub(crate) fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Array(items) if !items.is_empty() => sequence(&mut text, items, 0),
        Value::Object(fields) if !fields.is_empty() => mapping(&mut text, fields, 0, false),
        other => {
            text.push_str(&scalar(other));
            text.push('\n');
        }
    }
    text
}

fn sequence(text: &mut String, items: &[Value], depth: usize) {
    for item in items {
        indent(text, depth);
        text.push_str("- ");
        match item {
            Value::Object(fields) if !fields.is_empty() => mapping(text, fields, depth + 1, true),
            Value::Array(inner) if !inner.is_empty() => {
                text.pop();
                text.push('\n');
                sequence(text, inner, depth + 1);
            }
            other => {
                text.push_str(&scalar(other));
                text.push('\n');
            }
        }
    }
}

fn mapping(text: &mut String, fields: &serde_json::Map<String, Value>, depth: usize, begun: bool) {
    for (place, (key, value)) in fields.iter().enumerate() {
        if !(begun && place == 0) {
            indent(text, depth);
        }
        text.push_str(&plain_or_quoted(key));
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                mapping(text, inner, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                sequence(text, items, depth);
            }
            other => {
                text.push(' ');
                text.push_str(&scalar(other));
                text.push('\n');
            }
        }
    }
}

fn indent(text: &mut String, depth: usize) {
    text.extend(std::iter::repeat_n("  ", depth));
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => plain_or_quoted(text),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
        other => other.to_string(),
    }
}

/// A text without quotes only where no version of YAML reads it as a number, a truth or a mark.
fn plain_or_quoted(text: &str) -> String {
    let first = |c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_');
    let rest = |c: char| {
        c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.' | ' ' | '(' | ')' | '=' | '+' | '@')
    };
    // A colon is a mark before a space or at the end only.
    let colons = !text.ends_with(':') && !text.contains(": ");
    let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let plain = text.starts_with(first)
        && !text.ends_with(' ')
        && text.chars().all(|c| rest(c) || c == ':')
        && colons
        && !words.contains(&text.to_ascii_lowercase().as_str());
    if plain {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if moves_terminal(c) || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}') => {
                // Writing to a string does not fail.
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_stand_in_blocks_and_odd_texts_in_quotes() {
        let value = json!([{
            "name": "web", "age": 3, "yes": "no", "empty": {}, "none": null,
            "labels": {"app.kubernetes.io/name": "x: y", "n": "12"}, "ports": ["80", 80],
            "text": "a\n\u{1b}[1m\"b\"",
        }]);
        let expected = "- age: 3\n  empty: {}\n  labels:\n    app.kubernetes.io/name: \"x: y\"\n    \"n\": \"12\"\n  \
                        name: web\n  none: null\n  ports:\n  - \"80\"\n  - 80\n  \
                        text: \"a\\n\\u001b[1m\\\"b\\\"\"\n  \"yes\": \"no\"\n";
        assert_eq!(document(&value), expected);
        assert_eq!(document(&json!([])), "[]\n");
    }
}
