//! Credentials that the node has of its own: in its configuration and in a file of Docker's form.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coracle_types::image::Credentials;
use serde::Deserialize;

use super::auth::{Secret, canonical};
use super::error::RegistryError;
use super::hosts::read_file;

/// A file of credentials that cannot be used; pulls fail until it is mended, as asking without
/// credentials would be answered by other reasons.
#[derive(Debug, Clone, thiserror::Error)]
#[error("credentials file {}: {reason}", path.display())]
pub struct MalformedAuthFile {
    /// The file at fault.
    pub path: PathBuf,
    /// What is wrong with it, without any of its content.
    pub reason: String,
}

/// Secrets by the registry, and the path below it, that they are for.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// The stronger source first.
    sources: Vec<Vec<(Scope, Secret)>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Scope {
    host: String,
    /// Without slashes at its ends; empty for the whole registry.
    path: String,
}

impl Scope {
    /// `https://index.docker.io/v1/`, `registry.example:5000`, `registry.example/team`.
    fn read(text: &str) -> Self {
        let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
        let path = rest
            .split_once('/')
            .map_or("", |(_, path)| path)
            .trim_matches('/');
        Self {
            host: canonical(text),
            // What Docker's old API called itself.
            path: if matches!(path, "v1" | "v2") { "" } else { path }.to_owned(),
        }
    }

    fn covers(&self, host: &str, repository: &str) -> bool {
        let below = || {
            repository
                .strip_prefix(self.path.as_str())
                .map(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.host == canonical(host) && (self.path.is_empty() || below() == Some(true))
    }
}

impl Book {
    /// Reads both sources. Small files: call it where blocking is allowed.
    pub(crate) fn open(
        configured: &BTreeMap<String, Credentials>,
        auth_file: Option<&Path>,
    ) -> Result<Self, RegistryError> {
        let configured = configured
            .iter()
            .map(|(scope, credentials)| Ok((Scope::read(scope), Secret::read(credentials)?)))
            .collect::<Result<_, RegistryError>>()?;
        let mut sources = vec![configured];
        if let Some(path) = auth_file {
            sources.push(read(path)?);
        }
        Ok(Self { sources })
    }

    /// The secret for a repository of a host: of the stronger source, there the longest scope's.
    pub(crate) fn find(&self, host: &str, repository: &str) -> Option<Secret> {
        self.sources.iter().find_map(|entries| {
            let covering = entries.iter().filter(|(scope, _)| scope.covers(host, repository));
            let found = covering.max_by_key(|(scope, _)| scope.path.len());
            found.map(|(_, secret)| secret.clone())
        })
    }
}

#[derive(Deserialize)]
struct RawFile {
    #[serde(default)]
    auths: BTreeMap<String, RawEntry>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    identitytoken: String,
    #[serde(default)]
    registrytoken: String,
}

fn read(path: &Path) -> Result<Vec<(Scope, Secret)>, MalformedAuthFile> {
    let malformed = |reason: String| MalformedAuthFile {
        path: path.to_owned(),
        reason,
    };
    let content = read_file(path)
        .map_err(malformed)?
        .ok_or_else(|| malformed("it does not exist".to_owned()))?;
    // The parser's own words would repeat the value that it stumbled over.
    let raw: RawFile = serde_json::from_slice(&content).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        malformed(format!("it is not of the form {{\"auths\": {{...}}}} at {place}"))
    })?;
    let mut entries = Vec::with_capacity(raw.auths.len());
    for (name, entry) in raw.auths {
        let credentials = Credentials {
            username: entry.username,
            password: entry.password,
            auth: entry.auth,
            identity_token: entry.identitytoken,
            registry_token: entry.registrytoken,
            ..Credentials::default()
        };
        let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
        let secret = Secret::read(&credentials).map_err(|error| malformed(format!("{shown:?}: {error}")))?;
        // An empty entry is what a credential helper leaves; helpers are programs and are not run here.
        if secret != Secret::None {
            entries.push((Scope::read(&name), secret));
        }
    }
    Ok(entries)
}

impl From<MalformedAuthFile> for RegistryError {
    fn from(error: MalformedAuthFile) -> Self {
        Self::AuthFile(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(user: &str) -> Credentials {
        Credentials {
            username: user.to_owned(),
            password: "never-shown".to_owned(),
            ..Credentials::default()
        }
    }

    fn user(secret: Option<Secret>) -> String {
        match secret {
            Some(Secret::Password { username, .. }) => username,
            Some(_) => "another form".to_owned(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn the_longest_scope_of_the_stronger_source_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOng="},
            "r.example/team": {"username": "weaker", "password": "x"},
            "s.example": {"identitytoken": "x"},
            "helped.example": {}
        }, "credsStore": "pass"}"#;
        std::fs::write(&file, text).unwrap();
        let configured = BTreeMap::from([
            ("r.example".to_owned(), password("all")),
            ("r.example/team/app".to_owned(), password("app")),
            ("t.example:5000".to_owned(), password("port")),
        ]);
        let book = Book::open(&configured, Some(&file)).unwrap();
        for (host, repository, expected) in [
            ("r.example", "x", "all"),
            ("r.example", "team/app", "app"),
            ("r.example", "team/app/x", "app"),
            ("r.example", "team/apple", "all"),
            ("R.example:443", "team/app", "app"),
            ("t.example:5000", "x", "port"),
            ("t.example", "x", "none"),
            ("registry-1.docker.io", "library/busybox", "hub"),
            ("s.example", "x", "another form"),
            ("helped.example", "x", "none"),
            ("evil.example", "r.example/team", "none"),
        ] {
            assert_eq!(user(book.find(host, repository)), expected, "{host}/{repository}");
        }
    }

    #[test]
    fn a_broken_file_is_named_and_not_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        for text in [
            "{\"auths\": {\"r\": {\"auth\": [\"s3cret\"]}}}",
            "{\"auths\": {\"r\": \"s3cret\"}}",
            "{\"auths\": {\"r\": {\"auth\": \"s3cret!\"}}}",
            "s3cret",
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Book::open(&BTreeMap::new(), Some(&file)).unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(said.contains("auth.json") && !said.contains("s3cret"), "{said}");
        }
        let missing = Book::open(&BTreeMap::new(), Some(&dir.path().join("none"))).unwrap_err();
        assert!(missing.to_string().contains("does not exist"), "{missing}");
    }

    #[test]
    fn no_secret_shows_in_the_debug_form() {
        let configured = BTreeMap::from([("r.example".to_owned(), password("kim"))]);
        let book = Book::open(&configured, None).unwrap();
        let shown = format!("{book:?} {configured:?}");
        assert!(!shown.contains("never-shown"), "{shown}");
    }
}
