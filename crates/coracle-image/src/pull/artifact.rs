//! The pull of an artifact: its blobs, one after the other, into one layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use coracle_snapshot::{LayerWriter, Prepared, Unpacked};
use coracle_types::Digest;
use tokio::sync::mpsc;

use super::{CHUNKS, Pull};
use crate::artifact::{self, ArtifactFile, ArtifactPlan, ArtifactReader, MOST_FILES, Part};
use crate::assemble::{Plan, blocking};
use crate::decode::BlobError;
use crate::download::Feed;
use crate::error::Error;
use crate::manifest::{ImageConfig, Manifest};
use crate::progress::{LayerPhase, LayerState};
use crate::registry::Session;
use crate::registry::error::RegistryError;
use crate::settings::ImageSettings;

/// What came of one attempt.
enum Outcome {
    Done(Unpacked),
    /// A blob was damaged, and hosts are left that had no part in it.
    AnotherHost(BlobError),
}

impl Pull {
    /// What is to be fetched of an artifact whose manifest is the last of `documents`. Its id is that of the
    /// manifest: the configuration of most artifacts is the same empty one.
    pub(super) fn artifact_plan(&self, kind: String, documents: Vec<(Digest, Bytes)>) -> Result<Plan, Error> {
        let name = self.reference.to_string();
        let refuse = |source| Error::Document {
            image: name.clone(),
            source,
        };
        let limit = |what, found, limit| Error::Limit {
            image: name.clone(),
            what,
            found,
            limit,
        };
        let (id, bytes) = documents.last().cloned().ok_or(Error::Interrupted {
            operation: "reading a manifest",
        })?;
        let layers = Manifest::of_artifact(&bytes).map_err(refuse)?.layers;
        if layers.len() > MOST_FILES {
            return Err(limit("files", layers.len() as u64, MOST_FILES as u64));
        }
        let files = artifact::files(&layers).map_err(refuse)?;
        let plan = Plan {
            id,
            config: ImageConfig {
                platform: self.workshop.platform.clone(),
                created: String::new(),
                settings: ImageSettings::default(),
                diff_ids: Vec::new(),
            },
            layers,
            documents,
            origins: BTreeMap::new(),
            name: name.clone(),
            artifact: Some(ArtifactPlan { kind, files }),
        };
        let (size, most) = (plan.download_size(), self.workshop.limits.download);
        if size > most {
            return Err(limit("bytes", size, most));
        }
        Ok(plan)
    }

    /// The layer with an artifact's files.
    pub(super) async fn artifact_layer(&self, session: &Session, plan: &Plan) -> Result<Unpacked, Error> {
        let files = plan.artifact.as_ref().map_or(&[][..], |artifact| &artifact.files);
        let states: Vec<Arc<LayerState>> = files
            .iter()
            .map(|file| Arc::new(LayerState::new(file.blob.digest.clone(), file.blob.size)))
            .collect();
        self.state.set_layers(states.clone());
        let _alone = self.workshop.alone_with(&plan.id).await;
        loop {
            let (workshop, manifest) = (Arc::clone(&self.workshop), plan.id.clone());
            let prepared = blocking("preparing an artifact", move || {
                workshop.snapshots.prepare_artifact(&manifest)
            })
            .await?
            .map_err(|source| self.snapshot_error(source))?;
            let writer = match prepared {
                Prepared::Present(layer) => {
                    states.iter().for_each(|state| state.enter(LayerPhase::Present));
                    return Ok(layer.into());
                }
                Prepared::Wanted(writer) => writer,
            };
            match self.take(session, files, &states, writer).await? {
                Outcome::Done(layer) => return Ok(layer),
                Outcome::AnotherHost(refusal) => {
                    tracing::warn!(artifact = %plan.id, %refusal, "the artifact is taken from another host");
                    states.iter().for_each(|state| state.set_done(0));
                }
            }
        }
    }

    async fn take(
        &self,
        session: &Session,
        files: &[ArtifactFile],
        states: &[Arc<LayerState>],
        writer: LayerWriter,
    ) -> Result<Outcome, Error> {
        let (sender, receiver) = mpsc::channel(1);
        let unpacking = blocking("unpacking an artifact", move || {
            let mut reader = ArtifactReader::new(receiver);
            let unpacked = writer.extract(&mut reader);
            (unpacked, reader.verdict())
        });
        let mut hosts = BTreeSet::new();
        let feeding = feed(session, files, states, sender, &mut hosts);
        let (fed, unpacked) = futures::future::join(feeding, unpacking).await;
        match (fed, unpacked?) {
            (_, (Ok(layer), _)) => Ok(Outcome::Done(layer)),
            (Err(error), _) => Err(self.registry_error(error)),
            (Ok(()), (Err(_), Some(refusal))) => {
                let damaged = matches!(refusal, BlobError::Digest { .. } | BlobError::Length { .. });
                if damaged && !hosts.is_empty() && hosts.iter().all(|host| session.avoid(host)) {
                    return Ok(Outcome::AnotherHost(refusal));
                }
                let layer = match &refusal {
                    BlobError::Digest { expected, .. } => Some(expected),
                    _ => None,
                };
                let first = files.first().map(|file| &file.blob.digest);
                Err(match layer.or(first) {
                    Some(layer) => Error::Blob {
                        image: self.reference.to_string(),
                        layer: layer.clone(),
                        source: refusal,
                    },
                    None => Error::Interrupted {
                        operation: "unpacking an artifact",
                    },
                })
            }
            (Ok(()), (Err(source), None)) => Err(self.snapshot_error(source)),
        }
    }

    fn snapshot_error(&self, source: coracle_snapshot::Error) -> Error {
        Error::Snapshot {
            image: self.reference.to_string(),
            source,
        }
    }
}

/// Sends the archive of the files, each blob as it comes. The receiver going away is no failure of this side.
async fn feed(
    session: &Session,
    files: &[ArtifactFile],
    states: &[Arc<LayerState>],
    parts: mpsc::Sender<Part>,
    hosts: &mut BTreeSet<String>,
) -> Result<(), RegistryError> {
    let mut made = BTreeSet::new();
    for (file, state) in files.iter().zip(states) {
        state.enter(LayerPhase::Downloading);
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let blob = &file.blob;
        let both = [
            Part::Bytes(artifact::headers(file, &mut made)),
            Part::Blob {
                chunks,
                digest: blob.digest.clone(),
                size: blob.size,
            },
        ];
        for part in both {
            if parts.send(part).await.is_err() {
                return Ok(());
            }
        }
        let mut feed = Feed::new(session, &blob.digest, blob.size, state);
        let fed = feed.run(sender).await;
        hosts.append(&mut feed.hosts);
        fed?;
        state.enter(LayerPhase::Done);
    }
    for part in [Part::Bytes(artifact::trailer()), Part::End] {
        if parts.send(part).await.is_err() {
            break;
        }
    }
    Ok(())
}
