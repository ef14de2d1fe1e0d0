//! The record of an attachment: what DEL, CHECK and a restart need.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use coracle_types::PodSandboxId;
use coracle_types::format::{Format, Newer};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::chain::chained;
use super::configuration::NetworkConf;
use super::result::CniResult;
use crate::{Attachment, Error, PodNetwork};

/// The format of records of attachments.
const FORMAT: u32 = 1;

/// An attachment, begun or finished.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// A newer one is not read.
    #[serde(default)]
    pub(crate) format: Format<FORMAT>,
    pub(crate) pod: PodNetwork,
    pub(crate) conf: NetworkConf,
    /// Which plugins ran in process; the others' programs have to undo what they did.
    pub(crate) in_process: Vec<bool>,
    /// What the capability `ipRanges` was.
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// The last plugin's result; `None` while ADD is under way, or when it died there.
    pub(crate) result: Option<CniResult>,
    /// What the pod was told it has.
    pub(crate) attachment: Option<Attachment>,
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| Error::State {
                operation: "make the directory",
                path: dir.into(),
                source,
            })?;
        Ok(Self { dir: dir.into() })
    }

    pub(crate) fn path(&self, pod: &PodSandboxId) -> PathBuf {
        self.dir.join(format!("{pod}.json"))
    }

    /// Replaces the pod's record; a reader sees the old one or the new.
    pub(crate) fn put(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(&record.pod.id);
        let failed = |source| Error::State {
            operation: "write",
            path: path.clone(),
            source,
        };
        let text = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        let fresh = path.with_extension("new");
        fs::File::create(&fresh)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(failed)
    }

    pub(crate) fn get(&self, pod: &PodSandboxId) -> Result<Option<Record>, Error> {
        let path = self.path(pod);
        match fs::read(&path) {
            Ok(text) => match (serde_json::from_slice(&text), Newer::check(&text, FORMAT)) {
                (Ok(record), _) => Ok(Some(record)),
                (Err(_), Err(newer)) => Err(Error::State {
                    operation: "read",
                    path,
                    source: io::Error::new(io::ErrorKind::Unsupported, newer),
                }),
                // Cut short, or of a program that wrote it differently: as if it were gone, which DEL bears.
                (Err(error), Ok(())) => {
                    tracing::warn!(path = %path.display(), %error, "a record that cannot be read is passed over");
                    Ok(None)
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::State {
                operation: "read",
                path,
                source,
            }),
        }
    }

    pub(crate) fn remove(&self, pod: &PodSandboxId) -> Result<(), Error> {
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::State {
                operation: "remove",
                path,
                source,
            }),
            _ => Ok(()),
        }
    }

    /// Every record that can be read.
    pub(crate) fn all(&self) -> Result<Vec<Record>, Error> {
        let failed = |source| Error::State {
            operation: "list",
            path: self.dir.clone(),
            source,
        };
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let pod = name
                .to_str()
                .and_then(|name| name.strip_suffix(".json"))
                .and_then(|id| id.parse().ok());
            let record = pod.map(|pod| self.get(&pod)).transpose();
            match record {
                Ok(record) => records.extend(record.flatten()),
                // The pod is told when it is asked about; the others' networks come up.
                Err(error) => {
                    tracing::error!(error = %chained(&error), "the attachment of one pod is not known")
                }
            }
        }
        Ok(records)
    }
}
