//! A node's images in a temporary directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coracle_image::{Error, Image, Images, ImagesConfig, PullRequest, RetryPolicy};
use coracle_snapshot::Snapshots;
use coracle_store::Store;
use coracle_types::image::Credentials;
use tempfile::TempDir;

pub(crate) struct Node {
    pub(crate) images: Images,
    pub(crate) dir: Arc<TempDir>,
}

pub(crate) fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 4,
        first_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(20),
        connect_timeout: Duration::from_secs(5),
        stall_timeout: Duration::from_millis(700),
        host_pause: Duration::from_secs(30),
    }
}

impl Node {
    pub(crate) async fn new() -> Self {
        Self::open(Arc::new(tempfile::tempdir().unwrap()), |_| {}).await
    }

    pub(crate) async fn open(dir: Arc<TempDir>, change: impl FnOnce(&mut ImagesConfig)) -> Self {
        let store = Store::open(&dir.path().join("db.redb")).unwrap();
        let snapshots = Arc::new(Snapshots::open(&dir.path().join("root")).unwrap());
        let mut config = ImagesConfig::new(&dir.path().join("root"), store, snapshots);
        config.registries.hosts_dirs = vec![dir.path().join("certs.d")];
        config.registries.registries_conf = vec![dir.path().join("registries.conf")];
        config.registries.retries = quick();
        change(&mut config);
        let images = Images::open(config).await.unwrap();
        Self { images, dir }
    }

    /// Writes a hosts.toml for `registry`.
    pub(crate) fn hosts(&self, registry: &str, text: &str) -> PathBuf {
        let dir = self.dir.path().join("certs.d").join(registry);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("hosts.toml"), text).unwrap();
        dir
    }

    pub(crate) async fn pull(&self, reference: &str) -> Result<Arc<Image>, Error> {
        self.pull_as(reference, None).await
    }

    pub(crate) async fn pull_as(
        &self,
        reference: &str,
        credentials: Option<Credentials>,
    ) -> Result<Arc<Image>, Error> {
        let request = PullRequest {
            reference: reference.to_owned(),
            credentials,
            ..PullRequest::default()
        };
        self.images.pull(request, &()).await
    }

    /// Nothing of any image is left on the disk, but for whole layers of a pull that may go on.
    pub(crate) async fn assert_empty(&self) {
        self.images.prune_layers().await.unwrap();
        self.assert_empty_now();
    }

    /// Nothing of any image is left on the disk.
    pub(crate) fn assert_empty_now(&self) {
        assert!(self.images.list().is_empty());
        let root = self.dir.path().join("root");
        let mut left = Vec::new();
        files(&root.join("layers"), &mut left);
        files(&root.join("blobs"), &mut left);
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.images.usage().bytes, 0);
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}
