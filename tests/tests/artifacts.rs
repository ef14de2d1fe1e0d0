//! OCI artifacts: pulled, mounted as volumes, refused as roots; hostile ones refused whole. Needs root.

use std::path::Path;

use anyhow::Result;
use coracle_testkit::cri::{Container, ContainerSpec, PodSpec};
use coracle_testkit::image::Image;
use coracle_testkit::registry::{FaultyRegistry, Trouble, mirror};
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};
use tonic::Code;

/// Where the registry that serves them is said to be.
const ARTIFACTS: &str = "artifacts.test";
const KIND: &str = "application/vnd.example.model";
const LARGE: usize = 3 << 20;

async fn says(container: &Container, script: &str) -> Result<String> {
    let output = container.exec(&["sh", "-c", script]).await?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

fn artifacts(bed: &Bed) -> Result<FaultyRegistry> {
    let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
    mirror(bed.node(), ARTIFACTS, &registry.authority())?;
    Ok(registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_volumes_and_no_roots() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = artifacts(&bed)?;
    let weights = vec![3; LARGE];
    let untitled = b"no title";
    let artifact = Image::artifact(
        KIND,
        &[
            (Some("weights.bin"), &weights),
            (Some("conf/deep/settings.json"), b"{\"a\":1}"),
            (Some("empty"), b""),
            (None, untitled),
        ],
    );
    registry.add(&artifact, "model", "1");
    let name = format!("{ARTIFACTS}/model:1");
    let id = bed.runtime.pull(&name).await?;
    assert_eq!(
        id,
        artifact.digest().to_string(),
        "an artifact is known by its manifest"
    );
    let image = bed.runtime.image(&name).await?.unwrap_or_default();
    assert!(image.size >= LARGE as u64, "{image:?}");
    assert_eq!(image.repo_tags, std::slice::from_ref(&name));
    assert!(bed.runtime.list_images().await?.contains(&image));

    let pod = bed.runtime.run_pod(PodSpec::new("artifacts")).await?;
    let root = ContainerSpec::new("root", &name, &["/weights.bin"]);
    let words = refused("as a root", pod.create(&root).await, &[Code::InvalidArgument]);
    holds(&words, &[KIND, "image volume"]);

    let spec = ContainerSpec::idle("user", &bed.busybox)
        .image_volume(&name, "/model", "")
        .image_volume(&name, "/conf", "conf")
        .image_volume(&id, "/weights", "weights.bin");
    let container = pod.run(&spec).await?;
    let digest = coracle_testkit::image::digest(untitled);
    let listed = says(
        &container,
        "cd /model; find . -type f | sort; cat conf/deep/settings.json /conf/deep/settings.json",
    )
    .await?;
    let settings = "{\"a\":1}{\"a\":1}";
    assert_eq!(
        listed,
        format!(
            "./conf/deep/settings.json\n./empty\n./sha256-{}\n./weights.bin\n{settings}",
            digest.hex()
        )
    );
    let sums = says(&container, "sha256sum < /model/weights.bin; sha256sum < /weights").await?;
    let whole = coracle_testkit::image::digest(&weights);
    assert_eq!(sums.matches(whole.hex()).count(), 2, "{sums}");
    holds(
        &says(&container, "touch /model/x").await?,
        &["Read-only file system"],
    );

    // Nothing of it is fetched again, also by another daemon.
    let asked = registry.asked().len();
    bed.runtime.pull(&name).await?;
    assert!(
        registry.asked()[asked..]
            .iter()
            .all(|asked| asked.method == "HEAD")
    );
    pod.remove().await?;
    bed.runtime.remove_image(&id).await?;
    assert_eq!(bed.runtime.image(&name).await?, None);
    drop(registry);
    bed.leave().await
}

/// Name, files by title, and how the artifact is refused.
type Hostile<'a> = (&'a str, &'a [(Option<&'a str>, &'a [u8])], Code, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn hostile_artifacts_are_refused_and_leave_nothing() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = artifacts(&bed)?;
    let before = files_below(&bed.node().path(bed.node().root().join("layers")))?;
    let many: Vec<(Option<&str>, &[u8])> = vec![(None, &b"x"[..]); 1001];
    let cases: [Hostile<'_>; 7] = [
        (
            "absolute",
            &[(Some("/etc/passwd"), b"x")],
            Code::InvalidArgument,
            "relative",
        ),
        (
            "parent",
            &[(Some("../../x"), b"x")],
            Code::InvalidArgument,
            "`..`",
        ),
        (
            "control",
            &[(Some("a\nb"), b"x")],
            Code::InvalidArgument,
            "control",
        ),
        (
            "whiteout",
            &[(Some(".wh.x"), b"x")],
            Code::InvalidArgument,
            ".wh.",
        ),
        (
            "twice",
            &[(Some("a"), b"x"), (Some("a"), b"y")],
            Code::InvalidArgument,
            "another file",
        ),
        (
            "below",
            &[(Some("a"), b"x"), (Some("a/b"), b"y")],
            Code::InvalidArgument,
            "another file",
        ),
        ("many", &many, Code::ResourceExhausted, "1001 files"),
    ];
    for (name, files, code, word) in cases {
        registry.add(&Image::artifact(KIND, files), name, "1");
        let reference = format!("{ARTIFACTS}/{name}:1");
        let words = refused(name, bed.runtime.pull(&reference).await, &[code]);
        holds(&words, &[&reference, word]);
        assert_eq!(bed.runtime.image(&reference).await?, None);
    }
    for (name, trouble) in [("corrupt", Trouble::Corrupt), ("cut", Trouble::Cut(10))] {
        registry.add(
            &Image::artifact(KIND, &[(Some("a"), &[9; 1000]), (Some("b"), &[8; 1000])]),
            name,
            "1",
        );
        registry.fail("/blobs/", u32::MAX, trouble);
        let reference = format!("{ARTIFACTS}/{name}:1");
        let words = refused(name, bed.runtime.pull(&reference).await, &[Code::Unknown]);
        assert!(words.starts_with("RegistryUnavailable: "), "{words}");
        registry.heal();
        bed.runtime.pull(&reference).await?;
        bed.runtime.remove_image(&reference).await?;
    }
    let after = files_below(&bed.node().path(bed.node().root().join("layers")))?;
    assert_eq!(before, after, "layers are left");
    drop(registry);
    bed.leave().await
}

fn files_below(directory: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut names = std::fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}
