//! Hostile images: they reach nothing outside their own tree, and cost no more than they should. Needs root.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_testkit::cri::ContainerSpec;
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Blob, Compression, Entry, EntryKind, Image, ImageBuilder, Layer, digest};
use coracle_testkit::measure::rss;
use coracle_tests::Bed;
use coracle_tests::checks::refused;
use tonic::Code;

/// What a refusal may be.
const REFUSED: [Code; 9] = [
    Code::InvalidArgument,
    Code::FailedPrecondition,
    Code::OutOfRange,
    Code::ResourceExhausted,
    Code::Unknown,
    Code::NotFound,
    Code::DataLoss,
    Code::Internal,
    Code::Unavailable,
];

/// A tree whose every path and content is compared before and after.
struct Canary {
    directory: PathBuf,
    before: Vec<(PathBuf, String)>,
}

impl Canary {
    fn new(bed: &Bed) -> Result<Self> {
        let directory = bed.node().directory().join("canary");
        std::fs::create_dir_all(directory.join("sub"))?;
        std::fs::write(directory.join("file"), "untouched")?;
        std::fs::write(directory.join("sub/file"), "untouched")?;
        let before = tree(&directory)?;
        Ok(Self { directory, before })
    }

    fn assert_untouched(&self, by: &str) -> Result<()> {
        assert_eq!(
            tree(&self.directory)?,
            self.before,
            "{by} reached the host's files"
        );
        Ok(())
    }
}

fn tree(directory: &Path) -> Result<Vec<(PathBuf, String)>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let (path, kind) = {
            let entry = entry?;
            (entry.path(), entry.file_type()?)
        };
        let about = std::fs::symlink_metadata(&path)?;
        let content = if kind.is_file() {
            std::fs::read_to_string(&path)?
        } else {
            String::new()
        };
        found.push((
            path.clone(),
            format!("{:o} {} {} {content}", about.mode(), about.uid(), about.nlink()),
        ));
        if kind.is_dir() {
            found.extend(tree(&path)?);
        }
    }
    found.sort();
    Ok(found)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_do_not_unpack_through_links() -> Result<()> {
    let bed = Bed::make().await?;
    let canary = Canary::new(&bed)?;
    let outside = canary.directory.display().to_string();
    let up = "../".repeat(12);
    let file = |path: &str| Entry::new(path, 0o666, EntryKind::File(b"hostile".to_vec()));
    let link = |path: &str, target: &str| Entry::new(path, 0o777, EntryKind::Symlink(target.to_owned()));
    let hard = |path: &str, target: &str| Entry::new(path, 0o777, EntryKind::HardLink(target.to_owned()));
    let cases: Vec<(&str, Vec<Vec<Entry>>)> = vec![
        (
            "write through a link",
            vec![vec![link("out", &outside), file("out/file"), file("out/new")]],
        ),
        (
            "write through a link of a lower layer",
            vec![vec![link("out", &outside)], vec![file("out/file")]],
        ),
        (
            "write through a relative link",
            vec![vec![link("out", &format!("{up}{outside}")), file("out/file")]],
        ),
        ("dots in a name", vec![vec![file(&format!("{up}{outside}/file"))]]),
        ("absolute name", vec![vec![file(&format!("{outside}/file"))]]),
        (
            "hard link to the host",
            vec![vec![hard("own", &format!("{outside}/file")), file("own")]],
        ),
        (
            "hard link with dots",
            vec![vec![hard("own", &format!("{up}{outside}/file")), file("own")]],
        ),
        (
            "hard link through a link",
            vec![vec![link("out", &outside), hard("own", "out/file"), file("own")]],
        ),
        (
            "whiteout through a link",
            vec![vec![link("out", &outside)], vec![file("out/.wh.file")]],
        ),
        (
            "opaque through a link",
            vec![vec![link("out", &outside)], vec![file("out/.wh..wh..opq")]],
        ),
        (
            "mode through a link",
            vec![vec![
                link("out", &outside),
                Entry::new("out", 0o777, EntryKind::Directory).owned_by(7, 7),
            ]],
        ),
        ("whiteout of dots", vec![vec![file(".wh..."), file(".wh...")]]),
        (
            "device",
            vec![vec![
                link("out", &outside),
                Entry::new("out/null", 0o666, EntryKind::Device { major: 1, minor: 3 }),
            ]],
        ),
    ];
    for (number, (name, layers)) in cases.into_iter().enumerate() {
        let mut builder = ImageBuilder::new();
        for entries in layers {
            let layer = entries.into_iter().fold(Layer::new(), Layer::entry);
            builder = builder.layer(layer.build(), Compression::Gzip);
        }
        let reference = bed
            .push(&builder.build(), &format!("hostile-{number}"), "1")
            .await?;
        // Refused, or unpacked within the image's own tree: both are right.
        if bed.runtime.pull(&reference).await.is_ok() {
            bed.runtime.remove_image(&reference).await?;
        }
        canary.assert_untouched(name)?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn images_cannot_bend_the_mounts_of_a_container() -> Result<()> {
    let bed = Bed::make().await?;
    let canary = Canary::new(&bed)?;
    let up = "../".repeat(12);
    for (number, target) in [
        canary.directory.display().to_string(),
        format!("{up}{}", canary.directory.display()),
        "loop".to_owned(),
    ]
    .iter()
    .enumerate()
    {
        for place in ["proc", "sys", "dev", "etc", "run", "volume"] {
            let target = if target == "loop" {
                format!("/{place}")
            } else {
                target.clone()
            };
            let link = Layer::new().entry(Entry::new(place, 0o777, EntryKind::Symlink(target)));
            // The link replaces the directory of the lower layer.
            let base = busybox_root()?.directory("/volume", 0o755);
            let image = ImageBuilder::new()
                .layer(base.build(), Compression::Gzip)
                .layer(link.build(), Compression::Gzip)
                .env("PATH=/bin")
                .volume("/volume")
                .build();
            let reference = bed.pull(&image, &format!("bent-{place}-{number}")).await?;
            let spec = ContainerSpec::script(
                "bent",
                &reference,
                "grep -c ' /proc proc ' /proc/self/mounts; echo x > /volume/x",
            );
            // It may be refused; if it runs, /proc is a procfs and nothing lands outside.
            match bed.to_its_end(&spec).await {
                Ok((_, text)) => assert!(!text.starts_with('0'), "{place}: {text}"),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            canary.assert_untouched(place)?;
            bed.runtime.remove_image(&reference).await?;
        }
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_40635_users_of_images_are_checked() -> Result<()> {
    let bed = Bed::make().await?;
    let base = busybox_root()?.build();
    for (number, user) in [
        "2147483648",
        "4294967295",
        "4294967296",
        "-1",
        "0x0",
        "1000:-1",
        "no-such-user",
        "a\nb",
    ]
    .iter()
    .enumerate()
    {
        let image = ImageBuilder::new()
            .layer(base.clone(), Compression::Gzip)
            .env("PATH=/bin")
            .user(user)
            .build();
        let reference = bed.push(&image, &format!("user-{number}"), "1").await?;
        // Some are refused by the pull, the rest by the container.
        let Ok(_) = bed.runtime.pull(&reference).await else {
            continue;
        };
        let answer = bed
            .to_its_end(&ContainerSpec::script("user", &reference, "id -u"))
            .await;
        if let Ok((code, text)) = answer {
            // 2^31 is a uid like any other to the kernel; what must not happen is another one.
            assert!(code == 0 && text == *user, "{user:?} became {text:?}");
        }
        bed.runtime.remove_image(&reference).await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_4437_and_2026_47262_files_of_users_are_bounded() -> Result<()> {
    let bed = Bed::make().await?;
    let base = busybox_root()?.build();
    let before = rss(&bed.daemon.proc()?)?;
    let kinds = [
        ("fifo", EntryKind::Fifo),
        ("link to a device", EntryKind::Symlink("/dev/zero".into())),
        ("device", EntryKind::Device { major: 1, minor: 5 }),
        ("large", EntryKind::File(vec![b'x'; 64 << 20])),
        ("directory", EntryKind::Directory),
    ];
    for (number, (name, kind)) in kinds.into_iter().enumerate() {
        let passwd = Layer::new().entry(Entry::new("etc/passwd", 0o644, kind));
        let image = ImageBuilder::new()
            .layer(base.clone(), Compression::Gzip)
            .layer(passwd.build(), Compression::Gzip)
            .env("PATH=/bin")
            .user("www-data")
            .build();
        let reference = bed.pull(&image, &format!("passwd-{number}")).await?;
        let answer = tokio::time::timeout(
            Duration::from_secs(20),
            bed.to_its_end(&ContainerSpec::script("user", &reference, "id -u")),
        )
        .await;
        let answer = answer.with_context(|| format!("{name}: it hangs"))?;
        assert!(answer.is_err(), "{name}: ran as {answer:?}");
        bed.runtime.remove_image(&reference).await?;
    }
    // Ten gigabytes that take no space: longer than any file of users may be.
    let image = ImageBuilder::new()
        .layer(base, Compression::Gzip)
        .layer(sparse_passwd(10 << 30)?, Compression::Gzip)
        .env("PATH=/bin")
        .user("www-data")
        .build();
    let reference = bed.pull(&image, "passwd-sparse").await?;
    let spec = ContainerSpec::script("user", &reference, "id -u");
    let answer = tokio::time::timeout(Duration::from_secs(20), bed.to_its_end(&spec)).await;
    assert!(answer.context("sparse: it hangs")?.is_err(), "sparse: it ran");
    bed.runtime.remove_image(&reference).await?;
    let after = rss(&bed.daemon.proc()?)?;
    assert!(
        after < before + (32 << 20),
        "the daemon grew from {before} to {after} bytes"
    );
    bed.leave().await
}

/// An archive of `/etc/passwd` with so many bytes, all of them a hole (GNU's sparse format 1.0).
fn sparse_passwd(size: u64) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let size = size.to_string();
    archive.append_pax_extensions([
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", &b"0"[..]),
        ("GNU.sparse.name", &b"etc/passwd"[..]),
        ("GNU.sparse.realsize", size.as_bytes()),
    ])?;
    let mut map = b"0\n".to_vec();
    map.resize(512, 0);
    let mut header = tar::Header::new_ustar();
    header.set_path("etc/passwd")?;
    header.set_mode(0o644);
    header.set_size(512);
    header.set_cksum();
    archive.append(&header, map.as_slice())?;
    Ok(archive.into_inner()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2022_23648_volumes_of_images_do_not_lead_out() -> Result<()> {
    let bed = Bed::make().await?;
    let canary = Canary::new(&bed)?;
    let outside = canary.directory.display().to_string();
    let up = "../".repeat(12);
    for (number, (volume, link)) in [
        (format!("/{up}{outside}"), None),
        (outside.clone(), None),
        ("/linked".to_owned(), Some(outside.clone())),
        ("/linked".to_owned(), Some(format!("{up}{outside}"))),
        ("/linked/sub".to_owned(), Some(outside.clone())),
        ("/".to_owned(), None),
        ("..".to_owned(), None),
        (String::new(), None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut layer = busybox_root()?;
        if let Some(target) = &link {
            layer = layer.symlink("/linked", target);
        }
        let image = ImageBuilder::new()
            .layer(layer.build(), Compression::Gzip)
            .env("PATH=/bin")
            .volume(&volume)
            .build();
        let reference = bed.push(&image, &format!("volume-{number}"), "1").await?;
        if bed.runtime.pull(&reference).await.is_err() {
            continue;
        }
        // What the container sees there is its own: the host's file is not in it, and what it writes
        // stays inside.
        let place = if volume.starts_with('/') {
            volume.as_str()
        } else {
            "/"
        };
        let script = format!("echo mine > {place}/file; cat {place}/file; ls {place}/sub");
        if let Ok((_, text)) = bed
            .to_its_end(&ContainerSpec::script("volume", &reference, &script))
            .await
        {
            assert!(!text.contains("untouched"), "{volume}: {text}");
        }
        canary.assert_untouched(&volume)?;
        bed.runtime.remove_image(&reference).await?;
    }
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_53488_labels_of_images_control_nothing() -> Result<()> {
    let bed = Bed::make().await?;
    let labels = [
        ("io.kubernetes.cri.container-type", "sandbox"),
        (
            "io.kubernetes.cri.sandbox-id",
            "0000000000000000000000000000000000000000000000000000000000000000",
        ),
        ("io.kubernetes.pod.name", "another"),
        ("io.kubernetes.pod.namespace", "kube-system"),
        ("io.cri-containerd.pinned", "pinned"),
        ("io.cri-containerd.image", "managed"),
        ("containerd.io/gc.root", "1"),
        ("run.oci.keep_original_groups", "1"),
        ("org.opencontainers.image.ref.name", "registry.test/busybox:1"),
        ("coracle.pinned", "true"),
    ];
    let labels: serde_json::Map<_, _> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect();
    let image = ImageBuilder::new()
        .layer(busybox_root()?.build(), Compression::Gzip)
        .env("PATH=/bin")
        .setting("Labels", serde_json::Value::Object(labels))
        .build();
    let reference = bed.pull(&image, "labels").await?;
    let shown = bed.runtime.image(&reference).await?.context("it was pulled")?;
    assert!(!shown.pinned, "{shown:?}");
    assert_eq!(shown.repo_tags, std::slice::from_ref(&reference));
    let busybox = bed.runtime.image(&bed.busybox).await?.context("busybox")?;
    assert_ne!(busybox.id, shown.id, "a label took another image's name");

    let (pod, container) = {
        let pod = bed
            .runtime
            .run_pod(coracle_testkit::cri::PodSpec::new("labels"))
            .await?;
        let container = pod.run(&ContainerSpec::idle("labels", &reference)).await?;
        (pod, container)
    };
    let listed = bed.runtime.list_containers().await?;
    let listed = listed
        .iter()
        .find(|listed| listed.id == container.id())
        .context("it runs")?;
    assert_eq!(listed.pod_sandbox_id, pod.id());
    assert!(
        listed.labels.is_empty() && listed.annotations.is_empty(),
        "{listed:?}"
    );
    let pods = bed.runtime.list_pods().await?;
    assert_eq!(pods.len(), 1, "{pods:?}");
    pod.remove().await?;
    // Nothing pins it: it can go.
    bed.runtime.remove_image(&reference).await?;
    assert_eq!(bed.runtime.image(&reference).await?, None);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_24054_an_image_without_layers_gets_nothing_of_the_host() -> Result<()> {
    let bed = Bed::make().await?;
    let empty = ImageBuilder::new().cmd(&["/bin/sh", "-c", "ls /"]).build();
    let nothing = ImageBuilder::new()
        .layer(Layer::new().build(), Compression::Gzip)
        .layer(Layer::new().build(), Compression::Zstd)
        .cmd(&["/bin/sh", "-c", "ls /"])
        .build();
    for (name, image) in [("no-layers", empty), ("empty-layers", nothing)] {
        let reference = bed.pull(&image, name).await?;
        // Its root is empty: there is no shell in it, not even the host's.
        let spec = ContainerSpec::new(name, &reference, &[]);
        let answer = bed.to_its_end(&spec).await;
        assert!(answer.is_err(), "{name}: something ran: {answer:?}");
        bed.runtime.remove_image(&reference).await?;
    }
    // Fewer and more layers than the configuration says.
    let registry = coracle_testkit::registry::FaultyRegistry::start(bed.node().listen(0)?)?;
    coracle_testkit::registry::mirror(bed.node(), "lies.test", &registry.authority())?;
    let one = ImageBuilder::new()
        .layer(Layer::new().file("/x", 0o644, "x").build(), Compression::Gzip)
        .build();
    let blobs = one.blobs();
    let fewer = Image::new(Vec::new(), blobs[1].clone());
    let more = Image::new(vec![blobs[0].clone(), blobs[0].clone()], blobs[1].clone());
    for (name, image) in [("fewer", fewer), ("more", more)] {
        registry.add(&image, name, "1");
        let answer = bed.runtime.pull(&format!("lies.test/{name}:1")).await;
        refused(name, answer, &[Code::InvalidArgument]);
    }
    drop(registry);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_lie_are_refused() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = coracle_testkit::registry::FaultyRegistry::start(bed.node().listen(0)?)?;
    coracle_testkit::registry::mirror(bed.node(), "lies.test", &registry.authority())?;
    let good = ImageBuilder::new()
        .layer(Layer::new().file("/x", 0o644, "x").build(), Compression::Gzip)
        .build();
    registry.add(&good, "lies", "good");
    let manifest: serde_json::Value = serde_json::from_slice(good.manifest())?;
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut changed = manifest.clone();
        change(&mut changed);
        changed.to_string()
    };
    let oci = good.manifest_type();
    let cases = [
        (
            "traversal",
            oci,
            with(&|m| m["layers"][0]["digest"] = "sha256:../../../../etc/passwd".into()),
        ),
        (
            "algorithm",
            oci,
            with(&|m| m["layers"][0]["digest"] = format!("md5:{}", "0".repeat(32)).into()),
        ),
        (
            "length",
            oci,
            with(&|m| m["layers"][0]["digest"] = "sha256:00".into()),
        ),
        ("size", oci, with(&|m| m["layers"][0]["size"] = 5.into())),
        ("negative", oci, with(&|m| m["layers"][0]["size"] = (-1).into())),
        (
            "both",
            oci,
            with(&|m| m["manifests"] = serde_json::json!([good_descriptor(&good)])),
        ),
        (
            "type",
            "application/vnd.oci.image.index.v1+json",
            manifest.to_string(),
        ),
        ("html", "text/html", "<html></html>".to_owned()),
        (
            "many",
            oci,
            with(&|m| m["layers"] = std::iter::repeat_n(m["layers"][0].clone(), 5000).collect()),
        ),
        ("huge", oci, format!("{}{}", " ".repeat(64 << 20), manifest)),
        ("no-json", oci, "{".to_owned()),
    ];
    let before = rss(&bed.daemon.proc()?)?;
    for (name, kind, content) in cases {
        registry.add_manifest("lies", name, kind, content);
        let reference = format!("lies.test/lies:{name}");
        let answer = bed.runtime.pull(&reference).await;
        refused(name, answer, &REFUSED);
        assert_eq!(bed.runtime.image(&reference).await?, None);
    }
    // A layer that is not what its diff ID says, and one that never ends.
    let layer = Layer::new().file("/x", 0o644, "x").build();
    let wrong = ImageBuilder::new()
        .raw_layer(Compression::Gzip.blob(layer), digest(b"other").to_string())
        .build();
    let bomb = Compression::Gzip.blob(vec![0; 256 << 20]);
    let bomb = ImageBuilder::new()
        .raw_layer(bomb, digest(b"bomb").to_string())
        .build();
    let garbage = Blob::new(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        &b"no gzip at all"[..],
    );
    let garbage = ImageBuilder::new()
        .raw_layer(garbage, digest(b"garbage").to_string())
        .build();
    for (name, image) in [("diff-id", wrong), ("bomb", bomb), ("garbage", garbage)] {
        registry.add(&image, "lies", name);
        let answer = bed.runtime.pull(&format!("lies.test/lies:{name}")).await;
        refused(name, answer, &REFUSED);
    }
    let after = rss(&bed.daemon.proc()?)?;
    assert!(
        after < before + (64 << 20),
        "the daemon grew from {before} to {after} bytes"
    );
    drop(registry);
    bed.leave().await
}

fn good_descriptor(image: &Image) -> serde_json::Value {
    serde_json::json!({ "mediaType": image.manifest_type(), "digest": image.digest().as_str(), "size": image.manifest().len() })
}
