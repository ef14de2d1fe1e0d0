//! A daemon, a registry with faults, and what must hold after each fault.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use coracle_proto::cri;
use coracle_testkit::image::{Compression, Image, ImageBuilder, Layer};
use coracle_testkit::measure::{forget_peak, peak_rss, rss};
use coracle_testkit::node::DaemonOptions;
use coracle_testkit::registry::{FaultyRegistry, mirror};
use coracle_testkit::wait;
use coracle_tests::checks::{holds, refused};
use coracle_tests::{Bed, Plan};
use tonic::Code;

/// Where the registry with faults is said to be.
pub(crate) const HOST: &str = "faulty.test";

/// How far memory may rise above what the idle daemon has, whatever an image holds.
pub(crate) const MEMORY: u64 = 64 << 20;

/// Uncompressed bytes that an image may have here.
pub(crate) const UNPACKED: u64 = 256 << 20;

/// What a registry that fails is told as: CRI's `RegistryUnavailable` has no code of its own.
pub(crate) const UNAVAILABLE: Code = Code::Unknown;

/// How long a registry may keep silent, and how long a connection may take.
const STALL: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(2);

/// A bed and its faulty registry.
pub(crate) struct Matrix {
    pub(crate) bed: Bed,
    pub(crate) registry: FaultyRegistry,
    idle: u64,
    files: BTreeSet<PathBuf>,
    _directory: tempfile::TempDir,
}

impl Matrix {
    pub(crate) async fn make() -> Result<Self> {
        Self::unpacking(UNPACKED, STALL).await
    }

    /// Of a daemon that unpacks images of so many bytes and waits so long for a silent registry.
    pub(crate) async fn unpacking(most: u64, stall: Duration) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.toml");
        let [connect, stall] = [CONNECT, stall].map(|time| wait::patient(time).as_secs());
        let text = format!(
            "[registry]\nattempts = 2\nconnect_timeout = \"{connect}s\"\nstall_timeout = \"{stall}s\"\n\
             [image]\nmax_unpacked = {most}\n"
        );
        std::fs::write(&config, text)?;
        let plan = Plan {
            daemon: DaemonOptions {
                arguments: vec!["--config".to_owned(), config.display().to_string()],
                ..DaemonOptions::default()
            },
            subnet: Some("10.90.0.0/16"),
        };
        let bed = Bed::planned(plan).await?;
        let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
        mirror(bed.node(), HOST, &registry.authority())?;
        let idle = rss(&bed.daemon.proc()?)?;
        forget_peak(&bed.daemon.proc()?)?;
        let files = kept(&bed)?;
        Ok(Self {
            bed,
            registry,
            idle,
            files,
            _directory: directory,
        })
    }

    /// Pulls an image that must be refused with one of `codes` and in words that hold each of `words`.
    pub(crate) async fn refused(
        &self,
        fault: &str,
        repository: &str,
        codes: &[Code],
        words: &[&str],
    ) -> Result<()> {
        let reference = format!("{HOST}/{repository}:1");
        self.refused_as(fault, &reference, None, (codes, words)).await
    }

    pub(crate) async fn refused_as(
        &self,
        fault: &str,
        reference: &str,
        auth: Option<cri::AuthConfig>,
        (codes, words): (&[Code], &[&str]),
    ) -> Result<()> {
        let pull = self.bed.runtime.pull_as(reference, auth);
        // Far beyond all waits between attempts: a pull that hangs is told by its fault's name.
        let answer = tokio::time::timeout(Duration::from_secs(60), pull).await;
        let said = refused(
            fault,
            answer.with_context(|| format!("{fault}: it hangs"))?,
            codes,
        );
        // The image is named, and what is wrong with it.
        holds(&said, &[reference]);
        holds(&said, words);
        self.nothing_left(fault, reference).await
    }

    /// Pulls an image that must come whole in spite of the trouble, and removes it.
    pub(crate) async fn comes(&self, fault: &str, image: &Image, repository: &str) -> Result<()> {
        let reference = format!("{HOST}/{repository}:1");
        let pulled = self.bed.runtime.pull(&reference).await;
        let pulled = pulled.with_context(|| format!("{fault}: the pull failed"))?;
        ensure!(
            pulled.contains(image.id().hex()) || pulled.contains(image.digest().hex()),
            "{fault}: {pulled} came"
        );
        self.bed.runtime.remove_image(&reference).await?;
        Ok(())
    }

    /// No image, no file more than before, and no memory beyond the bound.
    pub(crate) async fn nothing_left(&self, fault: &str, reference: &str) -> Result<()> {
        ensure!(
            self.bed.runtime.image(reference).await?.is_none(),
            "{fault}: the image is shown"
        );
        let files = kept(&self.bed)?;
        let left: Vec<_> = files.difference(&self.files).collect();
        ensure!(left.is_empty(), "{fault}: left on the disk: {left:?}");
        self.memory(fault)
    }

    pub(crate) fn memory(&self, fault: &str) -> Result<()> {
        let above = self.peak()?;
        ensure!(
            above <= MEMORY,
            "{fault}: the daemon rose by {above} bytes above {}",
            self.idle
        );
        forget_peak(&self.bed.daemon.proc()?)
    }

    /// The most memory that the daemon had since the last fault, above its idle state.
    pub(crate) fn peak(&self) -> Result<u64> {
        Ok(peak_rss(&self.bed.daemon.proc()?)?.saturating_sub(self.idle))
    }

    /// All faults over: the registry is well, a pull works, and the census is as before.
    pub(crate) async fn leave(self) -> Result<()> {
        self.registry.heal();
        let image = noise("well", 2000);
        self.registry.add(&image, "well", "1");
        self.comes("a registry that is well", &image, "well").await?;
        drop(self.registry);
        self.bed.leave().await
    }
}

/// Paths of layers and documents, published and not. Two levels tell.
fn kept(bed: &Bed) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for directory in ["layers", "staging", "blobs/sha256"] {
        let directory = bed.node().root().join(directory);
        let entries =
            std::fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            found.insert(entry?.path());
        }
    }
    Ok(found)
}

/// An image with one layer of `size` bytes that do not compress.
pub(crate) fn noise(seed: &str, size: usize) -> Image {
    let mut state = seed.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    }) | 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(size / 8)
    .flatten()
    .collect();
    let layer = Layer::new().file("/noise", 0o644, content).build();
    ImageBuilder::new()
        .layer(layer, Compression::Gzip)
        .setting("Labels", serde_json::json!({ "seed": seed }))
        .build()
}

/// The digest of an image's only layer.
pub(crate) fn layer_of(image: &Image) -> String {
    image.blobs()[0].digest.to_string()
}

/// A file below the node's configuration of registries.
pub(crate) fn hosts(bed: &Bed, host: &str, content: &str) -> Result<()> {
    let path = Path::new("/etc/containerd/certs.d").join(host).join("hosts.toml");
    bed.node().write(path, content)
}
