//! Images from registries: whole, broken, guarded; what arrives is what was sent. Needs root.

use std::time::{Duration, Instant};

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Entry, EntryKind, Image, ImageBuilder, Layer};
use coracle_testkit::registry::{Access, FaultyRegistry, Login, PASSWORD, Trouble, USER, mirror};
use coracle_tests::Bed;
use coracle_tests::bed::HOST;
use coracle_tests::checks::{holds, refused};
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
    let spec = coracle_testkit::cri::ContainerSpec::script("tree", &reference, script);
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
