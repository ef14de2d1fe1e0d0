//! From YAML (and with it JSON) to nodes, with bounds on all that a text can blow up.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::node::{Key, Node, Value};

/// Bytes of one file: an object of etcd may have 1.5 MiB, a file several objects.
pub(crate) const TEXT_MAX: usize = 8 << 20;
/// Nodes of one file, those that aliases repeat included.
const NODES_MAX: usize = 500_000;
/// Lists and maps within each other; Kubernetes' own objects have some fifteen.
const DEPTH_MAX: usize = 64;

/// A text that is no YAML, or more of it than is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// Line in the file, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) words: String,
}

/// The documents of a text; empty ones are left out.
pub(crate) fn documents(text: &str) -> Result<Vec<Node>, Malformed> {
    if text.len() > TEXT_MAX {
        return Err(malformed(
            0,
            format!("the file has {} bytes: at most {TEXT_MAX} are read", text.len()),
        ));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| malformed(error.marker().line(), error.info()))?;
        builder.event(event, span)?;
    }
    builder.documents.retain(|node| !node.is_null());
    Ok(builder.documents)
}

fn malformed(line: usize, words: impl Into<String>) -> Malformed {
    Malformed {
        line,
        words: words.into(),
    }
}

/// A list or a map that is not closed yet.
struct Open {
    line: usize,
    anchor: usize,
    parts: Parts,
}

enum Parts {
    List(Vec<Node>),
    Map(Vec<(Key, Node)>, Option<Key>),
}

#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Malformed> {
        let line = span.start.line();
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !is_text(tag.as_ref());
                let value = Value::Scalar {
                    text: text.into_owned(),
                    plain,
                };
                self.close(Node::new(line, value), anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(line, anchor, Parts::List(Vec::new())),
            Event::MappingStart(anchor, _) => self.open(line, anchor, Parts::Map(Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| malformed(line, "an alias stands within what it repeats"))?;
                self.close(node, 0)
            }
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, line: usize, anchor: usize, parts: Parts) -> Result<(), Malformed> {
        if self.open.len() >= DEPTH_MAX {
            return Err(malformed(
                line,
                format!("more than {DEPTH_MAX} lists and maps within each other"),
            ));
        }
        self.open.push(Open { line, anchor, parts });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.parts {
            Parts::List(list) => Value::List(list),
            Parts::Map(map, _) => Value::Map(merged(map)),
        };
        // What is inside was counted when it was closed.
        let inside = Node::new(open.line, value);
        self.nodes -= inside.size.min(self.nodes);
        self.close(inside, open.anchor)
    }

    /// Puts a whole node where it belongs.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        self.nodes += node.size;
        if self.nodes > NODES_MAX {
            let words = format!("more than {NODES_MAX} values, those that aliases repeat included");
            return Err(malformed(node.line, words));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        match &mut open.parts {
            Parts::List(list) => list.push(node),
            Parts::Map(map, awaited) => match awaited.take() {
                Some(key) => map.push((key, node)),
                None => *awaited = Some(key(map, node)?),
            },
        }
        Ok(())
    }
}

/// `!!str 5` is a text.
fn is_text(tag: Option<&Cow<'_, Tag>>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str")
}

fn key(map: &[(Key, Node)], node: Node) -> Result<Key, Malformed> {
    let line = node.line;
    let Value::Scalar { text, .. } = node.value else {
        return Err(malformed(line, "a key must be a text, not a list or a map"));
    };
    if let Some((first, _)) = map.iter().find(|(have, _)| have.text == text && text != "<<") {
        let words = format!("{text:?} stands here and in line {}: keep one", first.line);
        return Err(malformed(line, words));
    }
    Ok(Key { text, line })
}

/// A map with what `<<` brings in; keys of its own win.
fn merged(map: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
    if !map.iter().any(|(key, _)| key.text == "<<") {
        return map;
    }
    let (brought, mut own): (Vec<_>, Vec<_>) = map.into_iter().partition(|(key, _)| key.text == "<<");
    for (_, node) in brought {
        let maps = match node.value {
            Value::List(list) => list,
            _ => vec![node],
        };
        for node in maps {
            let Value::Map(entries) = node.value else { continue };
            for (key, value) in entries {
                if !own.iter().any(|(have, _)| have.text == key.text) {
                    own.push((key, value));
                }
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Node {
        documents(text).unwrap().remove(0)
    }

    #[test]
    fn documents_know_their_lines() {
        let read = documents("a: 1\n---\n# nothing\n---\nb:\n  - x\n  - 'y'\n").unwrap();
        assert_eq!(read.len(), 2);
        let list = read[1].get("b").unwrap();
        let Value::List(items) = &list.value else {
            panic!("{list:?}")
        };
        assert_eq!((items[0].line, items[1].line), (6, 7));
        assert_eq!(
            items[1].value,
            Value::Scalar {
                text: "y".into(),
                plain: false
            }
        );
    }

    #[test]
    fn json_is_yaml() {
        let node = one("{\"a\": {\"b\": [1, \"two\", null]}}");
        assert_eq!(node.get("a").unwrap().get("b").unwrap().size, 4);
    }

    #[test]
    fn aliases_and_merges_repeat() {
        let node = one("base: &b {x: 1, y: 2}\nthis: {<<: *b, y: 3}\nthat: *b\n");
        let this = node.get("this").unwrap();
        assert_eq!(this.get("x").unwrap().scalar(), Some("1"));
        assert_eq!(this.get("y").unwrap().scalar(), Some("3"));
        assert_eq!(node.get("that").unwrap().get("y").unwrap().scalar(), Some("2"));
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let list = vec![format!("*a{}", n - 1); 10].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{list}]\n"));
        }
        let error = documents(&text).unwrap_err();
        assert!(error.words.contains("aliases"), "{error:?}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (text, line, part) in [
            ("a: 1\nb: 2\na: 3\n", 3, "line 1"),
            ("a: [1\n", 2, ""),
            ("? [x]\n: 1\n", 1, "key"),
            ("a: *nobody\n", 1, ""),
            ("a: &a [*a]\n", 1, "repeats"),
        ] {
            let error = documents(text).unwrap_err();
            assert!(error.words.contains(part), "{text:?}: {error:?}");
            assert!(error.line <= line && error.line > 0, "{text:?}: {error:?}");
        }
        let deep = "[".repeat(100);
        assert!(documents(&deep).is_err());
        assert!(documents(&"#".repeat(TEXT_MAX + 1)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_upsets_it(text in "[-a-z0-9:{}\\[\\],&*<>|'\"# \\n\\t]{0,200}") {
            let _ = documents(&text);
        }
    }
}
