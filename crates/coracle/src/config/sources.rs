//! Where values come from: the file, its fragments, the environment and the command line, each stronger
//! than those before it.
//!
//! Fragments are `config.d/*.toml` beside the file, in the order of their names. A key that is given again
//! replaces the earlier value whole; lists are not joined.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::keys::KEYS;
use super::problem::{Origin, Problem};
use super::value::{Setting, Value};
use crate::cli::ServeArgs;

/// The file that is read when none is named.
pub(crate) const DEFAULT_FILE: &str = "/etc/coracle/config.toml";

/// Most bytes of one file.
const MAX_FILE: u64 = 4 << 20;

/// What tells all programs of proxies; of two names for one the later wins.
const PROXY_VARIABLES: [(&str, &str); 6] = [
    ("registry.https_proxy", "https_proxy"),
    ("registry.https_proxy", "HTTPS_PROXY"),
    ("registry.http_proxy", "http_proxy"),
    ("registry.http_proxy", "HTTP_PROXY"),
    ("registry.no_proxy", "no_proxy"),
    ("registry.no_proxy", "NO_PROXY"),
];

/// What decides a configuration; kept, so that it can be read again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    file: Option<PathBuf>,
    /// Variables that all programs know, weaker than any file: key, name and value.
    proxies: Vec<(&'static str, &'static str, OsString)>,
    environment: Vec<(String, OsString)>,
    flags: Vec<(&'static str, &'static str, Value)>,
}

impl Sources {
    /// The node's: the usual file, this process's environment.
    pub(crate) fn of_node() -> Self {
        Self {
            proxies: PROXY_VARIABLES
                .iter()
                .filter_map(|(key, name)| std::env::var_os(name).map(|value| (*key, *name, value)))
                .filter(|(_, _, value)| !value.is_empty())
                .collect(),
            environment: KEYS
                .iter()
                .filter_map(|key| {
                    let name = key.variable();
                    std::env::var_os(&name).map(|value| (name, value))
                })
                .collect(),
            ..Self::default()
        }
    }

    /// Only this file, with its fragments.
    pub(crate) fn of_file(file: &Path) -> Self {
        Self {
            file: Some(file.to_owned()),
            ..Self::default()
        }
    }

    /// The daemon's: the node's, and what its command line says.
    pub(crate) fn of_daemon(args: &ServeArgs, socket: &Path) -> Self {
        let mut sources = Self::of_node().with_file(args.config.as_deref());
        sources.flags = super::flags::settings(args)
            .into_iter()
            .map(|(key, flag, values)| (key, flag, value_of(values)))
            .collect();
        // The socket is everybody's option and has a default, which says nothing. What the variable says is
        // known already.
        let of_variable = sources
            .environment
            .iter()
            .any(|(name, value)| name == "CORACLE_SOCKET" && value == socket);
        if socket != Path::new(crate::cli::DEFAULT_SOCKET) && !of_variable {
            let value = Value::Word(socket.to_string_lossy().into_owned());
            sources.flags.push(("socket", "--socket", value));
        }
        sources
    }

    /// The same with another file in the place of the usual one.
    pub(crate) fn with_file(mut self, file: Option<&Path>) -> Self {
        self.file = file.map(Path::to_owned);
        self
    }

    /// Sets a key as a flag does: for a daemon that a command starts.
    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Self {
        self.flags
            .push((key, "by the program", Value::Word(value.to_owned())));
        self
    }

    /// Sets a variable that all programs know.
    #[cfg(test)]
    pub(crate) fn with_proxy(mut self, key: &'static str, name: &'static str, value: &str) -> Self {
        self.proxies.push((key, name, value.into()));
        self
    }

    /// Sets a variable of the environment.
    #[cfg(test)]
    pub(crate) fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// The files that are read, those that are there.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let main = Some(self.main_file()).filter(|path| path.exists());
        main.into_iter().chain(self.fragments(&mut Vec::new())).collect()
    }

    fn main_file(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| DEFAULT_FILE.into())
    }

    /// In the order in which they count.
    fn fragments(&self, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
        let directory = self.main_file().with_file_name("config.d");
        let failed = |error: &io::Error| {
            Problem::new(
                &Origin::File(directory.clone(), None),
                format!("cannot be read: {error}"),
            )
        };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                problems.push(failed(&error));
                return Vec::new();
            }
        };
        let mut found: Vec<PathBuf> = entries
            .filter_map(|entry| match entry {
                Ok(entry) => Some(entry.path()),
                Err(error) => {
                    problems.push(failed(&error));
                    None
                }
            })
            .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
            .collect();
        found.sort();
        found
    }

    /// Reads everything; what is wrong goes to `problems`, and what is not is still read.
    pub(super) fn gather(&self, problems: &mut Vec<Problem>) -> Given {
        let mut given = Given::default();
        for (key, name, value) in &self.proxies {
            let value = Value::Word(value.to_string_lossy().into_owned());
            given.set(key, value, Origin::Environment((*name).to_owned()), problems);
        }
        let main = self.main_file();
        match read(&main) {
            Ok(text) => given.read_toml(&main, &text, problems),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.file.is_none() => {}
            Err(error) => problems.push(unreadable(&main, &error)),
        }
        for path in self.fragments(problems) {
            match read(&path) {
                Ok(text) => given.read_toml(&path, &text, problems),
                Err(error) => problems.push(unreadable(&path, &error)),
            }
        }
        for (name, value) in &self.environment {
            if let Some(key) = KEYS.iter().find(|key| key.variable() == *name) {
                let value = Value::Word(value.to_string_lossy().into_owned());
                given.set(key.name, value, Origin::Environment(name.clone()), problems);
            }
        }
        for (key, flag, value) in &self.flags {
            given.set(key, value.clone(), Origin::Flag(flag), problems);
        }
        given
    }
}

fn value_of(mut values: Vec<String>) -> Value {
    match (values.pop(), values.is_empty()) {
        (Some(only), true) => Value::Word(only),
        (Some(last), false) => {
            values.push(last);
            Value::List(values.into_iter().map(Value::Word).collect())
        }
        (None, _) => Value::List(Vec::new()),
    }
}

/// The text of a file: of a pipe, which would be waited for, and of a device, which may never end, the daemon
/// reads nothing.
fn read(path: &Path) -> io::Result<String> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = File::options()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return refused("it is no regular file");
    }
    if metadata.len() > MAX_FILE {
        return refused("it is longer than 4 MiB");
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "name another with --config, or make it with `coracle config default`",
        io::ErrorKind::InvalidData => "it is no UTF-8 text: write it anew",
        io::ErrorKind::PermissionDenied => "let the daemon's user read it",
        _ => "see to it that the daemon can read it",
    };
    Problem::new(
        &Origin::File(path.to_owned(), None),
        format!("cannot be read: {error}: {remedy}"),
    )
}

/// A line as it may be shown: without what stands behind a name that may be a secret's.
fn without_secret(line: &str) -> String {
    const NAMES: [&str; 5] = ["password", "auth", "token", "credentials", "proxy"];
    match line.split_once('=') {
        Some((name, _)) if NAMES.iter().any(|word| line.contains(word)) => format!("{name}= ..."),
        _ => line.to_owned(),
    }
}

/// The slip that is made most often.
fn hint(line: &str) -> &'static str {
    let value = line.split_once('=').map_or("", |(_, value)| value.trim());
    let bare = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    if bare && !["true", "false"].contains(&value) {
        ": put text into quotes"
    } else {
        ""
    }
}

/// The values that were given and can be, by key, the strongest of each.
#[derive(Debug, Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, (Value, Origin)>,
}

impl Given {
    /// Takes a value. One that cannot be is a problem, also where a stronger one follows.
    fn set(&mut self, key: &str, value: Value, origin: Origin, problems: &mut Vec<Problem>) {
        let Some(key) = KEYS.iter().find(|known| known.name == key) else {
            return;
        };
        match (key.check)(&value) {
            Ok(()) => {
                self.values.insert(key.name, (value, origin));
            }
            Err(remedy) => {
                let shown = if key.secret {
                    "(not shown)".to_owned()
                } else {
                    value.to_string()
                };
                let message = format!("{} = {shown}: {remedy}", key.name);
                problems.push(Problem::new(&origin, message));
            }
        }
    }

    /// The value of a key, read as its type.
    pub(super) fn get<T: Setting>(&self, key: &str) -> Option<T> {
        let (value, _) = self.values.get(key)?;
        T::read(value).ok()
    }

    /// Whence each value that was given comes.
    pub(super) fn into_origins(self) -> BTreeMap<&'static str, Origin> {
        let origins = self.values.into_iter();
        origins.map(|(key, (_, origin))| (key, origin)).collect()
    }

    /// Takes the keys of a text in TOML.
    pub(super) fn read_toml(&mut self, path: &Path, text: &str, problems: &mut Vec<Problem>) {
        // Editors of other systems put a byte order mark before the first line.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let origin_at = |offset: usize| {
            let line = text.as_bytes()[..offset.min(text.len())]
                .iter()
                .filter(|byte| **byte == b'\n')
                .count()
                + 1;
            Origin::File(path.to_owned(), Some(line))
        };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // What is left of a broken file is guesswork, and one slip may be several errors of the parser:
            // the first of a line is told.
            let mut told = BTreeSet::new();
            problems.extend(errors.iter().filter_map(|error| {
                let offset = error.span().map_or(0, |span| span.start);
                let line = text[..offset.min(text.len())].lines().count().max(1);
                if !told.insert(line) {
                    return None;
                }
                let written = text.lines().nth(line - 1).unwrap_or_default().trim();
                let shown = without_secret(written);
                Some(Problem::new(
                    &origin_at(offset),
                    format!("{shown:?} is not TOML: {}{}", error.message(), hint(written)),
                ))
            }));
            return;
        }
        self.read_table("", table.get_ref(), &origin_at, problems);
    }

    fn read_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        origin_at: &impl Fn(usize) -> Origin,
        problems: &mut Vec<Problem>,
    ) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let origin = origin_at(name.span().start);
            let section = format!("{key}.");
            if KEYS.iter().any(|known| known.name == key) {
                self.set(&key, Value::of_toml(value.get_ref()), origin, problems);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) if KEYS.iter().any(|known| known.name.starts_with(&section)) => {
                    self.read_table(&section, inner, origin_at, problems);
                }
                // Each key of a section that nobody knows, since they may belong into several.
                DeValue::Table(inner) if !inner.is_empty() => {
                    problems.extend(inner.keys().map(|name| {
                        let origin = origin_at(name.span().start);
                        Problem::unknown(&origin, &format!("{section}{}", name.get_ref()))
                    }));
                }
                _ if KEYS.iter().any(|known| known.name.starts_with(&section)) => {
                    let message = format!("{key}: is a section: write [{key}] above its keys");
                    problems.push(Problem::new(&origin, message));
                }
                _ => problems.push(Problem::unknown(&origin, &key)),
            }
        }
    }
}
