//! Images from registries: whole, broken, guarded; what arrives is what was sent. Needs root.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Entry, EntryKind, Image, ImageBuilder, Layer};
use coracle_testkit::node::DaemonOptions;
use coracle_testkit::registry::{Access, FaultyRegistry, Login, PASSWORD, Trouble, USER, mirror};
use coracle_testkit::wait;
use coracle_tests::bed::HOST;
use coracle_tests::checks::{holds, refused};
use coracle_tests::{Bed, Plan};
use tonic::Code;

/// Where the registry with faults is said to be.
const FAULTY: &str = "faulty.test";

/// What a failed pull may say.
const FAILED: [Code; 9] = [
    Code::Unknown,
    Code::NotFound,
    Code::Unavailable,
    Code::Internal,
    Code::InvalidArgument,
    Code::FailedPrecondition,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::DataLoss,
];

fn small(mark: &str) -> Image {
    let layer = Layer::new().file("/mark", 0o644, mark.repeat(20_000)).build();
    ImageBuilder::new()
        .layer(layer, Compression::Gzip)
        .cmd(&["/none"])
        .build()
}

fn faulty(bed: &Bed) -> Result<FaultyRegistry> {
    let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
    mirror(bed.node(), FAULTY, &registry.authority())?;
    Ok(registry)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_one_identity_by_tag_digest_and_id() -> Result<()> {
    let bed = Bed::make().await?;
    let image = small("identity");
    let tag = bed.push(&image, "identity", "1").await?;
    let reference = bed.runtime.pull(&tag).await?;
    let by_tag = bed.runtime.image(&tag).await?.unwrap_or_default();
    assert_eq!(
        (by_tag.id.as_str(), reference.as_str()),
        (image.id().as_str(), image.id().as_str())
    );
    assert_eq!(by_tag.repo_tags, std::slice::from_ref(&tag));
    let digest = format!("{HOST}/identity@{}", image.digest());
    assert_eq!(by_tag.repo_digests, std::slice::from_ref(&digest));
    assert!(by_tag.size > 0);
    for name in [&digest, &by_tag.id, &by_tag.id["sha256:".len()..].to_owned()] {
        assert_eq!(bed.runtime.image(name).await?, Some(by_tag.clone()), "{name}");
    }
    bed.runtime.remove_image(&by_tag.id).await?;
    assert_eq!(bed.runtime.image(&tag).await?, None);

    bed.runtime.pull(&digest).await?;
    let by_digest = bed.runtime.image(&digest).await?.unwrap_or_default();
    assert!(
        by_digest.repo_tags.is_empty() && by_digest.repo_digests == [digest.clone()],
        "{by_digest:?}"
    );
    bed.runtime.remove_image(&digest).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_all_kinds_make_the_tree_that_was_sent() -> Result<()> {
    let bed = Bed::make().await?;
    let lower = busybox_root()?
        .file("/kept/a", 0o640, "lower")
        .file("/kept/gone", 0o644, "x")
        .file("/hidden/old", 0o644, "x")
        .file("/replaced/by-file/x", 0o644, "x");
    let middle = Layer::new()
        .whiteout("/kept/gone")
        .opaque("/hidden")
        .file("/hidden/new", 0o600, "n")
        .entry(Entry::new("kept/owned", 0o4750, EntryKind::File(b"s".to_vec())).owned_by(1000, 50000))
        .entry(Entry::new("kept/attribute", 0o644, EntryKind::File(Vec::new())).xattr("user.mark", b"yes"))
        .hard_link("/kept/other-name", "/kept/owned")
        .symlink("/kept/link", "../etc/passwd");
    let upper = Layer::new()
        // Only implied: /tmp must keep its 1777 of the lowest layer.
        .entry(Entry::new("tmp/implied", 0o644, EntryKind::File(b"i".to_vec())))
        .entry(Entry::new(
            "replaced/by-file",
            0o644,
            EntryKind::File(b"file".to_vec()),
        ))
        // Into a lower layer.
        .entry(Entry::new(
            "kept/far-link",
            0o644,
            EntryKind::HardLink("kept/a".into()),
        ));
    let image = ImageBuilder::new()
        .layer(lower.build(), Compression::Gzip)
        .layer(middle.build(), Compression::Zstd)
        .layer(upper.build(), Compression::None)
        .env("PATH=/bin")
        .build();
    let reference = bed.pull(&image, "tree").await?;
    let script = "cd /; ls kept hidden; stat -c '%n %a %u:%g' kept/a kept/owned kept/other-name tmp; \
                  test kept/owned -ef kept/other-name && echo one; cat replaced/by-file; echo; \
                  readlink kept/link; cat kept/far-link";
    let spec = ContainerSpec::script("tree", &reference, script);
    let (code, text) = bed.to_its_end(&spec).await?;
    assert_eq!(
        text,
        "hidden:\nnew\n\nkept:\na\nattribute\nfar-link\nlink\nother-name\nowned\nkept/a 640 0:0\n\
         kept/owned 4750 1000:50000\nkept/other-name 4750 1000:50000\ntmp 1777 0:0\none\nfile\n\
         ../etc/passwd\nlower"
    );
    assert_eq!(code, 0);
    bed.runtime.remove_image(&reference).await?;
    bed.leave().await
}

/// How many layers of the node are one file each.
fn image_layers(bed: &Bed) -> Result<usize> {
    let layers = std::fs::read_dir(bed.node().root().join("layers"))?;
    Ok(layers
        .flatten()
        .filter(|layer| layer.path().join("layer.erofs").exists())
        .count())
}

/// A daemon that makes new layers of this form.
fn of_form(form: &str) -> Plan {
    let choice = ("CORACLE_IMAGE_SNAPSHOTTER".to_owned(), form.to_owned());
    Plan {
        daemon: DaemonOptions {
            environment: vec![choice],
            ..DaemonOptions::default()
        },
        subnet: Some("10.90.0.0/16"),
    }
}

fn layers_of(bed: &Bed) -> Result<BTreeSet<PathBuf>> {
    let layers = std::fs::read_dir(bed.node().root().join("layers"))?;
    Ok(layers.flatten().map(|layer| layer.path()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_damaged_by_hand_is_found_at_the_start_and_just_its_image_is_pulled_again() -> Result<()> {
    for form in ["auto", "overlay"] {
        let mut bed = Bed::planned(of_form(form)).await?;
        let sound = bed.pull(&small("sound"), "sound").await?;
        let before = layers_of(&bed)?;
        let layer = busybox_root()?.file("/data/file", 0o644, "whole".repeat(2000));
        let image = ImageBuilder::new()
            .layer(layer.build(), Compression::Gzip)
            .env("PATH=/bin")
            .build();
        let hurt = bed.pull(&image, "hurt").await?;
        let layer = layers_of(&bed)?
            .difference(&before)
            .next()
            .cloned()
            .context("a layer")?;
        let (pod, running) = {
            let pod = bed.runtime.run_pod(PodSpec::new("running")).await?;
            let running = pod.run(&ContainerSpec::idle("running", &hurt)).await?;
            (pod, running)
        };

        bed.daemon.terminate()?;
        let file = layer.join("layer.erofs");
        if file.exists() {
            let content = std::fs::read(&file)?;
            let at = content.windows(10).position(|some| some == b"wholewhole");
            let file = std::fs::File::options().write(true).open(&file)?;
            file.write_all_at(b"x", at.context("the file's content")? as u64)?;
        } else {
            std::fs::remove_file(layer.join("fs/data/file"))?;
        }
        bed.daemon.start_again()?;
        bed.reconnect().await?;
        let gone = || async { Ok(bed.runtime.image(&hurt).await?.is_none().then_some(())) };
        wait::until_async("the damage to be found", Duration::from_secs(20), gone).await?;
        for kept in [&sound, &bed.busybox] {
            assert!(bed.runtime.image(kept).await?.is_some(), "{form}: {kept}");
        }
        // What runs goes on, and what is pulled again is whole.
        let (pod, running) = (pod.through(&bed.runtime), running.through(&bed.runtime));
        assert_eq!(running.exec(&["true"]).await?.code, 0, "{form}");
        bed.runtime.pull(&hurt).await?;
        let script = ContainerSpec::script("whole", &hurt, "/bin/busybox wc -c /data/file");
        assert_eq!(
            bed.to_its_end(&script).await?,
            (0, "10000 /data/file".to_owned()),
            "{form}"
        );
        assert_eq!(running.exec(&["true"]).await?.code, 0, "{form}");
        pod.remove().await?;
        for image in [&hurt, &sound] {
            bed.runtime.remove_image(image).await?;
        }
        let staging = std::fs::read_dir(bed.node().root().join("staging"))?;
        assert_eq!(
            staging.count(),
            0,
            "{form}: something of the damaged layer is left"
        );
        bed.leave().await?;
    }
    Ok(())
}

/// Whether this kernel mounts EROFS from files (Linux 6.12, where it has EROFS).
fn has_images() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers: Vec<u32> = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok())
        .collect();
    let there = std::fs::read_to_string("/proc/filesystems")?.contains("erofs");
    Ok(there && numbers >= vec![6, 12])
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_both_forms_lie_in_one_stack_and_go_with_their_image() -> Result<()> {
    // A node that was set up before layers were images, and is upgraded.
    let mut bed = Bed::planned(of_form("overlay")).await?;
    let before = image_layers(&bed)?;
    assert_eq!(before, 0);
    bed.daemon.options().environment = of_form("auto").daemon.environment;
    bed.daemon.terminate()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    // The lower layer is the busybox image's, which is here already.
    let upper = Layer::new()
        .file("/forms/mark", 0o644, "x".repeat(9000))
        .file("/forms/gone", 0o600, "y");
    let image = ImageBuilder::new()
        .layer(busybox_root()?.build(), Compression::Gzip)
        .layer(upper.build(), Compression::Gzip)
        .env("PATH=/bin")
        .build();
    let reference = bed.pull(&image, "forms").await?;
    let after = image_layers(&bed)?;
    assert_eq!(
        after > before,
        has_images()?,
        "{before} and {after} layers are files"
    );
    // All files have one device number, whatever their layers are.
    let script = "cd /forms; stat -c %d / /bin/busybox mark | sort -u | wc -l; wc -c < mark; \
                  echo new > mark; cat mark; rm gone; ls";
    let spec = |name| ContainerSpec::script(name, &reference, script);
    let pod = bed.runtime.run_pod(PodSpec::new("forms")).await?;
    // The second container sees the image as it is, and shares its mount with the first.
    for name in ["first", "second"] {
        let container = pod.run(&spec(name)).await?;
        assert_eq!(container.exited().await?.exit_code, 0);
        let lines = container.log_lines()?;
        let text: Vec<&str> = lines.iter().map(|(_, _, text)| text.as_str()).collect();
        assert_eq!(text, ["1", "9000", "new", "mark"]);
        container.remove().await?;
    }
    // A daemon that was killed left its mounts: the next one finds them, and removal takes them away.
    bed.daemon.kill9()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let pod = pod.through(&bed.runtime);
    let container = pod.run(&spec("third")).await?;
    assert_eq!(container.exited().await?.exit_code, 0);
    pod.remove().await?;
    bed.runtime.remove_image(&reference).await?;
    assert_eq!(image_layers(&bed)?, before);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_trouble_is_survived_and_lasting_trouble_is_told() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = faulty(&bed)?;
    let passing = [
        ("busy", "/manifests/", Trouble::Status(429)),
        ("broken", "/blobs/", Trouble::Status(500)),
        ("cut", "/blobs/", Trouble::Cut(100)),
        ("slow", "/blobs/", Trouble::Slow(2000)),
    ];
    for (name, path, trouble) in passing {
        registry.heal();
        registry.add(&small(name), name, "1");
        registry.fail(path, 1, trouble);
        let reference = format!("{FAULTY}/{name}:1");
        let pulled = bed.runtime.pull(&reference).await;
        assert!(pulled.is_ok(), "{name}: {pulled:?}");
        bed.runtime.remove_image(&reference).await?;
    }
    let lasting = [
        ("always-broken", "/manifests/", Trouble::Status(500)),
        ("guarded", "/manifests/", Trouble::Status(401)),
        ("wrong-layer", "/blobs/", Trouble::Corrupt),
        (
            "wrong-manifest",
            "/manifests/",
            Trouble::Replace {
                content_type: "text/html".into(),
                body: "<html>".into(),
            },
        ),
    ];
    for (name, path, trouble) in lasting {
        registry.heal();
        registry.add(&small(name), name, "1");
        registry.fail(path, u32::MAX, trouble);
        let reference = format!("{FAULTY}/{name}:1");
        let begin = Instant::now();
        let words = refused(name, bed.runtime.pull(&reference).await, &FAILED);
        holds(&words, &[name]);
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "{name} took {:?}",
            begin.elapsed()
        );
        assert_eq!(bed.runtime.image(&reference).await?, None);
        // The registry is well again: so is the pull.
        registry.heal();
        bed.runtime.pull(&reference).await?;
        bed.runtime.remove_image(&reference).await?;
    }
    drop(registry);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_up_does_no_damage() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = faulty(&bed)?;
    registry.add(&small("late"), "late", "1");
    registry.fail("/blobs/", 1, Trouble::Delay(Duration::from_secs(1)));
    let reference = format!("{FAULTY}/late:1");
    let mut request = tonic::Request::new(cri::PullImageRequest {
        image: Some(coracle_testkit::cri::image_spec(&reference)),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(1));
    refused(
        "a pull of 1 ms",
        bed.runtime.images().pull_image(request).await,
        &[Code::DeadlineExceeded, Code::Cancelled],
    );
    // Three at once are one: the layer is asked for as often as by one.
    let pull = || bed.runtime.pull(&reference);
    let (one, two, three) = tokio::join!(pull(), pull(), pull());
    assert_eq!((&one?, &two?), (&three.clone()?, &three?));
    let layer = small("late").blobs()[0].digest.to_string();
    assert!(registry.count(&layer) <= 2, "{:?}", registry.asked());
    bed.runtime.remove_image(&reference).await?;
    drop(registry);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_are_used_and_not_told() -> Result<()> {
    let mut bed = Bed::make().await?;
    let reference = bed.push(&small("guarded"), "guarded", "1").await?;
    bed.registry.restart(Access::Login).await?;
    let auth = |password: &str| cri::AuthConfig {
        username: USER.to_owned(),
        password: password.to_owned(),
        ..Default::default()
    };
    refused(
        "a pull without login",
        bed.runtime.pull(&reference).await,
        &FAILED,
    );
    let wrong = bed
        .runtime
        .pull_as(&reference, Some(auth("not-the-password")))
        .await;
    let words = refused("a wrong password", wrong, &FAILED);
    assert!(!words.contains("not-the-password"), "{words}");
    bed.runtime.pull_as(&reference, Some(auth(PASSWORD))).await?;
    bed.runtime.remove_image(&reference).await?;

    let registry = faulty(&bed)?;
    registry.add(&small("bearer"), "bearer", "1");
    registry.require(Login::Bearer);
    let reference = format!("{FAULTY}/bearer:1");
    bed.runtime.pull_as(&reference, Some(auth(PASSWORD))).await?;
    bed.runtime.remove_image(&reference).await?;
    let log = std::fs::read_to_string(bed.node().directory().join("daemon.log"))?;
    assert!(
        !log.contains(PASSWORD) && !log.contains("not-the-password"),
        "a password is in the daemon's log"
    );
    drop(registry);
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_do_not_follow_a_redirect() -> Result<()> {
    let bed = Bed::make().await?;
    let (registry, elsewhere) = (faulty(&bed)?, FaultyRegistry::start(bed.node().listen(0)?)?);
    let image = small("redirected");
    registry.add(&image, "redirected", "1");
    elsewhere.add(&image, "redirected", "1");
    registry.require(Login::Basic);
    let layer = image.blobs()[0].digest.to_string();
    let place = format!("http://{}/v2/redirected/blobs/{layer}", elsewhere.authority());
    registry.fail(&layer, u32::MAX, Trouble::Redirect(place));
    let auth = cri::AuthConfig {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..Default::default()
    };
    let reference = format!("{FAULTY}/redirected:1");
    bed.runtime.pull_as(&reference, Some(auth)).await?;
    let asked = elsewhere.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|asked| asked.authorization.is_none()),
        "{asked:?}"
    );
    bed.runtime.remove_image(&reference).await?;
    drop((registry, elsewhere));
    bed.leave().await
}
