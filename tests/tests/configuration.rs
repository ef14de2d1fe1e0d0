//! The daemon's configuration, its log and its measurements, as an operator handles them. Needs root.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cni;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::{Compression, ImageBuilder, Layer};
use coracle_testkit::node::daemon::program;
use coracle_testkit::node::{DaemonOptions, Role};
use coracle_testkit::registry::{FaultyRegistry, Trouble};
use coracle_testkit::wait;
use coracle_tests::Bed;
use coracle_tests::bed::Plan;
use coracle_tests::checks::holds;

const FILE: &str = "/etc/coracle/config.toml";
const SOON: Duration = Duration::from_secs(10);

fn coracle(bed: &Bed, arguments: &[&str]) -> Result<Output> {
    let program = program()?;
    let program = program.to_str().context("the program's path is no text")?;
    bed.node().output(program, arguments)
}

fn words(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Runs a command that must succeed.
fn done(bed: &Bed, arguments: &[&str]) -> Result<String> {
    let output = coracle(bed, arguments)?;
    let words = words(&output);
    anyhow::ensure!(
        output.status.success(),
        "{arguments:?}: {}: {words}",
        output.status
    );
    Ok(words)
}

fn log(bed: &Bed) -> String {
    fs::read_to_string(bed.node().directory().join("daemon.log")).unwrap_or_default()
}

/// What the log says after `before`, once it holds `text`.
fn logged(bed: &Bed, before: usize, text: &str) -> Result<String> {
    wait::until(&format!("{text:?} in the daemon's log"), SOON, || {
        let log = log(bed);
        let new = log.get(before..).unwrap_or_default();
        Ok(new.contains(text).then(|| new.to_owned()))
    })
}

/// The value of a series.
fn series(text: &str, name: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
    line.rsplit(' ').next()?.parse().ok()
}

fn scrape(socket: &PathBuf) -> Result<String> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("an answer without a head")?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
    holds(head, &["application/openmetrics-text"]);
    anyhow::ensure!(body.ends_with("# EOF\n"), "the text is cut: {body}");
    Ok(body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_counts_at_once_and_what_is_wrong_changes_nothing() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("witness").await?;
    let good = "socket_mode = \"0600\"\n[log]\nlevel = \"debug\"\n[registry]\nmax_concurrent_downloads = 7\n";
    bed.node().write(FILE, good)?;
    let said = done(&bed, &["config", "reload"])?;
    holds(
        &said,
        &[
            "log.level",
            "\"debug\"",
            "registry.max_concurrent_downloads",
            "now",
        ],
    );
    holds(&said, &["socket_mode", "after a restart"]);

    // The level counts: calls are told of now, each with its number.
    let before = log(&bed).len();
    bed.runtime.list_pods().await?;
    holds(&logged(&bed, before, "ListPodSandbox")?, &["request="]);

    let show = done(&bed, &["config", "show", "-o", "json"])?;
    let json = show.rsplit_once(']').context("no list")?.0;
    let settings: serde_json::Value = serde_json::from_str(&format!("{json}]"))?;
    let setting = |key: &str| {
        settings
            .as_array()
            .into_iter()
            .flatten()
            .find(|one| one["key"] == key)
            .cloned()
    };
    let level = setting("log.level").context("log.level")?;
    assert_eq!(
        (&level["value"], &level["origin"]),
        (&"debug".into(), &format!("{FILE}:3").into())
    );
    let mode = setting("socket_mode").context("socket_mode")?;
    assert_eq!(
        (&mode["value"], &mode["pending"]),
        (&"0660".into(), &"0600".into())
    );
    let root = setting("root").context("root")?;
    assert_eq!(root["origin"], "flag --root");

    // Something is wrong with the new one, and something else would have counted at once.
    bed.node()
        .write(FILE, "[log]\nlevel = \"error\"\nlevle = \"info\"\n")?;
    let refused = coracle(&bed, &["config", "reload"])?;
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    holds(
        &words(&refused),
        &[&format!("{FILE}:3"), "log.levle", "did you mean log.level?"],
    );
    let checked = coracle(&bed, &["config", "check"])?;
    assert_eq!(checked.status.code(), Some(78), "{}", words(&checked));
    let before = log(&bed).len();
    let service = bed.daemon.proc()?;
    let pid = service.file_name().and_then(|name| name.to_str());
    hang_up(pid.context("a pid")?)?;
    holds(&logged(&bed, before, "stays as it was")?, &["log.levle"]);
    let shown = done(&bed, &["config", "show", "--changed"])?;
    holds(&shown, &["log.level", "\"debug\""]);

    // By signal as by command.
    bed.node().write(FILE, "[log]\nlevel = \"info\"\n")?;
    by_signal(&bed)?;
    holds(&done(&bed, &["config", "reload"])?, &["nothing differs"]);

    let output = container.exec(&["echo", "alive"]).await?;
    assert_eq!(output.stdout, "alive\n");
    pod.remove().await?;
    bed.leave().await
}

/// Has the daemon read its configuration again, as `systemctl reload` does.
fn by_signal(bed: &Bed) -> Result<()> {
    let before = log(bed).len();
    let service = bed.daemon.proc()?;
    let pid = service.file_name().and_then(|name| name.to_str());
    hang_up(pid.context("a pid")?)?;
    logged(bed, before, "the configuration was read again").map(drop)
}

/// Sends SIGHUP to a process that this test started.
fn hang_up(pid: &str) -> Result<()> {
    let status = std::process::Command::new("kill").args(["-HUP", pid]).status()?;
    anyhow::ensure!(status.success(), "kill -HUP {pid}: {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_about_registries_acts_on_the_next_pull() -> Result<()> {
    let bed = Bed::make().await?;
    let registry = FaultyRegistry::start(bed.node().listen(0)?)?;
    let layers = ["a", "b", "c"].map(|mark| Layer::new().file("/mark", 0o644, mark.repeat(9_000)).build());
    let image = layers
        .into_iter()
        .fold(ImageBuilder::new(), |image, layer| {
            image.layer(layer, Compression::Gzip)
        })
        .cmd(&["/none"])
        .build();
    registry.add(&image, "app", "1");
    let reference = "moved.test/app:1";
    let manifest: serde_json::Value = serde_json::from_slice(image.manifest())?;
    let layers: Vec<String> = manifest["layers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|layer| Some(layer["digest"].as_str()?.to_owned()))
        .collect();
    assert_eq!(layers.len(), 3);
    let hosts = format!("server = \"http://{}\"\n", registry.authority());
    bed.node().write("/etc/moved/moved.test/hosts.toml", hosts)?;
    let configure = |rest: &str| {
        let text =
            format!("[registry]\nconfig_dirs = [\"/etc/moved\", \"/etc/containerd/certs.d\"]\n{rest}\n");
        bed.node().write(FILE, text)
    };

    // Nobody has led the name to the registry yet.
    bed.node().write(FILE, "[registry]\nattempts = 1\n")?;
    done(&bed, &["config", "reload"])?;
    assert!(bed.runtime.pull(reference).await.is_err());
    assert_eq!(registry.count("/"), 0);
    configure("")?;
    holds(
        &done(&bed, &["config", "reload"])?,
        &["registry.config_dirs", "now"],
    );
    // Trouble that passes is met by another attempt, as it is by default.
    registry.fail("/manifests/", 1, Trouble::Status(500));
    bed.runtime.pull(reference).await?;
    bed.runtime.remove_image(reference).await?;

    configure("attempts = 1")?;
    by_signal(&bed)?;
    registry.heal();
    registry.fail("/manifests/", 1, Trouble::Status(500));
    let before = registry.count("/manifests/");
    assert!(bed.runtime.pull(reference).await.is_err());
    assert_eq!(registry.count("/manifests/"), before + 1, "one attempt, no other");

    // Layers that never come: as many are asked for as may be at once, and given up after the stall limit.
    registry.heal();
    for layer in &layers {
        registry.fail(layer, u32::MAX, Trouble::Silent);
    }
    let asked = || layers.iter().map(|layer| registry.count(layer)).sum::<usize>();
    for at_once in [1, 3] {
        let before = asked();
        configure(&format!(
            "attempts = 1\nstall_timeout = \"1s\"\nmax_concurrent_downloads = {at_once}"
        ))?;
        if at_once == 1 {
            let said = done(&bed, &["config", "reload"])?;
            holds(
                &said,
                &["registry.stall_timeout", "registry.max_concurrent_downloads"],
            );
        } else {
            by_signal(&bed)?;
        }
        // The limit of before, 30 s, outlasts this wait.
        let pull = tokio::time::timeout(Duration::from_secs(25), bed.runtime.pull(reference));
        assert!(pull.await.context("the stall limit does not act")?.is_err());
        assert_eq!(asked() - before, at_once);
    }
    bed.leave().await
}

/// A bridge as in other tests, and behind it a plugin that no directory has yet.
const WITH_WITNESS: &str = r#"{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.90.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "witness"}
  ]
}"#;
/// Hangs when a pod comes, and lets it go.
const HANGS: &str = "#!/bin/sh\ntest \"$CNI_COMMAND\" = ADD && exec sleep 1000\nexit 0\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_about_network_plugins_acts_on_the_next_pod() -> Result<()> {
    // What the command line says the configuration cannot change.
    let bed = Bed::planned(Plan {
        daemon: DaemonOptions {
            cni_bin_dirs: Vec::new(),
            ..DaemonOptions::default()
        },
        subnet: Some("10.90.0.0/16"),
    })
    .await?;
    bed.node()
        .write("/etc/cni/net.d/05-first.conflist", WITH_WITNESS)?;
    let attempts = std::cell::Cell::new(0);
    let attempt = async || {
        attempts.set(attempts.get() + 1);
        let pod = bed
            .runtime
            .run_pod(PodSpec::new(&format!("pod-{}", attempts.get())))
            .await?;
        pod.remove().await
    };
    // The new configuration is followed, soon; then its plugin is missing.
    let words = wait::until_async("a pod without the plugin", SOON, async || {
        Ok(attempt().await.err().map(|error| format!("{error:#}")))
    })
    .await?;
    holds(&words, &["witness"]);

    // Any plugin that passes on what it was given is a witness.
    let plugin = cni::plugin_directories()
        .into_iter()
        .map(|directory| directory.join("tuning"))
        .find(|path| path.is_file())
        .context("no plugin tuning")?;
    let install = |content: &[u8]| -> Result<()> {
        bed.node().write("/var/lib/added/new", content)?;
        let (new, witness) = (
            bed.node().path("/var/lib/added/new"),
            bed.node().path("/var/lib/added/witness"),
        );
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(new, witness)?)
    };
    install(&fs::read(plugin)?)?;
    bed.node()
        .write(FILE, "[network]\nbin_dirs = [\"/var/lib/added\"]\n")?;
    holds(&done(&bed, &["config", "reload"])?, &["network.bin_dirs", "now"]);
    attempt().await?;

    install(HANGS.as_bytes())?;
    bed.node().write(
        FILE,
        "[network]\nbin_dirs = [\"/var/lib/added\"]\nplugin_deadline = \"1s\"\n",
    )?;
    by_signal(&bed)?;
    let words = attempt().await.err().map(|error| format!("{error:#}"));
    holds(&words.context("the plugin hangs")?, &["did not end within 1s"]);
    // What a missing plugin could not undo stays in the list until it can.
    for left in bed.runtime.list_pods().await? {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: left.id,
        };
        bed.runtime.runtime().remove_pod_sandbox(request).await?;
    }
    fs::remove_file(bed.node().path("/etc/cni/net.d/05-first.conflist"))?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_that_a_command_sets_lasts_until_the_configuration_is_read_again() -> Result<()> {
    let bed = Bed::make().await?;
    let quiet = log(&bed).len();
    bed.runtime.list_pods().await?;
    holds(&done(&bed, &["log-level", "debug"])?, &["debug, was info"]);
    holds(
        &done(&bed, &["log-level"])?,
        &["debug (command coracle log-level)"],
    );
    assert!(
        !log(&bed)[quiet..].contains("ListPodSandbox"),
        "told of before it was asked for"
    );
    let before = log(&bed).len();
    bed.runtime.list_pods().await?;
    logged(&bed, before, "ListPodSandbox")?;
    let refused = coracle(&bed, &["log-level", "loud"])?;
    assert!(!refused.status.success());
    holds(&words(&refused), &["\"loud\"", "error, warn, info, debug, trace"]);
    holds(&done(&bed, &["config", "reload"])?, &["log.level", "\"info\""]);
    holds(&done(&bed, &["log-level"])?, &["info (default)"]);
    bed.leave().await
}

/// What shims have said so far.
fn shims_said(bed: &Bed) -> Result<String> {
    let directory = bed.node().path(bed.node().state().join("keeper"));
    let logs = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    Ok(logs.flat_map(fs::read_to_string).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn shims_follow_the_log_level() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("before").await?;
    assert!(!shims_said(&bed)?.contains(container.id()));
    done(&bed, &["log-level", "debug"])?;
    // The shim that lives is told a moment later, one to come is born with it.
    wait::until_async("a record of the living shim", SOON, || async {
        let next = pod
            .run(&ContainerSpec::new("next", &bed.busybox, &["true"]))
            .await?;
        let said = shims_said(&bed)?;
        next.remove().await?;
        Ok((said.contains(next.id()) && said.contains(pod.id())).then_some(()))
    })
    .await?;
    let (after, container) = bed.idle_pod("after").await?;
    holds(&shims_said(&bed)?, &[container.id(), after.id()]);
    done(&bed, &["config", "reload"])?;
    wait::until_async("silence", SOON, || async {
        let next = pod
            .run(&ContainerSpec::new("next", &bed.busybox, &["true"]))
            .await?;
        let said = shims_said(&bed)?;
        next.remove().await?;
        Ok((!said.contains(next.id())).then_some(()))
    })
    .await?;
    after.remove().await?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_read_stops_the_daemon_and_no_pod() -> Result<()> {
    let mut bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("witness").await?;
    bed.daemon.kill9()?;
    bed.node().write(
        FILE,
        "[registry]\nmax_concurent_downloads = 3\nattempts = \"often\"\n[log\n",
    )?;
    bed.node()
        .write("/etc/coracle/config.d/50-mine.toml", "root = 7\n")?;
    let failed = coracle(&bed, &["serve"])?;
    assert_eq!(failed.status.code(), Some(78), "{}", words(&failed));
    holds(
        &words(&failed),
        &[&format!("{FILE}:4"), "\"[log\"", "50-mine.toml:1", "root = 7"],
    );
    bed.node().write(
        FILE,
        "[registry]\nmax_concurent_downloads = 3\nattempts = \"often\"\n",
    )?;
    let failed = coracle(&bed, &["serve"])?;
    assert_eq!(failed.status.code(), Some(78), "{}", words(&failed));
    holds(
        &words(&failed),
        &[
            "3 problems",
            &format!(
                "{FILE}:2: registry.max_concurent_downloads: unknown key: did you mean registry.max_concurrent_downloads?"
            ),
            &format!("{FILE}:3: registry.attempts = \"often\": write a number"),
        ],
    );
    // It ran on without a daemon, and is found by one that can read its configuration.
    assert_eq!(bed.daemon.processes(Role::Shim)?.len(), 1);
    for path in [FILE, "/etc/coracle/config.d/50-mine.toml"] {
        fs::remove_file(bed.node().path(path))?;
    }
    bed.daemon.start_again()?;
    bed.reconnect().await?;
    let (pod, container) = (pod.through(&bed.runtime), container.through(&bed.runtime));
    assert_eq!(pod.status().await?.state(), cri::PodSandboxState::SandboxReady);
    assert_eq!(container.exec(&["echo", "alive"]).await?.stdout, "alive\n");
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn measurements_are_read_from_a_socket_that_a_reload_opens_and_closes() -> Result<()> {
    let bed = Bed::make().await?;
    let address = bed.node().state().join("metrics.sock");
    let socket = bed.node().path(&address);
    let text = format!("[metrics]\naddress = \"unix:{}\"\n", address.display());
    bed.node().write(FILE, text)?;
    holds(&done(&bed, &["config", "reload"])?, &["metrics.address", "now"]);
    let before = scrape(&socket)?;
    let (pod, _container) = bed.idle_pod("measured").await?;
    let _ = bed.runtime.pull("registry.test/there-is-none:1").await;
    let text = scrape(&socket)?;
    let ran = "coracle_rpc_duration_seconds_count{method=\"RunPodSandbox\",code=\"OK\"}";
    assert_eq!(
        series(&text, ran).with_context(|| format!("{ran} in {text}"))?,
        series(&before, ran).unwrap_or(0.0) + 1.0
    );
    for (name, value) in [
        ("coracle_pods{state=\"ready\"}", 1.0),
        ("coracle_containers{state=\"running\"}", 1.0),
        ("coracle_containers{state=\"exited\"}", 0.0),
        ("coracle_images", 1.0),
        ("coracle_helpers{role=\"shim\"}", 1.0),
        ("coracle_helpers{role=\"keeper\"}", 1.0),
        ("coracle_config_reloads_total{outcome=\"applied\"}", 1.0),
    ] {
        assert_eq!(series(&text, name), Some(value), "{name} in\n{text}");
    }
    for name in [
        "coracle_step_duration_seconds_count{step=\"run.network\"}",
        "coracle_operation_duration_seconds_count{operation=\"run pod sandbox\"}",
        "coracle_helpers_resident_memory_bytes{role=\"shim\"}",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(
            series(&text, name).is_some_and(|value| value > 0.0),
            "{name} in\n{text}"
        );
    }
    let failed = text.lines().any(|line| {
        line.starts_with("coracle_rpc_duration_seconds_count{method=\"PullImage\",code=\"")
            && !line.contains("\"OK\"")
    });
    assert!(failed, "{text}");
    // No id and no name of a pod is a label.
    assert!(!text.contains("measured") && !text.contains(pod.id()), "{text}");

    bed.node()
        .write(FILE, "[metrics]\naddress = \"0.0.0.0:9469\"\n")?;
    let refused = coracle(&bed, &["config", "reload"])?;
    assert_eq!(refused.status.code(), Some(78), "{}", words(&refused));
    holds(
        &words(&refused),
        &[&format!("{FILE}:2"), "0.0.0.0", "no password"],
    );
    scrape(&socket)?;
    bed.node().write(FILE, "")?;
    holds(&done(&bed, &["config", "reload"])?, &["metrics.address"]);
    assert!(!socket.exists(), "the socket outlives its endpoint");
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_gets_pods_and_operations_as_fields() -> Result<()> {
    let bed = Bed::planned(Plan {
        subnet: Some("10.90.0.0/16"),
        daemon: DaemonOptions {
            arguments: vec!["--log-format".to_owned(), "journald".to_owned()],
            ..DaemonOptions::default()
        },
    })
    .await?;
    // Without a journal its lines are on standard error, with their priorities.
    holds(&log(&bed), &["<6>ready"]);
    bed.node().write("/run/systemd/journal/.keep", "")?;
    let journal = UnixDatagram::bind(bed.node().path("/run/systemd/journal/socket"))?;
    journal.set_read_timeout(Some(SOON))?;
    let (pod, _container) = bed.idle_pod("in-the-journal").await?;
    bed.daemon
        .processes(Role::Shim)?
        .first()
        .context("a shim")?
        .kill()?;
    let mut datagram = vec![0; 64 << 10];
    loop {
        let length = journal
            .recv(&mut datagram)
            .context("no record of the lost shim")?;
        let record = String::from_utf8_lossy(&datagram[..length]).into_owned();
        if record.contains("the shim is gone") {
            let pod = format!("CORACLE_POD={}\n", pod.id());
            holds(&record, &["PRIORITY=4\n", "SYSLOG_IDENTIFIER=coracle\n", &pod]);
            break;
        }
    }
    pod.remove().await?;
    drop(journal);
    for name in ["socket", ".keep"] {
        fs::remove_file(bed.node().path("/run/systemd/journal").join(name))?;
    }
    bed.leave().await
}
