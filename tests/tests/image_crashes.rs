//! The daemon killed at every step of a pull and a removal, and at any moment: no broken image is shown
//! afterwards, no space is lost, the next pull works. Needs root.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use coracle_testkit::cri::ContainerSpec;
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, ImageBuilder, Layer, digest};
use coracle_testkit::measure::disk_usage;
use coracle_testkit::wait;
use coracle_tests::{Bed, count};

const DIE_AT: &str = "CORACLE_DIE_AT";
const LONG: Duration = Duration::from_secs(30);

/// What a file system may need more or less for the same: directories do not shrink, and the database
/// has pages of its own.
const SLACK: u64 = 1 << 20;

/// A daemon that is killed, and an image whose content is known.
struct Crash {
    bed: Bed,
    reference: String,
    /// SHA-256 of `/last`, which the topmost layer has.
    last: String,
    empty: u64,
}

impl Crash {
    async fn make() -> Result<Self> {
        let bed = Bed::make().await?;
        let bulk = (0..200).fold(Layer::new(), |layer, number| {
            let content: Vec<u8> = (0..40_000_u32)
                .map(|at| (at.wrapping_mul(number + 3) >> 7) as u8)
                .collect();
            layer.file(&format!("/bulk/{number}"), 0o644, content)
        });
        let last = b"the last file of the last layer".repeat(1000);
        let image = ImageBuilder::new()
            .layer(
                busybox_root()?.directory("/tmp", 0o1777).build(),
                Compression::Gzip,
            )
            // A hard link into the layer below and a directory that is only implied: both need more
            // than an unpacked layer.
            .layer(bulk.build(), Compression::Zstd)
            .layer(
                Layer::new()
                    .entry(link("other", "bulk/7"))
                    .entry(file("tmp/implied", b"x"))
                    .entry(file("last", &last))
                    .build(),
                Compression::Gzip,
            )
            .env("PATH=/bin")
            .build();
        let reference = bed.push(&image, "crash", "1").await?;
        let empty = disk_usage(&bed.node().root());
        Ok(Self {
            bed,
            reference,
            last: digest(&last).hex().to_owned(),
            empty,
        })
    }

    /// Starts the daemon anew, to die at a step.
    async fn start(&mut self, at: Option<&str>) -> Result<()> {
        let environment = at.map(|at| (DIE_AT.to_owned(), at.to_owned()));
        self.bed.daemon.options().environment = environment.into_iter().collect();
        self.bed.daemon.start_again()?;
        self.bed.reconnect().await
    }

    /// What must hold once the daemon is there again, whatever was cut off where.
    async fn is_whole(&mut self, cut: &str) -> Result<()> {
        self.start(None).await?;
        if self.bed.runtime.image(&self.reference).await?.is_some() {
            self.works(cut).await?;
            self.bed.runtime.remove_image(&self.reference).await?;
        }
        self.space_is_back(cut)?;
        self.bed
            .runtime
            .pull(&self.reference)
            .await
            .with_context(|| format!("{cut}: the next pull"))?;
        self.works(cut).await?;
        self.bed.runtime.remove_image(&self.reference).await?;
        self.space_is_back(cut)
    }

    async fn works(&self, cut: &str) -> Result<()> {
        let script = "sha256sum /last; cmp /other /bulk/7 && stat -c %a /tmp; cat /bulk/* | wc -c";
        let spec = ContainerSpec::script("whole", &self.reference, script);
        let (code, text) = self
            .bed
            .to_its_end(&spec)
            .await
            .with_context(|| format!("{cut}: its container"))?;
        let expected = format!("{}  /last\n1777\n8000000", self.last);
        ensure!(
            code == 0 && text == expected,
            "{cut}: a broken image is shown: {code} {text}"
        );
        Ok(())
    }

    /// What was cut off is swept away by a thread, in the first moments of the next daemon.
    fn space_is_back(&self, cut: &str) -> Result<()> {
        let root = self.bed.node().root();
        let (mut now, mut left) = (0, Vec::new());
        let back = wait::until("the space to come back", LONG, || {
            now = disk_usage(&root);
            left = unfinished(&root)?;
            Ok((now <= self.empty + SLACK && left.is_empty()).then_some(()))
        });
        back.with_context(|| format!("{cut}: {} bytes before, {now} now, left: {left:?}", self.empty))
    }

    /// The steps of a pull and a removal, in the order in which each is first entered.
    async fn steps(&mut self) -> Result<Vec<String>> {
        self.bed.daemon.kill9()?;
        self.start(Some("none")).await?;
        let log = self.bed.node().directory().join("daemon.log");
        let before = std::fs::read_to_string(&log)?.len();
        self.bed.runtime.pull(&self.reference).await?;
        self.bed.runtime.remove_image(&self.reference).await?;
        let text = std::fs::read_to_string(&log)?;
        let mut seen = BTreeSet::new();
        let entered = text[before..].lines().filter(|line| line.contains("entering"));
        let steps = entered.filter_map(|line| {
            let name = line.split("step=").nth(1)?.split_whitespace().next()?;
            Some(name.trim_matches('"').to_owned())
        });
        Ok(steps.filter(|step| seen.insert(step.clone())).collect())
    }
}

/// What no image knows.
fn unfinished(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root.join("staging"))? {
        found.push(entry?.path());
    }
    for entry in std::fs::read_dir(root.join("blobs/sha256"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains("unfinished") {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn file(path: &str, content: &[u8]) -> coracle_testkit::image::Entry {
    let kind = coracle_testkit::image::EntryKind::File(content.to_vec());
    coracle_testkit::image::Entry::new(path, 0o644, kind)
}

fn link(path: &str, target: &str) -> coracle_testkit::image::Entry {
    let kind = coracle_testkit::image::EntryKind::HardLink(target.to_owned());
    coracle_testkit::image::Entry::new(path, 0o644, kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_every_step_of_a_pull_and_a_removal() -> Result<()> {
    let mut crash = Crash::make().await?;
    let steps = crash.steps().await?;
    for step in [
        "pull.documents",
        "layer.unpack",
        "layer.publish",
        "image.record",
        "image.remove_layers",
    ] {
        ensure!(
            steps.iter().any(|known| known == step),
            "{step} is not among {steps:?}"
        );
    }
    for step in &steps {
        crash.bed.daemon.kill9()?;
        crash.start(Some(step)).await?;
        let pulled = crash.bed.runtime.pull(&crash.reference).await;
        if pulled.is_ok() {
            // A step of the removal, then.
            let removed = crash.bed.runtime.remove_image(&crash.reference).await;
            ensure!(removed.is_err(), "{step}: it was not entered");
        }
        crash.bed.daemon.died()?;
        crash.is_whole(step).await?;
    }
    println!("killed at {} steps: {}", steps.len(), steps.join(" "));
    crash.bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_of_a_pull() -> Result<()> {
    let mut crash = Crash::make().await?;
    let begin = Instant::now();
    crash.bed.runtime.pull(&crash.reference).await?;
    let whole = begin.elapsed();
    crash.bed.runtime.remove_image(&crash.reference).await?;
    let points = count(10, 200);
    let mut cut_off = 0;
    for point in 0..points {
        // Even over the pull and a little beyond, in an order that does not follow the clock.
        let share = f64::from(u32::try_from(point * 7919 % points)?) / points as f64;
        let (runtime, reference) = (crash.bed.runtime.clone(), crash.reference.clone());
        let pull = tokio::spawn(async move { runtime.pull(&reference).await });
        tokio::time::sleep(whole.mul_f64(share * 1.1)).await;
        crash.bed.daemon.kill9()?;
        cut_off += usize::from(pull.await?.is_err());
        crash.is_whole(&format!("after {share:.2} of a pull")).await?;
    }
    ensure!(cut_off > 0, "no pull was cut off");
    println!("killed at {points} points, {cut_off} pulls cut off");
    crash.bed.leave().await
}
