//! What the daemon goes by: whether it can be read, whether it is in force, whether what it names is there.

use crate::State::{Broken, Costs};
use crate::{Configuration, Finding, Subject, Topic};

/// Users and groups of the node.
const GROUPS: &str = "/etc/group";
/// More names of registries than this are counted only.
const NAMED: usize = 4;

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let Some(configuration) = &subject.configuration else {
        let seen = "another runtime's, which is not known here";
        return vec![finding("source", seen)];
    };
    vec![
        written(configuration),
        in_force(configuration),
        socket(subject, configuration),
        group(subject, configuration),
        registries(subject, configuration),
    ]
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Configuration, name, seen)
}

/// The first, and how many there are besides.
fn counted(mut words: impl ExactSizeIterator<Item = String>) -> String {
    let count = words.len();
    let first = words.next().unwrap_or_default();
    match count {
        0 | 1 => first,
        _ => format!("{first} (and {} more)", count - 1),
    }
}

fn written(configuration: &Configuration) -> Finding {
    let mistakes = &configuration.mistakes;
    if mistakes.is_empty() {
        return finding("source", configuration.source.as_str());
    }
    finding("source", counted(mistakes.iter().cloned())).but(
        Broken,
        "a daemon that starts now refuses to; one that runs goes on with what it has",
        "coracle config check says file, line and remedy of each mistake",
    )
}

fn in_force(configuration: &Configuration) -> Finding {
    const NAME: &str = "in force";
    let pending = &configuration.pending;
    if pending.is_empty() {
        return finding(NAME, "all that is written");
    }
    let remedy = if pending.iter().any(|one| one.restart) {
        "systemctl restart coracle: pods run on"
    } else {
        "coracle config reload"
    };
    finding(NAME, counted(pending.iter().map(|one| one.words.clone()))).but(
        Costs,
        "the daemon does not do yet what is written",
        remedy,
    )
}

fn socket(subject: &Subject, configuration: &Configuration) -> Finding {
    let (configured, asked) = (configuration.socket.display(), subject.socket.display());
    finding("socket", configured.to_string()).unless(
        configuration.socket == subject.socket,
        Costs,
        format!("this command asked at {asked}, where that daemon does not listen"),
        format!("export CORACLE_SOCKET={configured}, or give --socket"),
    )
}

fn group(subject: &Subject, configuration: &Configuration) -> Finding {
    const NAME: &str = "group of the socket";
    let name = configuration.socket_group.as_str();
    if name.is_empty() {
        return finding(NAME, "none: the socket is root's");
    }
    let groups = subject.text(GROUPS).unwrap_or_default();
    let members = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(2).unwrap_or_default())
    });
    match members {
        None if name.parse::<u32>().is_ok() => finding(NAME, name),
        None => finding(NAME, format!("{name}, which is not in {GROUPS}")).but(
            Broken,
            "the daemon does not start",
            format!("groupadd --system {name}, or say socket_group = \"\""),
        ),
        Some("") => finding(NAME, format!("{name}, with nobody in it")),
        Some(members) => finding(NAME, format!("{name}: {members}, who can become root")),
    }
}

/// Registries that are reached in another way than by their names.
fn registries(subject: &Subject, configuration: &Configuration) -> Finding {
    const NAME: &str = "registries";
    let there = |directory: &&std::path::PathBuf| subject.path(directory).is_dir();
    let mut names: Vec<String> = configuration
        .registry_dirs
        .iter()
        .filter(there)
        .flat_map(|directory| subject.names(directory))
        .collect();
    names.sort();
    names.dedup();
    let seen = match names.len() {
        0 => "each is asked at its own name: no hosts.toml is there".to_owned(),
        1..=NAMED => format!("by hosts.toml: {}", names.join(", ")),
        count => format!("by hosts.toml: {count} of them"),
    };
    finding(NAME, seen)
}
