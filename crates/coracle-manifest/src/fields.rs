//! Reading nodes as what they should be; every mistake is reported with its path and line.

use std::collections::BTreeMap;

use crate::node::{self, Key, Node, Value};
use crate::quantity::Quantity;
use crate::report::{Report, Weight};

/// A node, its path, and where to say what is wrong with it.
#[derive(Debug, Clone)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
    pub(crate) report: &'a Report,
}

impl<'a> At<'a> {
    pub(crate) fn top(node: &'a Node, report: &'a Report) -> Self {
        Self {
            node,
            path: String::new(),
            report,
        }
    }

    pub(crate) fn refuse(&self, words: impl Into<String>) {
        self.report
            .add(self.node.line, &self.path, Weight::Refused, words);
    }

    pub(crate) fn ignore(&self, words: impl Into<String>) {
        self.report
            .add(self.node.line, &self.path, Weight::Ignored, words);
    }

    /// The value in words, short enough for a line.
    pub(crate) fn shown(&self) -> String {
        match &self.node.value {
            Value::Scalar { text, .. } if text.chars().count() > 60 => {
                format!("{:?}…", text.chars().take(60).collect::<String>())
            }
            Value::Scalar { text, plain: true } => text.clone(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    /// A text.
    pub(crate) fn text(&self) -> Option<String> {
        match &self.node.value {
            Value::Scalar { text, plain } => {
                if let Some(kind) = Some(text)
                    .filter(|_| *plain)
                    .and_then(|text| node::taken_for(text))
                {
                    self.refuse(format!(
                        "{text} is {kind} to YAML: put it in quotes to have a text"
                    ));
                    return None;
                }
                Some(text.clone())
            }
            _ => self.wrong("a text"),
        }
    }

    /// A truth value.
    pub(crate) fn bool(&self) -> Option<bool> {
        match &self.node.value {
            Value::Scalar { text, plain: true } => match node::as_bool(text) {
                Some(value) => Some(value),
                None => self.wrong("true or false"),
            },
            _ => self.wrong("true or false, without quotes"),
        }
    }

    /// A whole number within bounds.
    pub(crate) fn int(&self, least: i64, most: i64) -> Option<i64> {
        let value = match &self.node.value {
            Value::Scalar { text, plain: true } => node::as_int(text),
            _ => None,
        };
        match value {
            Some(value) if (least..=most).contains(&value) => Some(value),
            Some(value) => {
                self.refuse(format!("{value}: give {least} to {most}"));
                None
            }
            None => self.wrong("a whole number, without quotes"),
        }
    }

    /// As [`At::int`], for what is counted and never negative.
    pub(crate) fn count(&self, least: u32) -> Option<u32> {
        let value = self.int(i64::from(least), i64::from(i32::MAX))?;
        u32::try_from(value).ok()
    }

    /// A port.
    pub(crate) fn port(&self) -> Option<u16> {
        u16::try_from(self.int(1, 65535)?).ok()
    }

    /// An amount such as `500m` or `64Mi`, not negative.
    pub(crate) fn quantity(&self) -> Option<Quantity> {
        let Some(text) = self.node.scalar() else {
            return self.wrong("an amount such as 500m or 64Mi");
        };
        match text.parse::<Quantity>() {
            Ok(quantity) if !quantity.is_negative() => Some(quantity),
            Ok(_) => self.wrong("an amount that is not negative"),
            Err(error) => {
                self.refuse(format!("{text}: {error}"));
                None
            }
        }
    }

    /// One of some words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = nearest(&text, &names)
            .map(|name| format!(" (did you mean {name}?)"))
            .unwrap_or_default();
        self.refuse(format!("{text:?}: give {}{hint}", names.join(", ")));
        None
    }

    /// The entries of a list.
    pub(crate) fn list(&self) -> Vec<At<'a>> {
        let Value::List(list) = &self.node.value else {
            self.wrong::<()>("a list");
            return Vec::new();
        };
        let entry = |(index, node)| At {
            node,
            path: format!("{}[{index}]", self.path),
            report: self.report,
        };
        list.iter().enumerate().map(entry).collect()
    }

    /// A list of texts.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(At::text).collect()
    }

    /// A map from texts to texts.
    pub(crate) fn text_map(&self) -> BTreeMap<String, String> {
        self.entries()
            .into_iter()
            .filter_map(|(key, at)| Some((key, at.text()?)))
            .collect()
    }

    /// The entries of a map whose keys are data.
    pub(crate) fn entries(&self) -> Vec<(String, At<'a>)> {
        let Value::Map(map) = &self.node.value else {
            self.wrong::<()>("a map");
            return Vec::new();
        };
        map.iter()
            .map(|(key, node)| (key.text.clone(), self.below(&key.text, node)))
            .collect()
    }

    /// The fields of a map whose keys are names.
    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        let Value::Map(entries) = &self.node.value else {
            return self.wrong("a map");
        };
        Some(Fields {
            at: self.clone(),
            entries,
            known: Vec::new(),
        })
    }

    fn below(&self, key: &str, node: &'a Node) -> At<'a> {
        let path = if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        At {
            node,
            path,
            report: self.report,
        }
    }

    fn wrong<T>(&self, wanted: &str) -> Option<T> {
        self.refuse(format!("{}: give {wanted}", self.shown()));
        None
    }
}

/// The fields of an object, and which names were asked for.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) at: At<'a>,
    entries: &'a [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// A field, unless it is absent or null.
    pub(crate) fn get(&mut self, name: &'static str) -> Option<At<'a>> {
        self.known.push(name);
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == name)?;
        (!node.is_null()).then(|| self.at.below(name, node))
    }

    /// A field without which nothing can be done.
    pub(crate) fn required(&mut self, name: &'static str) -> Option<At<'a>> {
        let found = self.get(name);
        if found.is_none() {
            let path = self.at.below(name, self.at.node).path;
            let line = self.at.node.line;
            self.at.report.add(line, &path, Weight::Refused, "is required");
        }
        found
    }

    /// A text, or the empty one.
    pub(crate) fn text(&mut self, name: &'static str) -> String {
        self.get(name).and_then(|at| at.text()).unwrap_or_default()
    }

    /// A truth value, if given.
    pub(crate) fn bool(&mut self, name: &'static str) -> Option<bool> {
        self.get(name)?.bool()
    }

    /// A list of texts, or the empty one.
    pub(crate) fn texts(&mut self, name: &'static str) -> Vec<String> {
        self.get(name).map(|at| at.texts()).unwrap_or_default()
    }

    /// Fields that mean nothing here and do no harm when they are left out.
    pub(crate) fn ignored(&mut self, names: &[&'static str], why: &str) {
        for name in names {
            if let Some(at) = self.get(name).filter(|at| !at.node.is_empty()) {
                at.ignore(why);
            }
        }
    }

    /// Fields without which the pod would be another one than was asked for.
    pub(crate) fn refused(&mut self, names: &[&'static str], why: &str) {
        for name in names {
            if let Some(at) = self.get(name).filter(|at| !at.node.is_empty()) {
                at.refuse(why);
            }
        }
    }

    /// Refuses every field that nobody asked for.
    pub(crate) fn finish(self) {
        for (key, node) in self.entries {
            if self.known.contains(&key.text.as_str()) {
                continue;
            }
            let at = self.at.below(&key.text, node);
            let hint = match nearest(&key.text, &self.known) {
                Some(name) => format!("no such field: did you mean {name}?"),
                None => "no such field".to_owned(),
            };
            at.report.add(key.line, &at.path, Weight::Refused, hint);
        }
    }
}

/// The name that was probably meant.
pub(crate) fn nearest<'n>(text: &str, names: &[&'n str]) -> Option<&'n str> {
    let lower = text.to_ascii_lowercase();
    let far = |name: &str| strsim::damerau_levenshtein(&lower, &name.to_ascii_lowercase());
    names
        .iter()
        .map(|name| (far(name), *name))
        .min()
        .filter(|(distance, name)| *distance <= 1 + name.len() / 5)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    #[test]
    fn the_nearest_name_is_found_and_a_far_one_is_not() {
        let names = ["livenessProbe", "readinessProbe", "image", "imagePullPolicy"];
        assert_eq!(nearest("livenesProbe", &names), Some("livenessProbe"));
        assert_eq!(nearest("Image", &names), Some("image"));
        assert_eq!(nearest("imagePullpolicy", &names), Some("imagePullPolicy"));
        assert_eq!(nearest("volumes", &names), None);
    }

    #[test]
    fn mistakes_are_named_with_path_and_line() {
        let nodes = yaml::documents("a: 1\nb:\n  c: yes\n  d: x\nlist:\n  - 5\n").unwrap();
        let report = Report::of("f.yaml");
        let mut fields = At::top(&nodes[0], &report).fields().unwrap();
        assert_eq!(fields.get("a").unwrap().text(), None);
        let mut inner = fields.get("b").unwrap().fields().unwrap();
        assert_eq!(inner.bool("c"), Some(true));
        inner.finish();
        assert!(fields.texts("list").is_empty());
        fields.required("name");
        fields.finish();
        let said: Vec<String> = report.into_problems().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "f.yaml:1: a: 1 is a number to YAML: put it in quotes to have a text",
                "f.yaml:1: name: is required",
                "f.yaml:4: b.d: no such field: did you mean c?",
                "f.yaml:6: list[0]: 5 is a number to YAML: put it in quotes to have a text",
            ]
        );
    }
}
