//! Images mounted in containers, their removal, and root file systems in user namespaces. Needs root.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec, PodSpec, image_spec};
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Entry, EntryKind, Image, ImageBuilder, Layer};
use coracle_testkit::node::Role;
use coracle_testkit::node::daemon::program;
use coracle_testkit::wait;
use coracle_tests::Bed;
use coracle_tests::checks::{holds, refused};
use tonic::Code;

/// What a layer that is made of `models` takes, by which it is found on disk.
const LARGE: usize = 3 << 20;

/// Two layers with a directory of models, a program, and links that lead out.
fn models() -> Result<Image> {
    let lower = busybox_root()?
        .file("/models/old", 0o644, "gone")
        .file("/models/small", 0o644, "small")
        .entry(Entry::new("models/owned", 0o640, EntryKind::File(b"mine".to_vec())).owned_by(1000, 1000))
        .file("/large", 0o644, vec![7; LARGE]);
    let upper = Layer::new()
        .whiteout("/models/old")
        .file("/models/deep/file", 0o644, "deep")
        .symlink("/inside", "models/deep")
        .symlink("/outside", "../../../../etc")
        .symlink("/absolute", "/etc")
        .symlink("/round", "round");
    Ok(ImageBuilder::new()
        .layer(lower.build(), Compression::Gzip)
        .layer(upper.build(), Compression::Zstd)
        .build())
}

/// One layer, which is mounted without an overlay.
fn plain() -> Image {
    let layer = Layer::new().file("/data/file", 0o644, "plain").build();
    ImageBuilder::new().layer(layer, Compression::Gzip).build()
}

async fn says(container: &Container, script: &str) -> Result<String> {
    let output = container.exec(&["sh", "-c", script]).await?;
    Ok(format!("{}{}", output.stdout, output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_mounted_read_only_whole_and_in_part() -> Result<()> {
    let bed = Bed::make().await?;
    let models = bed.pull(&models()?, "models").await?;
    let plain = bed.pull(&plain(), "plain").await?;
    let id = bed.runtime.image(&models).await?.unwrap_or_default().id;
    let root = bed.node().root().display().to_string();
    let mounts_of_daemon = || {
        let text = std::fs::read_to_string(bed.daemon.proc()?.join("mountinfo")).context("mountinfo")?;
        let ours = |line: &&str| line.contains(&root) || line.contains("coracle");
        Ok::<_, anyhow::Error>(text.lines().filter(ours).map(str::to_owned).collect::<Vec<_>>())
    };
    let pod = bed.runtime.run_pod(PodSpec::new("volumes")).await?;
    let before = mounts_of_daemon()?;
    let spec = ContainerSpec::idle("volumes", &bed.busybox)
        .image_volume(&models, "/whole", "")
        .image_volume(&id, "/part", "models")
        .image_volume(&models, "/linked", "inside")
        .image_volume(&models, "/file", "models/deep/file")
        .image_volume(&plain, "/plain", "")
        .image_volume(&plain, "/plain-file", "data/file")
        .image_volume(&models, "/guarded", "")
        .with(|config| {
            let guarded = config
                .mounts
                .iter_mut()
                .find(|mount| mount.container_path == "/guarded");
            guarded
                .into_iter()
                .for_each(|mount| mount.mount_options = vec!["noexec".into()]);
        });
    let container = pod.run(&spec).await?;
    let script = "ls /whole/models /part; cat /part/small /linked/file /file /plain/data/file /plain-file; \
                  stat -c '%u %a' /part/owned";
    assert_eq!(
        says(&container, script).await?,
        "/part:\ndeep\nowned\nsmall\n\n/whole/models:\ndeep\nowned\nsmall\nsmalldeepdeepplainplain1000 640\n"
    );
    for path in ["/whole/x", "/part/x", "/linked/x", "/plain/x", "/guarded/x"] {
        holds(
            &says(&container, &format!("touch {path}")).await?,
            &["Read-only file system"],
        );
    }
    holds(
        &says(&container, "echo x > /file").await?,
        &["Read-only file system"],
    );
    // As executable as in the image, unless the request says otherwise.
    assert_eq!(says(&container, "/whole/bin/busybox echo runs").await?, "runs\n");
    holds(
        &says(&container, "/guarded/bin/busybox echo runs").await?,
        &["Permission denied"],
    );
    let flags = says(&container, "grep -E ' /(whole|plain|file) ' /proc/self/mountinfo").await?;
    assert_eq!(flags.matches(" ro,nosuid,nodev").count(), 3, "{flags}");

    let status = container.status().await?;
    assert_eq!(status.mounts.len(), spec.config().mounts.len());
    for (mount, asked) in status.mounts.iter().zip(&spec.config().mounts) {
        let (image, wanted) = (
            mount.image.clone().unwrap_or_default(),
            asked.image.clone().unwrap_or_default(),
        );
        let expected = bed.runtime.image(&wanted.image).await?.unwrap_or_default().id;
        assert_eq!((image.image, image.image_ref), (wanted.image, expected));
        assert_eq!(mount.image_sub_path, asked.image_sub_path);
    }
    assert_eq!(
        mounts_of_daemon()?,
        before,
        "a mount can be seen outside the container"
    );
    pod.remove().await?;
    for image in [&models, &plain] {
        bed.runtime.remove_image(image).await?;
    }
    bed.leave().await
}

/// Makes a mount wrong.
type Change = fn(&mut cri::Mount);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_refused_at_creation() -> Result<()> {
    let bed = Bed::make().await?;
    let models = bed.pull(&models()?, "models").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("refused")).await?;
    let volume = |image: &str, path: &str| {
        ContainerSpec::idle("refused", &bed.busybox).image_volume(image, "/volume", path)
    };
    for (path, word) in [
        ("none", "does not exist"),
        ("models/old", "does not exist"),
        ("models/small/x", "no directory"),
        ("outside", "leads out"),
        ("outside/passwd", "leads out"),
        ("absolute", "leads out"),
        ("round", "symbolic links"),
    ] {
        let words = refused(path, pod.create(&volume(&models, path)).await, &[Code::Unknown]);
        assert!(words.starts_with("ImageVolumeMountFailed: "), "{words}");
        holds(&words, &[path, word, &models]);
    }
    let missing = volume("registry.test/never-pulled:1", "");
    let words = refused("missing", pod.create(&missing).await, &[Code::Unknown]);
    assert!(
        words.starts_with("ImageVolumeMountFailed: ") && words.contains("pull it first"),
        "{words}"
    );
    let changes: [(&str, Change); 6] = [
        ("readonly", |mount| mount.readonly = false),
        ("host_path", |mount| mount.host_path = "/etc".into()),
        ("image_sub_path", |mount| mount.image_sub_path = "../etc".into()),
        ("image_sub_path", |mount| mount.image_sub_path = "/etc".into()),
        ("propagation", |mount| {
            mount.set_propagation(cri::MountPropagation::PropagationBidirectional)
        }),
        ("mount_options", |mount| mount.mount_options = vec!["suid".into()]),
    ];
    for (name, change) in changes {
        let spec = volume(&models, "").with(|config| config.mounts.iter_mut().for_each(change));
        holds(
            &refused(name, pod.create(&spec).await, &[Code::InvalidArgument]),
            &[name],
        );
    }
    assert!(bed.runtime.list_containers().await?.is_empty());
    pod.remove().await?;
    bed.runtime.remove_image(&models).await?;
    bed.leave().await
}

/// How often the large file of `models` may lie in all layers: by what they take of the disk.
fn large_layers(bed: &Bed, before: u64) -> Result<u64> {
    let (bytes, _) = du(&bed.node().path(bed.node().root().join("layers")))?;
    Ok(bytes.saturating_sub(before) / LARGE as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_stay_for_the_container_through_removal_and_every_restart() -> Result<()> {
    let mut bed = Bed::make().await?;
    let before = du(&bed.node().path(bed.node().root().join("layers")))?.0;
    let models = bed.pull(&models()?, "models").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("held")).await?;
    let spec =
        |name: &str| ContainerSpec::idle(name, &bed.busybox).image_volume(&models, "/volume", "models");
    let running = pod.run(&spec("running")).await?;
    let waiting = pod.create(&spec("waiting")).await?;
    assert_eq!(large_layers(&bed, before)?, 1);

    bed.runtime.remove_image(&models).await?;
    assert_eq!(bed.runtime.image(&models).await?, None);
    assert_eq!(
        large_layers(&bed, before)?,
        1,
        "a layer went from under a container"
    );
    let used = |info: cri::ImageFsInfoResponse| {
        let usage = info.image_filesystems.first().and_then(|usage| usage.used_bytes);
        usage.map_or(0, |bytes| bytes.value)
    };
    let info = bed
        .runtime
        .images()
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await?;
    assert!(
        used(info.into_inner()) > LARGE as u64,
        "what is on disk is counted"
    );
    for role in [Role::Daemon, Role::Shim] {
        match role {
            Role::Daemon => {
                bed.daemon.kill9()?;
                bed.daemon.start_again()?;
                bed.reconnect().await?;
            }
            _ => bed
                .daemon
                .processes(Role::Shim)?
                .iter()
                .try_for_each(|shim| shim.kill())?,
        }
        let running = running.through(&bed.runtime);
        let content = wait::until_async("the volume after a death", Duration::from_secs(20), || async {
            Ok(says(&running, "cat /volume/small; ls /volume")
                .await
                .ok()
                .filter(|text| text.contains("small")))
        })
        .await?;
        assert_eq!(content, "smalldeep\nowned\nsmall\n", "{role:?}");
        assert_eq!(large_layers(&bed, before)?, 1, "{role:?}");
    }
    // What was made before all that still starts.
    let (pod, waiting) = (pod.through(&bed.runtime), waiting.through(&bed.runtime));
    waiting.start().await?;
    assert_eq!(says(&waiting, "cat /volume/deep/file").await?, "deep");
    waiting.stop(Duration::ZERO).await?;
    waiting.remove().await?;
    assert_eq!(
        large_layers(&bed, before)?,
        1,
        "the other container still needs it"
    );
    pod.remove().await?;
    assert_eq!(large_layers(&bed, before)?, 0, "nobody needs the layer any more");
    bed.leave().await
}

fn kernel() -> Result<(u32, u32)> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split('.');
    let mut number = || {
        numbers
            .next()
            .context("a kernel's release begins with two numbers")
    };
    Ok((number()?.parse()?, number()?.parse()?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_in_a_user_namespace_owns_its_root_and_sees_its_volumes() -> Result<()> {
    const HOST_ID: u32 = 300_000;
    let bed = Bed::make().await?;
    let models = bed.pull(&models()?, "models").await?;
    let status = bed
        .runtime
        .runtime()
        .status(cri::StatusRequest { verbose: false })
        .await?;
    let handlers = status.into_inner().runtime_handlers;
    let features = handlers
        .first()
        .and_then(|handler| handler.features)
        .unwrap_or_default();
    // Whoever is offered them brings volumes on tmpfs, too, whose ids can be mapped from Linux 6.3 on.
    assert_eq!(
        (features.user_namespaces, features.recursive_read_only_mounts),
        (kernel()? >= (6, 3), true),
        "{features:?}"
    );

    let pod = bed
        .runtime
        .run_pod(PodSpec::new("mapped").user_namespace(HOST_ID))
        .await?;
    let volume = bed.node().directory().join("volume");
    std::fs::create_dir_all(&volume)?;
    std::os::unix::fs::chown(&volume, Some(HOST_ID), Some(HOST_ID))?;
    let spec = ContainerSpec::idle("mapped", &bed.busybox)
        .image_volume(&models, "/whole", "")
        .image_volume(&models, "/part", "models")
        .bind(&volume, "/unmapped")
        .security(|security| {
            // As the kubelet does it: a container says again what its pod has.
            let pod = pod
                .config()
                .linux
                .clone()
                .and_then(|linux| linux.security_context);
            let options = pod.and_then(|pod| pod.namespace_options);
            security.namespace_options.get_or_insert_default().userns_options =
                options.and_then(|options| options.userns_options);
        });
    let container = pod.run(&spec).await?;
    let script = "id -u; stat -c '%u:%g %n' / /bin /etc/hosts /whole/models /whole/models/owned /part/owned; \
                  cat /part/small; touch /mine /unmapped/x && chown 7:8 /mine && stat -c '%u:%g' /mine; cat /proc/self/uid_map";
    let text = says(&container, script).await?;
    holds(
        &text,
        &[
            "0\n0:0 /\n0:0 /bin\n0:0 /etc/hosts\n0:0 /whole/models\n1000:1000 /whole/models/owned\n1000:1000 /part/owned\n",
            "small7:8\n",
            "300000",
        ],
    );
    holds(
        &says(&container, "touch /whole/x /part/x").await?,
        &["Read-only file system"],
    );
    // What the container writes has ids of the node, in the volume and in its writable layer.
    assert_eq!(std::fs::metadata(volume.join("x"))?.uid(), HOST_ID);
    let upper = bed.node().path(
        bed.node()
            .root()
            .join("writable")
            .join(container.id())
            .join("upper/mine"),
    );
    let upper = std::fs::metadata(&upper)?;
    assert_eq!((upper.uid(), upper.gid()), (HOST_ID + 7, HOST_ID + 8));
    pod.remove().await?;
    bed.runtime.remove_image(&models).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_mounted_is_in_use() -> Result<()> {
    let bed = Bed::make().await?;
    let path = program()?;
    let path = path.to_str().context("the program's path is no text")?;
    let prune = || bed.node().run(path, &["prune", "--all", "--yes"]);
    let models = bed.pull(&models()?, "models").await?;
    let plain = bed.pull(&plain(), "plain").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("mounts")).await?;
    let spec = ContainerSpec::idle("mounts", &bed.busybox).image_volume(&models, "/volume", "models");
    let container = pod.run(&spec).await?;
    holds(&prune()?, &[&plain]);
    assert!(bed.runtime.image(&plain).await?.is_none());
    assert!(
        bed.runtime.image(&models).await?.is_some(),
        "a container mounts it"
    );
    container.remove().await?;
    holds(&prune()?, &[&models]);
    assert!(bed.runtime.image(&models).await?.is_none());
    assert!(
        bed.runtime.image(&bed.busybox).await?.is_none(),
        "nothing runs on it"
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_images_read_no_disk_and_space_is_as_du_has_it() -> Result<()> {
    let bed = Bed::make().await?;
    let models = bed.pull(&models()?, "models").await?;
    let root = bed.node().path(bed.node().root());
    let listed = bed.runtime.list_images().await?;
    let images = |info: cri::ImageFsInfoResponse| {
        let usage = info.image_filesystems.first().cloned().unwrap_or_default();
        (
            usage.used_bytes.map_or(0, |v| v.value),
            usage.inodes_used.map_or(0, |v| v.value),
        )
    };
    let request = || cri::ImageFsInfoRequest {};
    let told = images(bed.runtime.images().image_fs_info(request()).await?.into_inner());
    let (mut bytes, mut inodes) = (0, 0);
    for part in ["layers", "blobs"] {
        let (more, count) = du(&root.join(part))?;
        bytes += more;
        inodes += count;
    }
    let apart = bytes.abs_diff(told.0);
    assert!(
        apart <= 4096 * inodes,
        "{told:?} is told, {bytes} bytes in {inodes} inodes are there"
    );
    assert!(
        told.0 > LARGE as u64 && apart < LARGE as u64 / 10,
        "{told:?}, {bytes}"
    );

    // All that lies on disk is out of reach: what needed it would fail.
    let hidden = root.join("hidden");
    std::fs::create_dir(&hidden)?;
    for part in ["layers", "blobs", "images.json"] {
        std::fs::rename(root.join(part), hidden.join(part))?;
    }
    assert_eq!(bed.runtime.list_images().await?, listed);
    assert_eq!(
        bed.runtime.image(&models).await?.as_ref(),
        listed.iter().find(|image| image.repo_tags == [models.clone()])
    );
    assert_eq!(
        images(bed.runtime.images().image_fs_info(request()).await?.into_inner()),
        told
    );
    for part in ["layers", "blobs", "images.json"] {
        std::fs::rename(hidden.join(part), root.join(part))?;
    }
    std::fs::remove_dir(&hidden)?;
    bed.runtime.remove_image(&models).await?;
    bed.leave().await
}

/// Bytes and inodes below a directory, hard links once, as `du -x` counts: a layer that is an image is its
/// file, and not once more what is seen where it is mounted.
fn du(directory: &Path) -> Result<(u64, u64)> {
    let (mut bytes, mut seen) = (0, std::collections::HashSet::new());
    let mut left = vec![directory.to_owned()];
    let device = std::fs::symlink_metadata(directory)?.dev();
    while let Some(path) = left.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        if seen.insert(metadata.ino()) {
            bytes += metadata.blocks() * 512;
        }
        if metadata.is_dir() {
            left.extend(
                std::fs::read_dir(&path)?
                    .map(|entry| Ok(entry?.path()))
                    .collect::<Result<Vec<_>>>()?,
            );
        }
    }
    Ok((bytes, seen.len() as u64))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_name_removes_the_image_and_pinned_ones_say_so() -> Result<()> {
    let mut bed = Bed::make().await?;
    let image = plain();
    let first = bed.push(&image, "many-names", "1").await?;
    let second = bed.push(&image, "many-names", "2").await?;
    let digest = format!("registry.test/many-names@{}", image.digest());
    let id = image.id().to_string();
    for name in [&first, &second, &digest, &id, &id["sha256:".len()..].to_owned()] {
        bed.runtime.pull(&first).await?;
        bed.runtime.pull(&second).await?;
        let known = bed.runtime.image(&id).await?.unwrap_or_default();
        assert_eq!(known.repo_tags, [first.clone(), second.clone()]);
        bed.runtime.remove_image(name).await?;
        for gone in [&first, &second, &digest, &id] {
            assert_eq!(
                bed.runtime.image(gone).await?,
                None,
                "{gone} after the removal of {name}"
            );
        }
        bed.runtime.remove_image(name).await?;
    }
    let spec = image_spec("");
    let answer = bed
        .runtime
        .images()
        .remove_image(cri::RemoveImageRequest { image: Some(spec) })
        .await;
    refused("no name", answer, &[Code::InvalidArgument]);

    bed.node().write(
        "/etc/coracle/config.toml",
        format!("[image]\npinned = [{second:?}]\n"),
    )?;
    bed.daemon.terminate()?;
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    bed.runtime.pull(&first).await?;
    assert!(!bed.runtime.image(&first).await?.unwrap_or_default().pinned);
    bed.runtime.pull(&second).await?;
    assert!(
        bed.runtime.image(&first).await?.unwrap_or_default().pinned,
        "one name is enough"
    );
    assert!(
        bed.runtime
            .list_images()
            .await?
            .iter()
            .any(|image| image.pinned && image.id == id)
    );
    bed.runtime.remove_image(&first).await?;
    assert_eq!(
        bed.runtime.image(&second).await?,
        None,
        "pinning is a word to the kubelet"
    );
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_volumes_stay_writable_and_inside() -> Result<()> {
    let bed = Bed::make().await?;
    let base = busybox_root()?
        .entry(Entry::new("data", 0o750, EntryKind::Directory).owned_by(1000, 1000))
        .entry(Entry::new("data/kept", 0o644, EntryKind::File(b"kept".to_vec())))
        .directory("/elsewhere", 0o755)
        .symlink("/link", "/elsewhere")
        .symlink("/out", "../../../../tmp");
    let image = ImageBuilder::new()
        .layer(base.build(), Compression::Gzip)
        .env("PATH=/bin")
        .volume("/data")
        .volume("/link")
        .volume("/out/declared")
        .volume("/../../opt/up")
        .volume("/made/deep")
        .volume("/given")
        .build();
    let reference = bed.pull(&image, "declared").await?;
    let given = bed.node().directory().join("given");
    std::fs::create_dir_all(&given)?;
    let script = "touch /x 2>&1; cat /data/kept; stat -c '%u %a' /data; \
                  for d in /data /link /elsewhere /out/declared /opt/up /made/deep; do touch $d/x && echo $d; done; \
                  touch /given/x; ls /tmp/declared";
    let spec = ContainerSpec::script("declared", &reference, script)
        .bind(&given, "/given")
        .security(|security| security.readonly_rootfs = true);
    let (code, text) = bed.to_its_end(&spec).await?;
    assert_eq!(
        text,
        "touch: /x: Read-only file system\nkept1000 750\n/data\n/link\n/elsewhere\n/out/declared\n/opt/up\n/made/deep\nx"
    );
    assert_eq!(code, 0);
    assert!(
        given.join("x").exists(),
        "what was asked for goes before what the image declares"
    );
    assert!(
        !bed.node().path("/tmp/declared").exists(),
        "a volume was made on the node"
    );
    // The next container of the image sees none of it.
    let (_, text) = bed
        .to_its_end(&ContainerSpec::script("again", &reference, "ls /data /made/deep"))
        .await?;
    assert_eq!(text, "/data:\nkept\n\n/made/deep:");
    bed.runtime.remove_image(&reference).await?;
    bed.leave().await
}
