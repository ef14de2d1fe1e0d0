//! One record: time, level, message and named values, as text, as JSON and as the journal's fields.

use std::fmt::{self, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Level, Metadata};

/// Named values of a span or an event.
#[derive(Debug, Default)]
pub(super) struct Fields {
    message: String,
    named: Vec<(&'static str, Value)>,
}

impl Fields {
    pub(super) fn named(&self) -> &[(&'static str, Value)] {
        &self.named
    }

    /// Takes over values whose names are not there yet.
    pub(super) fn add_missing(&mut self, others: &[(&'static str, Value)]) {
        for (name, value) in others {
            if !self.named.iter().any(|(known, _)| known == name) {
                self.named.push((name, value.clone()));
            }
        }
    }

    fn set(&mut self, field: &Field, value: Value) {
        let name = field.name();
        if name == "message" {
            self.message = text(&value).into_owned();
            return;
        }
        self.named.retain(|(known, _)| *known != name);
        self.named.push((name, value));
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
}

fn text(value: &Value) -> std::borrow::Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

/// One record.
#[derive(Debug)]
pub(super) struct Record {
    time: SystemTime,
    level: Level,
    target: &'static str,
    fields: Fields,
}

impl Record {
    pub(super) fn new(metadata: &Metadata<'static>, fields: Fields) -> Self {
        Self {
            time: SystemTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            fields,
        }
    }

    /// Message and values in one line: `the shim is gone pod=1f.. error="no such process"`. What foreign
    /// text holds cannot begin a line of its own.
    pub(super) fn sentence(&self) -> String {
        let mut line = one_line(&self.fields.message);
        for (name, value) in &self.fields.named {
            let value = text(value);
            let plain =
                !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic() && !"\"'=".contains(c));
            // Writing to a String cannot fail.
            let _ = if plain {
                write!(line, " {name}={value}")
            } else {
                write!(line, " {name}={value:?}")
            };
        }
        line
    }

    /// A line for people, without its end.
    pub(super) fn text(&self, colour: bool) -> String {
        let time = humantime::format_rfc3339_millis(self.time);
        let (on, off) = match self.level {
            _ if !colour => ("", ""),
            Level::ERROR => ("\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[2m", "\x1b[0m"),
        };
        format!("{time} {on}{:>5}{off} {}", self.level, self.sentence())
    }

    /// A JSON object in a line, without its end.
    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        let time = humantime::format_rfc3339_micros(self.time).to_string();
        object.insert("time".to_owned(), time.into());
        object.insert("level".to_owned(), self.level.as_str().to_lowercase().into());
        object.insert("message".to_owned(), self.fields.message.clone().into());
        object.insert("target".to_owned(), self.target.into());
        for (name, value) in &self.fields.named {
            // A field must not take the place of what every record has.
            let name = if object.contains_key(*name) {
                format!("field_{name}")
            } else {
                (*name).to_owned()
            };
            object.insert(name, value.clone());
        }
        Value::Object(object).to_string()
    }

    /// The severity of syslog (RFC 5424, 6.2.1).
    pub(super) fn priority(&self) -> u8 {
        match self.level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        }
    }

    /// A datagram of the journal's native protocol: `NAME=value`, or where the value has several lines
    /// the name, its length as 64 bits little-endian, and the value.
    pub(super) fn journal(&self, identifier: &str) -> Vec<u8> {
        let mut datagram = Vec::with_capacity(512);
        let mut put = |name: &str, value: &str| {
            datagram.extend_from_slice(name.as_bytes());
            if value.contains('\n') {
                datagram.push(b'\n');
                datagram.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                datagram.push(b'=');
            }
            datagram.extend_from_slice(value.as_bytes());
            datagram.push(b'\n');
        };
        put("MESSAGE", &self.sentence());
        put("PRIORITY", &self.priority().to_string());
        put("SYSLOG_IDENTIFIER", identifier);
        put("CORACLE_TARGET", self.target);
        for (name, value) in &self.fields.named {
            put(&journal_name(name), &text(value));
        }
        datagram
    }
}

/// The journal's names are capitals, digits and underscores, at most 64 of them.
fn journal_name(name: &str) -> String {
    let mut out = "CORACLE_".to_owned();
    out.extend(name.chars().take(56).map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    }));
    out
}

fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len() + 64);
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(message: &str, named: &[(&'static str, Value)]) -> Record {
        let mut fields = Fields {
            message: message.to_owned(),
            ..Fields::default()
        };
        fields.add_missing(named);
        Record {
            time: SystemTime::UNIX_EPOCH,
            level: Level::WARN,
            target: "coracle_engine::pod",
            fields,
        }
    }

    #[test]
    fn a_record_is_one_line_whatever_it_is_told() {
        let record = record(
            "it failed\n2026 ERROR forged",
            &[
                ("pod", "1f".into()),
                ("error", "a \"b\"\nc".into()),
                ("tries", 3.into()),
            ],
        );
        assert_eq!(
            record.text(false),
            "1970-01-01T00:00:00.000Z  WARN it failed\\n2026 ERROR forged pod=1f error=\"a \\\"b\\\"\\nc\" tries=3"
        );
        let json: Value = serde_json::from_str(&record.json()).unwrap();
        assert_eq!(json["pod"], "1f");
        assert_eq!(json["tries"], 3);
        assert_eq!(json["message"], "it failed\n2026 ERROR forged");
        assert!(!record.json().contains('\n'));
    }

    #[test]
    fn the_journal_gets_fields_and_values_of_several_lines_whole() {
        let datagram = record("said", &[("pod", "1f".into()), ("error", "a\nb".into())]).journal("coracle");
        let text = String::from_utf8_lossy(&datagram);
        assert!(
            text.contains("PRIORITY=4\n") && text.contains("CORACLE_POD=1f\n"),
            "{text}"
        );
        let long = b"CORACLE_ERROR\n\x03\0\0\0\0\0\0\0a\nb\n";
        assert!(datagram.windows(long.len()).any(|window| window == long));
        assert_eq!(journal_name("http.status"), "CORACLE_HTTP_STATUS");
    }

    #[test]
    fn what_is_said_closer_to_the_event_counts() {
        let mut fields = Fields::default();
        fields.add_missing(&[("pod", "inner".into())]);
        fields.add_missing(&[("pod", "outer".into()), ("operation", "stop".into())]);
        assert_eq!(
            fields.named,
            [("pod", "inner".into()), ("operation", "stop".into())]
        );
    }
}
