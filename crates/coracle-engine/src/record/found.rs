//! What is remembered, at start: files and database side by side, and what neither can tell.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use coracle_store::Table;
use coracle_types::format::Newer;
use coracle_types::{ContainerId, PodSandboxId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ContainerRecord, FORMAT, PodRecord, store_failed};
use crate::error::EngineError;

/// What was found at start.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Pods by id, as of this boot where there is a file, else as of the database.
    pub(crate) pods: Vec<PodRecord>,
    /// Containers likewise.
    pub(crate) containers: Vec<ContainerRecord>,
    /// Of which neither file nor database can be read though something of them may live.
    pub(crate) damaged_pods: Vec<Damaged>,
    /// Containers likewise.
    pub(crate) damaged_containers: Vec<Damaged>,
    /// Whose file is damaged and was read from the database.
    pub(crate) mended: Vec<Damaged>,
    /// Ids that have a file, readable or not.
    pub(super) on_file: HashSet<String>,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damaged {
    /// Whose: the name of its directory, or its key in the database.
    pub(crate) id: String,
    /// What is wrong with which file.
    pub(crate) reason: String,
    /// Whether it has a directory of this boot.
    pub(crate) on_file: bool,
    /// Whether it is whole and of a newer program: it stays as it is.
    pub(crate) newer: bool,
}

impl Found {
    /// Takes out the pods and containers that were removed when the daemon died before the database heard
    /// of it. What lives in this boot has a file: it is written first and removed last.
    pub(crate) fn take_removed(&mut self, boot: &str) -> (Vec<PodSandboxId>, Vec<ContainerId>) {
        let on_file = &self.on_file;
        let of_this_boot = self.pods.iter().filter(|pod| pod.boot == boot);
        let booted: HashSet<_> = of_this_boot.map(|pod| pod.id.clone()).collect();
        let is_gone = |pod: &PodSandboxId, id: &str| booted.contains(pod) && !on_file.contains(id);
        let containers = self
            .containers
            .extract_if(.., |record| is_gone(&record.pod, record.id.as_str()))
            .map(|record| record.id);
        let containers = containers.collect();
        let pods = self
            .pods
            .extract_if(.., |pod| is_gone(&pod.id, pod.id.as_str()))
            .map(|pod| pod.id);
        (pods.collect(), containers)
    }
}

/// What one sort of record comes to.
pub(super) struct Merged<V> {
    pub(super) records: Vec<V>,
    pub(super) damaged: Vec<Damaged>,
    pub(super) mended: Vec<Damaged>,
    pub(super) on_file: HashSet<String>,
}

enum OnFile<V> {
    Whole(V),
    Damaged(String),
    Newer(String),
}

/// A directory without a record whose making was cut is nobody's, and recovery removes it; `lives` says that
/// more is in it.
pub(super) fn merge<V: Serialize + DeserializeOwned>(
    dir: &Path,
    table: &Table<V>,
    lives: impl Fn(&Path) -> bool,
) -> Result<Merged<V>, EngineError> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path().join("record.json");
        let name = entry.file_name().to_string_lossy().into_owned();
        let told =
            |problem: &dyn std::fmt::Display| OnFile::Damaged(format!("{}: {problem}", path.display()));
        let read = |text: Vec<u8>| (serde_json::from_slice::<V>(&text), Newer::check(&text, FORMAT));
        match fs::read(&path).map(read) {
            Ok((Ok(value), _)) => files.insert(name, OnFile::Whole(value)),
            Ok((Err(_), Err(newer))) => {
                files.insert(name, OnFile::Newer(format!("{}: {newer}", path.display())))
            }
            Ok((Err(error), Ok(()))) => files.insert(name, told(&error)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => files.insert(name, told(&error)),
            Err(_) if lives(&entry.path()) => {
                files.insert(name, told(&"it is missing, and something of its owner lives"))
            }
            Err(_) => None,
        };
    }
    let mut rows: BTreeMap<String, Result<V, String>> =
        table.all().map_err(store_failed)?.into_iter().collect();
    let keys: BTreeSet<String> = files.keys().chain(rows.keys()).cloned().collect();
    let mut merged = Merged {
        records: Vec::new(),
        damaged: Vec::new(),
        mended: Vec::new(),
        on_file: files.keys().cloned().collect(),
    };
    for id in keys {
        let damaged = |reason: String, on_file| Damaged {
            id: id.clone(),
            reason,
            on_file,
            newer: false,
        };
        match (files.remove(&id), rows.remove(&id)) {
            (Some(OnFile::Whole(value)), _) | (None, Some(Ok(value))) => merged.records.push(value),
            (Some(OnFile::Damaged(reason)), Some(Ok(value))) => {
                merged.mended.push(damaged(reason, true));
                merged.records.push(value);
            }
            (Some(OnFile::Damaged(reason)), _) => merged.damaged.push(damaged(reason, true)),
            // The database's row is older than the file, or as new.
            (Some(OnFile::Newer(reason)), _) => merged.damaged.push(Damaged {
                newer: true,
                ..damaged(reason, true)
            }),
            (None, Some(Err(reason))) => {
                let reason = format!("its record in the database: {reason}");
                merged.damaged.push(damaged(reason, false));
            }
            (None, None) => {}
        }
    }
    Ok(merged)
}
