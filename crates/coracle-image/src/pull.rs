//! One pull: reference to manifest to platform to layers, all verified, to a published image.

mod artifact;

use std::collections::BTreeMap;
use std::sync::Arc;

use coracle_snapshot::{Prepared, Unpacked};
use coracle_sys::steps::entering;
use coracle_types::image::Credentials;
use coracle_types::{Digest, Kind, Kinded};
use futures::future::join_all;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::assemble::{Announced, LayerJob, Plan, UnpackError, Workshop, blocking, unpack};
use crate::catalog::{Image, Names};
use crate::decode::{BlobError, Budget};
use crate::download::Feed;
use crate::error::Error;
use crate::manifest::{Document, ImageConfig, MalformedDocument, Manifest, is_foreign};
use crate::origin::Origin;
use crate::policy::{Policy, Refusal};
use crate::progress::{LayerPhase, LayerState, PullState};
use crate::reference::Reference;
use crate::registry::error::RegistryError;
use crate::registry::{Fetched, Registries, Session, Target};

/// Chunks between network and unpacker; each is at most what one read of a connection gives, some 400 KiB where it
/// is fast: with more of them, three layers at a time took the memory that one pull may have.
const CHUNKS: usize = 4;
/// Indexes that may lead to each other before a manifest comes.
const MAX_INDEXES: usize = 2;

/// What one pull works with.
pub(crate) struct Pull {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) registries: Arc<Registries>,
    pub(crate) reference: Reference,
    pub(crate) credentials: Option<Credentials>,
    /// Which images may be pulled; `None` allows all.
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) state: Arc<PullState>,
}

impl Pull {
    pub(crate) async fn run(self) -> Result<Arc<Image>, Error> {
        if let Some(policy) = &self.policy {
            // What is refused by its name needs no registry.
            policy
                .by_name(&self.reference)
                .map_err(|source| self.refused(source))?;
        }
        let session = self
            .registries
            .session(&self.reference, self.credentials.as_ref())
            .await;
        let session = session.map_err(|source| self.registry_error(source))?;
        let target = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => Target::Digest(digest.clone()),
            (None, tag) => Target::Tag(tag.unwrap_or_default().to_owned()),
        };
        if let Some(image) = self.unchanged(&session, &target).await? {
            return Ok(image);
        }
        entering("pull.documents");
        let (mut plan, root) = self.plan(&session, &target).await?;
        if plan.artifact.is_some() {
            entering("pull.layers");
            let layer = self.artifact_layer(&session, &plan).await?;
            plan.origins.extend(self.state.origins());
            return self.workshop.publish(plan, vec![layer], self.names(&root)).await;
        }
        let jobs = plan.jobs(&self.workshop.limits, Announced::ByMediaType)?;
        entering("pull.layers");
        let layers = self.layers(&session, jobs).await?;
        plan.origins.extend(self.state.origins());
        self.workshop.publish(plan, layers, self.names(&root)).await
    }

    fn names(&self, root: &Digest) -> Vec<Names> {
        vec![Names {
            tag: self.reference.repo_tag(),
            digest: Some(self.reference.repo_digest(root)),
        }]
    }

    fn refused(&self, source: Refusal) -> Error {
        Error::Refused {
            image: self.reference.to_string(),
            source,
        }
    }

    /// Asks the policy, before anything is fetched that an unsigned manifest names.
    async fn judge(&self, session: &Session, digests: &[Digest]) -> Result<(), Error> {
        match &self.policy {
            Some(policy) => policy
                .judge(session, &self.reference, digests)
                .await
                .map_err(|source| self.refused(source)),
            None => Ok(()),
        }
    }

    /// The digests that lead from `root` to the manifest of an image that is here.
    async fn path_to_manifest(&self, root: &Digest) -> Result<Vec<Digest>, Error> {
        let mut path = vec![root.clone()];
        while self.policy.is_some() && path.len() <= MAX_INDEXES {
            let (content, digest) = (self.workshop.content.clone(), path[path.len() - 1].clone());
            let bytes = blocking("reading a document", move || content.read(&digest)).await??;
            let next = match Document::parse(&bytes, "") {
                Ok(Document::Index(index)) => index.select(&self.workshop.platform).ok().cloned(),
                _ => None,
            };
            match next {
                Some(next) => path.push(next.digest),
                None => break,
            }
        }
        Ok(path)
    }

    fn registry_error(&self, source: RegistryError) -> Error {
        Error::Registry {
            image: self.reference.to_string(),
            source,
        }
    }

    /// The image that is here already, when the registry says that the name still leads to it. The
    /// registry is asked in any case: it may have withdrawn the image or the right to it.
    async fn unchanged(&self, session: &Session, target: &Target) -> Result<Option<Arc<Image>>, Error> {
        let known = |digest: &Digest| self.workshop.catalog.get(&self.reference.repo_digest(digest));
        if self.workshop.catalog.get(&self.reference.to_string()).is_none() {
            return Ok(None);
        }
        let Some(root) = session.head(target).await else {
            return Ok(None);
        };
        let Some(image) = known(&root) else {
            return Ok(None);
        };
        let tag = self.reference.repo_tag();
        if tag.is_none_or(|tag| image.repo_tags.contains(&tag)) {
            self.judge(session, &self.path_to_manifest(&root).await?).await?;
            return Ok(Some(image));
        }
        Ok(None)
    }

    /// Everything about the image but its layers; with the digest that the name led to.
    async fn plan(&self, session: &Session, target: &Target) -> Result<(Plan, Digest), Error> {
        let name = self.reference.to_string();
        let refuse = |source| Error::Document {
            image: name.clone(),
            source,
        };
        let (mut documents, mut origins) = (Vec::new(), BTreeMap::new());
        let fetched = session
            .manifest(target)
            .await
            .map_err(|source| self.registry_error(source))?;
        let root = fetched.digest.clone();
        let mut document = Document::parse(&fetched.bytes, &fetched.media_type);
        origins.insert(fetched.digest.clone(), Origin::hosts([fetched.host]));
        documents.push((fetched.digest, fetched.bytes));
        let manifest: Manifest = loop {
            let index = match document {
                Ok(Document::Manifest(manifest)) => break manifest,
                Err(MalformedDocument::NotAnImage { media_type }) => {
                    self.judge(session, &digests_of(&documents)).await?;
                    let mut plan = self.artifact_plan(media_type, documents)?;
                    plan.origins = origins;
                    return Ok((plan, root));
                }
                Err(malformed) => return Err(refuse(malformed)),
                Ok(Document::Index(index)) if documents.len() <= MAX_INDEXES => index,
                Ok(Document::Index(_)) => {
                    return Err(Error::Limit {
                        image: name.clone(),
                        what: "indexes inside each other",
                        found: documents.len() as u64,
                        limit: MAX_INDEXES as u64,
                    });
                }
            };
            let chosen = index.select(&self.workshop.platform).map_err(refuse)?;
            let next: Fetched = session
                .manifest(&Target::Digest(chosen.digest.clone()))
                .await
                .map_err(|source| self.registry_error(source))?;
            document = Document::parse(&next.bytes, &next.media_type);
            if !chosen.media_type.is_empty() && document.is_ok() {
                // The index's word on what this is counts as much as the header's.
                document = Document::parse(&next.bytes, &chosen.media_type);
            }
            origins.insert(next.digest.clone(), Origin::hosts([next.host]));
            documents.push((next.digest, next.bytes));
        };
        self.judge(session, &digests_of(&documents)).await?;
        let config = &manifest.config;
        let (bytes, host) = session
            .small_blob(&config.digest, config.size)
            .await
            .map_err(|source| self.registry_error(source))?;
        let parsed = ImageConfig::parse(&bytes, &self.workshop.platform, manifest.layers.len());
        let parsed = parsed.map_err(refuse)?;
        origins.insert(config.digest.clone(), Origin::hosts([host]));
        documents.push((config.digest.clone(), bytes));
        let plan = Plan {
            id: manifest.config.digest,
            config: parsed,
            layers: manifest.layers,
            documents,
            origins,
            name,
            artifact: None,
        };
        Ok((plan, root))
    }

    /// All layers, in parallel within bounds; the first failure stops the others, and it returns when
    /// all have stopped.
    async fn layers(&self, session: &Session, jobs: Vec<LayerJob>) -> Result<Vec<Unpacked>, Error> {
        let states: Vec<Arc<LayerState>> = jobs
            .iter()
            .map(|job| Arc::new(LayerState::new(job.blob.digest.clone(), job.blob.size)))
            .collect();
        self.state.set_layers(states.clone());
        let crew = Crew {
            pull: self,
            session,
            turns: Semaphore::new(self.registries.downloads().layers.max(1)),
            budget: Arc::new(Budget::new(self.workshop.limits.unpacked)),
            stop: CancellationToken::new(),
        };
        let work = jobs.into_iter().zip(&states).map(|(job, state)| {
            let crew = &crew;
            async move {
                let outcome = crew.layer(job, state).await;
                if outcome.is_err() {
                    crew.stop.cancel();
                }
                outcome
            }
        });
        let mut unpacked = Vec::with_capacity(states.len());
        let mut failure = None;
        for outcome in join_all(work).await {
            match outcome {
                Ok(layer) => unpacked.push(layer),
                // Those that were stopped say so; the one that stopped them says why.
                Err(Error::Interrupted { .. }) if failure.is_some() => {}
                Err(error) => match &failure {
                    None | Some(Error::Interrupted { .. }) => failure = Some(error),
                    Some(_) => {}
                },
            }
        }
        failure.map_or(Ok(unpacked), Err)
    }
}

fn digests_of(documents: &[(Digest, bytes::Bytes)]) -> Vec<Digest> {
    documents.iter().map(|(digest, _)| digest.clone()).collect()
}

/// The layers of one pull share this.
struct Crew<'a> {
    pull: &'a Pull,
    session: &'a Session,
    turns: Semaphore,
    budget: Arc<Budget>,
    stop: CancellationToken,
}

const STOPPED: Error = Error::Interrupted {
    operation: "downloading a layer",
};

impl Crew<'_> {
    async fn layer(&self, job: LayerJob, state: &LayerState) -> Result<Unpacked, Error> {
        let waiting = async {
            let alone = self.pull.workshop.alone_with(&job.layer.diff_id).await;
            let turn = self.turns.acquire().await;
            (alone, turn)
        };
        let turn = self.stop.run_until_cancelled(waiting).await;
        let (_alone, _turn) = turn.ok_or(STOPPED)?;
        loop {
            let prepared = self.pull.workshop.prepare(&job).await?;
            let writer = match prepared {
                Prepared::Present(layer) => {
                    state.enter(LayerPhase::Present);
                    return Ok(layer.into());
                }
                Prepared::Wanted(writer) => writer,
            };
            state.enter(LayerPhase::Downloading);
            let (sender, receiver) = mpsc::channel(CHUNKS);
            let unpacking = {
                let (job, budget) = (job.clone(), Arc::clone(&self.budget));
                let chunks = crate::decode::Chunks::new(receiver);
                blocking("unpacking a layer", move || unpack(writer, chunks, &job, budget))
            };
            let mut feed = Feed::new(self.session, &job.blob.digest, job.blob.size, state);
            let feeding = self.stop.run_until_cancelled(feed.run(sender));
            let (fed, unpacked) = futures::future::join(feeding, unpacking).await;
            match (fed, unpacked?) {
                (_, Ok(unpacked)) => {
                    state.came_from(&feed.hosts);
                    state.enter(LayerPhase::Done);
                    return Ok(unpacked);
                }
                (None, Err(_)) => return Err(STOPPED),
                (Some(Err(error)), Err(_)) => return Err(self.download_error(error, &job)),
                (Some(Ok(())), Err(UnpackError::Blob(refusal)))
                    if self.another_host_may_do_better(&refusal, &feed) =>
                {
                    tracing::warn!(layer = %job.blob.digest, %refusal, "the layer is taken from another host");
                    state.set_done(0);
                }
                (Some(Ok(())), Err(error)) => return Err(unpack_error(error, &job)),
            }
        }
    }

    /// A damaged blob is asked of the hosts that had no part in it.
    fn another_host_may_do_better(&self, refusal: &BlobError, feed: &Feed<'_>) -> bool {
        let damaged = matches!(refusal, BlobError::Digest { .. } | BlobError::Length { .. });
        // Each host is left out in turn; at least one other must remain after that.
        damaged && feed.hosts.iter().all(|host| self.session.avoid(host))
    }

    fn download_error(&self, source: RegistryError, job: &LayerJob) -> Error {
        if source.kind() == Kind::NotFound && is_foreign(&job.blob.media_type) {
            return Error::Foreign {
                image: job.layer.image.clone(),
                layer: job.blob.digest.clone(),
                source,
            };
        }
        self.pull.registry_error(source)
    }
}

/// An unpacker's failure as an error of the image.
pub(crate) fn unpack_error(error: UnpackError, job: &LayerJob) -> Error {
    let image = job.layer.image.clone();
    match error {
        UnpackError::Blob(source) => Error::Blob {
            image,
            layer: job.blob.digest.clone(),
            source,
        },
        UnpackError::Snapshot(source) => Error::Snapshot { image, source },
        UnpackError::Read(source) => Error::Content {
            operation: "read a layer of",
            path: image.into(),
            source,
        },
    }
}
