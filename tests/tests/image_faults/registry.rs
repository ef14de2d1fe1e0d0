//! What the network and a registry do wrong with a sound image.

use std::time::Duration;

use anyhow::{Result, ensure};
use coracle_proto::cri;
use coracle_testkit::registry::{FaultyRegistry, PASSWORD, Trouble, USER};
use futures::future::join_all;
use tonic::Code;

use crate::matrix::{HOST, Matrix, UNAVAILABLE, hosts, layer_of, noise};

const LAYER: usize = 200_000;
const ALWAYS: u32 = u32::MAX;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_cut_at_every_tenth() -> Result<()> {
    let matrix = Matrix::make().await?;
    let mut begun = Vec::new();
    for ranges in [true, false] {
        for tenth in 0..10 {
            let name = format!("cut-{ranges}-{tenth}");
            let image = noise(&name, LAYER);
            let (layer, length) = (layer_of(&image), image.blobs()[0].content.len());
            matrix.registry.add(&image, &name, "1");
            matrix.registry.fail(&layer, 1, Trouble::Cut(length * tenth / 10));
            if !ranges {
                matrix.registry.fail(&layer, ALWAYS, Trouble::Whole);
            }
            begun.push((name, image));
        }
    }
    // Side by side: each waits a moment before it goes on.
    let pulls = begun.iter().map(|(name, image)| matrix.comes(name, image, name));
    for outcome in join_all(pulls).await {
        outcome?;
    }
    for (name, image) in &begun {
        let layer = layer_of(image);
        let asked = matrix.registry.asked();
        let asked: Vec<_> = asked.iter().filter(|asked| asked.path.contains(&layer)).collect();
        ensure!(asked.len() == 2, "{name}: {asked:?}");
        let resumed = asked[1].range.is_some();
        ensure!(resumed != name.ends_with("-0"), "{name}: from where? {asked:?}");
    }

    // Cut again and again: told with what came of how much.
    matrix.registry.heal();
    let mut cut = Vec::new();
    for tenth in 0..10 {
        let name = format!("always-cut-{tenth}");
        let image = noise(&name, LAYER);
        let length = image.blobs()[0].content.len();
        matrix.registry.add(&image, &name, "1");
        let trouble = Trouble::End(length * tenth / 10);
        matrix.registry.fail(&layer_of(&image), ALWAYS, trouble);
        cut.push(name);
    }
    let outcomes = join_all(cut.iter().map(|name| {
        let (reference, runtime) = (format!("{HOST}/{name}:1"), matrix.bed.runtime.clone());
        async move { (runtime.pull(&reference).await, reference) }
    }));
    for (outcome, reference) in outcomes.await {
        let said = coracle_tests::checks::refused(&reference, outcome, &[UNAVAILABLE]);
        coracle_tests::checks::holds(&said, &[&reference, &matrix.registry.authority()]);
        matrix.nothing_left("always cut", &reference).await?;
    }
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_the_manifest_names() -> Result<()> {
    let matrix = Matrix::make().await?;
    let replaced = |body: Vec<u8>| Trouble::Replace {
        content_type: "application/octet-stream".to_owned(),
        body: body.into(),
    };
    let blob = |name: &str| noise(name, LAYER).blobs()[0].content.to_vec();
    let mut longer = blob("longer");
    longer.extend_from_slice(b"more");
    let mut other = blob("other-content");
    other.reverse();
    let mut shorter = blob("shorter");
    shorter.truncate(shorter.len() - 7);
    let faults = [
        ("wrong-digest", Trouble::Corrupt, &["expected sha256:"][..]),
        ("other-content", replaced(other), &["expected"]),
        ("longer", replaced(longer), &["more than"]),
        ("shorter", replaced(shorter), &["ended blob"]),
        ("empty", replaced(Vec::new()), &["after 0 of"]),
        ("html", replaced(b"<html>please log in</html>".to_vec()), &["of"]),
    ];
    for (name, trouble, words) in faults {
        let image = noise(name, LAYER);
        matrix.registry.heal();
        matrix.registry.add(&image, name, "1");
        matrix.registry.fail(&layer_of(&image), ALWAYS, trouble);
        let codes = [UNAVAILABLE, Code::ResourceExhausted, Code::InvalidArgument];
        matrix.refused(name, name, &codes, words).await?;
    }
    // A configuration that is another one's.
    let (image, other) = (noise("config", LAYER), noise("other", LAYER));
    matrix.registry.heal();
    matrix.registry.add(&image, "config", "1");
    let config = other.blobs()[1].content.to_vec();
    matrix
        .registry
        .fail(image.id().as_str(), ALWAYS, replaced(config));
    matrix
        .refused(
            "another configuration",
            "config",
            &[UNAVAILABLE, Code::ResourceExhausted],
            &[],
        )
        .await?;
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_silent_busy_or_gone() -> Result<()> {
    let matrix = Matrix::make().await?;
    let lasting = [
        ("silent", "/manifests/", Trouble::Silent, UNAVAILABLE, "timed out"),
        ("stalled", "layer", Trouble::Stall(1000), UNAVAILABLE, "timed out"),
        ("busy", "/manifests/", Trouble::Busy(0), UNAVAILABLE, "429"),
        (
            "busy-for-long",
            "/manifests/",
            Trouble::Busy(86_400),
            UNAVAILABLE,
            "429",
        ),
        ("broken", "/manifests/", Trouble::Status(500), UNAVAILABLE, "500"),
        ("broken-blob", "layer", Trouble::Status(503), UNAVAILABLE, "503"),
        (
            "gone",
            "layer",
            Trouble::Status(404),
            Code::NotFound,
            "has no gone/blobs/",
        ),
        ("teapot", "/manifests/", Trouble::Status(418), UNAVAILABLE, "418"),
    ];
    for (name, path, trouble, code, word) in lasting {
        let image = noise(name, LAYER);
        matrix.registry.heal();
        matrix.registry.add(&image, name, "1");
        let layer = layer_of(&image);
        let path = if path == "layer" { layer.as_str() } else { path };
        matrix.registry.fail(path, ALWAYS, trouble);
        let before = matrix.registry.asked().len();
        matrix.refused(name, name, &[code], &[word]).await?;
        if name == "busy-for-long" {
            let asked = matrix.registry.asked().len() - before;
            ensure!(
                asked <= 2,
                "a wait of a day was not begun, but it was asked {asked} times"
            );
        }
    }
    let passing = [
        ("once-busy", Trouble::Busy(1)),
        ("once-broken", Trouble::Status(500)),
        ("once-silent", Trouble::Silent),
        ("once-stalled", Trouble::Stall(5000)),
        ("late", Trouble::Delay(Duration::from_millis(600))),
        ("slow", Trouble::Slow(20_000)),
    ];
    for (name, trouble) in passing {
        let image = noise(name, LAYER);
        matrix.registry.heal();
        matrix.registry.add(&image, name, "1");
        matrix.registry.fail(&layer_of(&image), 1, trouble);
        matrix.comes(name, &image, name).await?;
    }
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_a_login_for_ever() -> Result<()> {
    let matrix = Matrix::make().await?;
    for path in ["/manifests/", "/blobs/"] {
        let name = if path == "/blobs/" {
            "guarded-blob"
        } else {
            "guarded"
        };
        matrix.registry.heal();
        matrix.registry.add(&noise(name, LAYER), name, "1");
        matrix.registry.fail(path, ALWAYS, Trouble::Challenge);
        let auth = cri::AuthConfig {
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            ..Default::default()
        };
        let before = matrix.registry.asked().len();
        let reference = format!("{HOST}/{name}:1");
        let expected = (&[Code::PermissionDenied][..], &["denied"][..]);
        matrix.refused_as(name, &reference, Some(auth), expected).await?;
        let asked = matrix.registry.asked().len() - before;
        ensure!(asked < 12, "{name}: it was asked {asked} times");
    }
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_that_lead_nowhere_and_mirrors_that_are_down() -> Result<()> {
    let matrix = Matrix::make().await?;
    // Of a port that was free a moment ago.
    let gone = matrix.bed.node().listen(0)?.local_addr()?;
    let authority = matrix.registry.authority();
    for (name, place, word) in [
        (
            "redirected-away",
            format!("http://{gone}/blob"),
            "cannot be reached",
        ),
        ("redirected-in-circles", String::new(), "more than 10 redirects"),
        (
            "redirected-to-a-file",
            "file:///etc/passwd".to_owned(),
            "redirect",
        ),
        ("redirected-to-nonsense", "http://[".to_owned(), ""),
    ] {
        let image = noise(name, LAYER);
        matrix.registry.heal();
        matrix.registry.add(&image, name, "1");
        let layer = layer_of(&image);
        let place = if place.is_empty() {
            format!("http://{authority}/v2/{name}/blobs/{layer}")
        } else {
            place
        };
        matrix.registry.fail(&layer, ALWAYS, Trouble::Redirect(place));
        let codes = [UNAVAILABLE, Code::InvalidArgument];
        matrix.refused(name, name, &codes, &[word]).await?;
    }
    // To another host that has it.
    let elsewhere = FaultyRegistry::start(matrix.bed.node().listen(0)?)?;
    let image = noise("elsewhere", LAYER);
    matrix.registry.heal();
    for registry in [&matrix.registry, &elsewhere] {
        registry.add(&image, "elsewhere", "1");
    }
    let layer = layer_of(&image);
    let place = format!("http://{}/v2/elsewhere/blobs/{layer}", elsewhere.authority());
    matrix.registry.fail(&layer, ALWAYS, Trouble::Redirect(place));
    matrix.comes("redirected", &image, "elsewhere").await?;
    ensure!(elsewhere.count(&layer) == 1, "{:?}", elsewhere.asked());

    // The first mirror is down: the second gives it. Both are: each is named.
    matrix.registry.heal();
    let host =
        |authority: &str| format!("[host.\"http://{authority}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
    let gone = gone.to_string();
    let server = format!("server = \"http://{gone}\"\n");
    hosts(
        &matrix.bed,
        "half.test",
        &format!("{server}{}{}", host(&gone), host(&authority)),
    )?;
    hosts(&matrix.bed, "dead.test", &format!("{server}{}", host(&gone)))?;
    matrix.registry.add(&image, "mirrored", "1");
    matrix.bed.runtime.pull("half.test/mirrored:1").await?;
    matrix.bed.runtime.remove_image("half.test/mirrored:1").await?;
    let expected = (&[UNAVAILABLE][..], &["cannot be reached", gone.as_str()][..]);
    matrix
        .refused_as("all mirrors down", "dead.test/mirrored:1", None, expected)
        .await?;
    drop(elsewhere);
    matrix.leave().await
}
