//! `--filter key=value`: one of the values of a key must fit, and every key.

use crate::terminal::{Status, Trouble};

/// What an object offers to filters: the texts of a key.
pub(crate) trait Facts {
    /// All texts that stand for `key`; any of them may fit.
    fn facts(&self, key: &str) -> Vec<String>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    key: &'static str,
    pattern: String,
    not: bool,
}

/// The filters of a command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(Vec<Term>);

impl Filters {
    /// Reads them; `keys` are those that this list knows, `states` the words of its `state`.
    pub(crate) fn parse(texts: &[String], keys: &[&'static str], states: &[&str]) -> Result<Self, Trouble> {
        let wrong = |words: String| {
            Trouble::new(words)
                .next(format!(
                    "known keys are {}; for instance --filter {}=...",
                    keys.join(", "),
                    keys[0]
                ))
                .status(Status::Usage)
        };
        let mut terms = Vec::new();
        for text in texts {
            let Some((key, pattern)) = text.split_once('=') else {
                return Err(wrong(format!("--filter {text}: write KEY=VALUE")));
            };
            let (key, not) = key.strip_suffix('!').map_or((key, false), |key| (key, true));
            let Some(key) = keys.iter().find(|known| **known == key) else {
                return Err(wrong(format!("--filter {text}: there is no key {key:?} here")));
            };
            if *key == "state" && !pattern.contains('*') && !states.contains(&pattern) {
                let words = format!("--filter {text}: there is no state {pattern:?}");
                return Err(Trouble::new(words)
                    .next(format!("states are {}", states.join(", ")))
                    .status(Status::Usage));
            }
            terms.push(Term {
                key,
                pattern: pattern.to_owned(),
                not,
            });
        }
        Ok(Self(terms))
    }

    /// Whether a key is asked for.
    pub(crate) fn names(&self, key: &str) -> bool {
        self.0.iter().any(|term| term.key == key)
    }

    /// Whether the object is meant.
    pub(crate) fn fit(&self, object: &impl Facts) -> bool {
        let hit = |term: &Term| object.facts(term.key).iter().any(|fact| term.fits(fact));
        self.0.iter().all(|term| {
            if term.not {
                return !hit(term);
            }
            self.0
                .iter()
                .filter(|other| other.key == term.key && !other.not)
                .any(hit)
        })
    }
}

impl Term {
    fn fits(&self, fact: &str) -> bool {
        match self.key {
            "id" => fact.starts_with(self.pattern.trim_end_matches('*')),
            // `label=app` asks for the key alone.
            "label" if !self.pattern.contains('=') => {
                let key = fact.split_once('=').map_or(fact, |(key, _)| key);
                glob(&self.pattern, key)
            }
            _ => glob(&self.pattern, fact),
        }
    }
}

/// Whether the text is as the pattern says, in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(place) => rest = &rest[place + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The names by which a person may mean an image: whole, without tag or digest, its last part.
pub(crate) fn image_names(reference: &str) -> Vec<String> {
    let last = reference.rsplit('/').next().unwrap_or(reference);
    let plain = |text: &str| {
        let text = text.split('@').next().unwrap_or(text);
        match text.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name.to_owned(),
            _ => text.to_owned(),
        }
    };
    let mut names = vec![
        reference.to_owned(),
        plain(reference),
        last.to_owned(),
        plain(last),
    ];
    // A name without a tag or digest means this one.
    if last == plain(last) {
        names.extend([format!("{reference}:latest"), format!("{last}:latest")]);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing(Vec<(&'static str, &'static str)>);

    impl Facts for Thing {
        fn facts(&self, key: &str) -> Vec<String> {
            let of_key = self.0.iter().filter(|(name, _)| *name == key);
            of_key.map(|(_, text)| (*text).to_owned()).collect()
        }
    }

    const KEYS: &[&str] = &["name", "state", "label", "id"];

    fn fits(filters: &[&str]) -> bool {
        let thing = Thing(vec![
            ("name", "web-1"),
            ("state", "ready"),
            ("label", "app=shop"),
            ("label", "tier="),
            ("id", "0123abcd"),
        ]);
        let texts: Vec<_> = filters.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&texts, KEYS, &["ready", "not-ready"])
            .unwrap()
            .fit(&thing)
    }

    #[test]
    fn keys_are_joined_by_and_values_by_or() {
        for yes in [
            &["name=web-1"][..],
            &["name=web-*"],
            &["name=*-*"],
            &["name=x", "name=web-1"],
            &["label=app"],
            &["label=tier"],
            &["label=app=s*p"],
            &["id=0123"],
            &["name!=db", "state=ready"],
            &[],
        ] {
            assert!(fits(yes), "{yes:?}");
        }
        for no in [
            &["name=web"][..],
            &["name=web-1", "state=not-ready"],
            &["label=app=x"],
            &["name!=web-*"],
            &["id=123"],
            &["label=ap"],
        ] {
            assert!(!fits(no), "{no:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let parse = |text: &str| {
            Filters::parse(&[text.to_owned()], KEYS, &["ready"])
                .unwrap_err()
                .to_string()
        };
        assert!(parse("colour=red").contains("\"colour\""));
        assert!(parse("name").contains("KEY=VALUE"));
        assert!(parse("state=redy").contains("\"redy\""));
    }

    #[test]
    fn images_have_short_names() {
        let names = image_names("registry.example:5000/team/app:1.2");
        assert_eq!(names[1..], ["registry.example:5000/team/app", "app:1.2", "app"]);
        let names = image_names("docker.io/library/app");
        assert_eq!(names[4..], ["docker.io/library/app:latest", "app:latest"]);
    }
}
