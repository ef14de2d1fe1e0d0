//! The node's images: pulled once however many ask, listed without IO, removed with their bytes.

mod archives;
mod damage;
mod people;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use coracle_snapshot::{Snapshotter, Usage};
use coracle_store::Store;
use coracle_sys::steps::entering;
use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};
use tokio::sync::watch;
use tracing::Instrument as _;

use crate::assemble::{Limits, Workshop, blocking};
use crate::catalog::{Catalog, Image};
use crate::content::Content;
use crate::error::Error;
use crate::load::{self, Source};
use crate::platform::Platform;
use crate::policy::{Policy, PolicySource};
use crate::progress::{Progress, PullState};
use crate::pull::Pull;
use crate::reference::Reference;
use crate::registry::Registries;
use crate::registry::breaker::HostPause;
use crate::registry::config::RegistryConfig;

pub use self::archives::ArchivesLoaded;

/// How long layers of a pull that failed for want of its registry wait for the next attempt.
const ABANDONED: Duration = Duration::from_mins(10);
/// How often a pull's progress is told.
const TICK: Duration = Duration::from_millis(100);

/// The unit in which file systems give space to the small files of the content store.
const BLOCK: u64 = 4096;

/// What the images of a node need of the house around them.
pub struct ImagesConfig {
    /// The daemon's root directory; documents lie in `blobs/sha256` below it.
    pub root: PathBuf,
    /// How registries are found and asked.
    pub registries: RegistryConfig,
    /// Where the records are kept.
    pub store: Store,
    /// Where the layers go.
    pub snapshots: Arc<dyn Snapshotter>,
    /// Which of an index's images is taken.
    pub platform: Platform,
    /// Images that the kubelet must not collect, by reference.
    pub pinned: Vec<Reference>,
    /// How large images may be.
    pub limits: Limits,
    /// Which images may be pulled.
    pub policy: PolicySource,
}

impl ImagesConfig {
    /// The defaults for images below `root`, in `store`, on `snapshots`.
    #[must_use]
    pub fn new(root: &Path, store: Store, snapshots: Arc<dyn Snapshotter>) -> Self {
        Self {
            root: root.to_owned(),
            registries: RegistryConfig::default(),
            store,
            snapshots,
            platform: Platform::host(),
            pinned: Vec::new(),
            limits: Limits::default(),
            policy: PolicySource::default(),
        }
    }
}

/// What to pull.
#[derive(Debug, Clone, Default)]
pub struct PullRequest {
    /// A reference as users write it.
    pub reference: String,
    /// Shown to the registry only.
    pub credentials: Option<Credentials>,
    /// The Kubernetes namespace of the pod that needs it, whose signature policy counts.
    pub namespace: Option<String>,
}

/// The images of a node. Cheap to clone.
#[derive(Clone)]
pub struct Images(Arc<Shared>);

struct Shared {
    workshop: Arc<Workshop>,
    registries: RwLock<Arc<Registries>>,
    policy: RwLock<PolicySource>,
    under_way: Mutex<Vec<Arc<UnderWay>>>,
}

type Outcome = Result<Arc<Image>, Arc<Error>>;

/// A pull that runs in a task of its own, whoever waits for it.
struct UnderWay {
    reference: Reference,
    credentials: Option<Credentials>,
    policy: Option<Arc<Policy>>,
    state: Arc<PullState>,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Images")
    }
}

impl Images {
    /// Reads the records, drops images that are broken, and removes what no image needs. Layers whose trees were
    /// changed are looked for afterwards, in the background.
    ///
    /// # Errors
    /// When the database or the directory cannot be read.
    pub async fn open(config: ImagesConfig) -> Result<Self, Error> {
        let registries = Arc::new(Registries::new(config.registries));
        let mut pinned = BTreeSet::new();
        for reference in &config.pinned {
            pinned.extend(reference.repo_tag());
            pinned.extend(reference.digest().map(|digest| reference.repo_digest(digest)));
        }
        let (root, store, snapshots) = (config.root, config.store, config.snapshots);
        let (platform, limits) = (config.platform, config.limits);
        let workshop = blocking("opening the images", move || -> Result<Workshop, Error> {
            let content = Content::open(&root)?;
            let catalog = Catalog::open(&store, Some(root.join("images.json")), pinned, |image| {
                is_whole(image, &content, snapshots.as_ref())
            })?;
            let in_use = catalog.in_use();
            content.retain(&in_use.documents)?;
            if let Err(error) = snapshots.gc(&in_use.layers) {
                tracing::warn!(%error, "layers that no image needs could not be removed");
            }
            Ok(Workshop::new(snapshots, content, catalog, platform, limits))
        })
        .await??;
        let images = Self(Arc::new(Shared {
            workshop: Arc::new(workshop),
            registries: RwLock::new(registries),
            policy: RwLock::new(config.policy),
            under_way: Mutex::new(Vec::new()),
        }));
        damage::look(&images);
        Ok(images)
    }

    /// Pulls an image, or joins the same pull that is under way (same reference, credentials and signature
    /// policy).
    /// Dropping the future leaves the pull running.
    ///
    /// # Errors
    /// Of kind `NotFound`, `PermissionDenied`, `RegistryUnavailable`, `InvalidArgument` for an image
    /// that is refused, `ResourceExhausted` for limits and a full disk.
    pub async fn pull(&self, request: PullRequest, progress: &dyn Progress) -> Result<Arc<Image>, Error> {
        let reference: Reference = request.reference.parse()?;
        let policy = self.policy_for(&reference, request.namespace).await?;
        let pull = self.join(reference, request.credentials, policy);
        let mut outcome = pull.outcome.clone();
        let mut seen = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = outcome.wait_for(Option::is_some) => {
                    let ended = ended.ok().and_then(|outcome| outcome.clone());
                    pull.state.report(progress, &mut seen);
                    let ended = ended.ok_or(Error::Interrupted { operation: "the pull" })?;
                    return ended.map_err(Error::Shared);
                }
                _ = ticks.tick() => pull.state.report(progress, &mut seen),
            }
        }
    }

    /// The policy that counts; none that cannot be used is ever left out.
    async fn policy_for(
        &self,
        reference: &Reference,
        namespace: Option<String>,
    ) -> Result<Option<Arc<Policy>>, Error> {
        let source = {
            let policy = self.0.policy.read().unwrap_or_else(PoisonError::into_inner);
            policy.clone()
        };
        blocking("reading a signature policy", move || {
            source.policy_for(namespace.as_deref())
        })
        .await?
        .map_err(|source| Error::Policy {
            image: reference.to_string(),
            source,
        })
    }

    fn join(
        &self,
        reference: Reference,
        credentials: Option<Credentials>,
        policy: Option<Arc<Policy>>,
    ) -> Arc<UnderWay> {
        let shared = &self.0;
        let mut under_way = shared.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |pull: &&Arc<UnderWay>| {
            pull.reference == reference && pull.credentials == credentials && pull.policy == policy
        };
        if let Some(pull) = under_way.iter().find(same) {
            return Arc::clone(pull);
        }
        let (sender, outcome) = watch::channel(None);
        let state = Arc::new(PullState::default());
        let entry = Arc::new(UnderWay {
            reference: reference.clone(),
            credentials: credentials.clone(),
            policy: policy.clone(),
            state: Arc::clone(&state),
            outcome,
        });
        under_way.push(Arc::clone(&entry));
        let pull = Pull {
            workshop: Arc::clone(&shared.workshop),
            registries: shared.registries(),
            reference,
            credentials,
            policy,
            state,
        };
        let leaving = Leaving {
            shared: Arc::clone(shared),
            entry: Arc::clone(&entry),
        };
        let work = async move {
            let outcome = pull.run().await;
            if let Err(error) = &outcome {
                leaving.shared.after_failure(error.kind()).await;
            }
            let outcome = outcome.map_err(Arc::new);
            // It is no longer under way when its outcome shows, so that the next pull is a new one.
            drop(leaving);
            // Nobody needs to wait for it.
            let _ = sender.send(Some(outcome));
        };
        tokio::spawn(work.in_current_span());
        entry
    }

    /// How registries are found and asked by pulls that begin from now on. What is known of hosts that
    /// cannot be reached stays.
    pub fn set_registries(&self, config: RegistryConfig) {
        let mut registries = self.0.registries.write().unwrap_or_else(PoisonError::into_inner);
        *registries = Arc::new(registries.reconfigured(config));
    }

    /// Registry hosts that are being left alone since they could not be reached, by name. No IO.
    #[must_use]
    pub fn paused_hosts(&self) -> Vec<HostPause> {
        self.0.registries().paused()
    }

    /// Which images may be pulled from now on.
    pub fn set_policy(&self, policy: PolicySource) {
        *self.0.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// All images, by id. No IO.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.0.workshop.catalog.list()
    }

    /// The image of that tag, digest, id, or unique beginning of an id (4 digits at least). No IO.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Image>> {
        self.0.workshop.catalog.get(name)
    }

    /// Removes the image of that name with all its names, and the layers that no other image and no
    /// writable layer needs; the bytes are free when this returns. Tells what was removed; a name that
    /// stands for nothing is no error.
    ///
    /// # Errors
    /// When the record, the documents or the layers cannot be removed.
    pub async fn remove(&self, name: &str) -> Result<Option<Arc<Image>>, Error> {
        let Some(image) = self.0.workshop.catalog.remove(name).await? else {
            return Ok(None);
        };
        let id = image.id.to_string();
        entering("image.remove_documents");
        let workshop = Arc::clone(&self.0.workshop);
        let removed = Arc::clone(&image);
        {
            let _documents = workshop.documents.lock().await;
            let keep = workshop.catalog.in_use().documents;
            let content = workshop.content.clone();
            blocking("removing an image's documents", move || {
                let mut gone = removed
                    .documents
                    .keys()
                    .filter(|digest| !keep.contains_key(digest));
                gone.try_for_each(|digest| content.remove(digest))
            })
            .await??;
        }
        entering("image.remove_layers");
        self.0.collect(id).await?;
        Ok(Some(image))
    }

    /// Removes layers that no image and no writable layer needs, such as those which a removed
    /// container was the last to use.
    ///
    /// # Errors
    /// When a layer cannot be removed.
    pub async fn prune_layers(&self) -> Result<Usage, Error> {
        self.0.collect("(none)".to_owned()).await
    }

    /// Loads the images of an OCI layout (a directory or a tar) or of a `docker save` archive. `name`
    /// is what images without a name of their own are called; theirs may be a mere tag of it.
    ///
    /// # Errors
    /// As [`Images::pull`], and when the archive cannot be read.
    pub async fn load(&self, path: &Path, name: Option<&Reference>) -> Result<Vec<Arc<Image>>, Error> {
        self.load_from(Source::Path(path.to_owned()), name).await
    }

    /// The same of an archive that a client has sent, in a file that nobody else writes.
    ///
    /// # Errors
    /// As [`Images::load`].
    pub async fn load_sent(&self, archive: File) -> Result<Vec<Arc<Image>>, Error> {
        self.load_from(Source::Sent(archive), None).await
    }

    async fn load_from(&self, source: Source, name: Option<&Reference>) -> Result<Vec<Arc<Image>>, Error> {
        let parallel = self.0.registries().downloads().layers.max(1);
        let loaded = load::load(&self.0.workshop, source, name, parallel).await;
        if loaded.is_err() {
            self.0.collect_or_warn().await;
        }
        loaded
    }

    /// A kept document by digest: an image's configuration (its id) or one of its manifests.
    ///
    /// # Errors
    /// When it is not kept or damaged.
    pub async fn document(&self, digest: &coracle_types::Digest) -> Result<Vec<u8>, Error> {
        let (content, digest) = (self.0.workshop.content.clone(), digest.clone());
        blocking("reading a document", move || content.read(&digest)).await?
    }

    /// What the images take of the disk, each layer counted once; those of removed images too, that
    /// containers still need, for they take it. No IO.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let workshop = &self.0.workshop;
        let documents = workshop.catalog.in_use().documents;
        let documents = documents.values().map(|bytes| Usage {
            bytes: bytes.next_multiple_of(BLOCK),
            inodes: 1,
        });
        documents.sum::<Usage>() + workshop.snapshots.usage()
    }
}

impl Shared {
    fn registries(&self) -> Arc<Registries> {
        Arc::clone(&self.registries.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn collect(&self, image: String) -> Result<Usage, Error> {
        let workshop = Arc::clone(&self.workshop);
        blocking("removing layers", move || {
            workshop.snapshots.gc(&workshop.catalog.in_use().layers)
        })
        .await?
        .map_err(|source| Error::Snapshot { image, source })
    }

    /// A refused image leaves nothing; one whose registry went away keeps its whole layers for the
    /// next attempt, but not for ever.
    async fn after_failure(self: &Arc<Self>, kind: Kind) {
        if kind == Kind::RegistryUnavailable {
            let shared = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(ABANDONED).await;
                if let Some(shared) = shared.upgrade() {
                    shared.collect_or_warn().await;
                }
            });
        } else {
            self.collect_or_warn().await;
        }
    }

    async fn collect_or_warn(&self) {
        if let Err(error) = self.collect("(of a failed pull)".to_owned()).await {
            tracing::warn!(%error, "layers of a failed pull could not be removed");
        }
    }
}

/// Takes a pull off the list, also when its task panics.
struct Leaving {
    shared: Arc<Shared>,
    entry: Arc<UnderWay>,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut under_way = self
            .shared
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        under_way.retain(|pull| !Arc::ptr_eq(pull, &self.entry));
    }
}

/// A cheap look: every layer and document is there.
fn is_whole(image: &Image, content: &Content, snapshots: &dyn Snapshotter) -> Result<(), String> {
    let mut layers = image.layers.iter();
    if let Some(missing) = layers.find(|layer| snapshots.layer_usage(layer).is_none()) {
        return Err(format!("layer {missing} is missing"));
    }
    let mut documents = image.documents.keys().chain(std::iter::once(&image.id));
    match documents.find_map(|digest| content.read(digest).err()) {
        Some(error) => Err(error.to_string()),
        None => Ok(()),
    }
}
