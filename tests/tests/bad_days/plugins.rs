//! Network plugins on a bad day: programs on the node's path that hang, fail, or answer rubbish.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{Pod, PodSpec};
use coracle_testkit::node::DaemonOptions;
use coracle_testkit::wait;
use coracle_tests::{Bed, Plan};
use tonic::{Code, Status};

use crate::{refused, works};

/// What it does is written in a file beside it.
const PLUGIN: &str = r#"#!/bin/sh
here=${0%/*}
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$here/asked"
case $CNI_COMMAND:$(cat "$here/mood") in
VERSION:*) echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}' ;;
ADD:hang | DEL:hang-on) echo "waiting for the cloud" >&2; sleep 1000 & wait ;;
ADD:rubbish) echo "ok, done" ;;
ADD:shape) echo '["10.77.0.5"]' ;;
ADD:address) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.77.0.500/24"}]}' ;;
ADD:nothing) ;;
ADD:flood) yes ;;
ADD:dies) echo "segfault at 0" >&2; kill -SEGV $$ ;;
ADD:tells | DEL:fails) echo '{"cniVersion":"1.0.0","code":110,"msg":"no tunnel","details":"limit 7"}'; exit 1 ;;
ADD:later) echo '{"cniVersion":"1.0.0","code":11,"msg":"agent starts"}'; exit 1 ;;
ADD:*) echo '{"cniVersion":"1.0.0","ips":[{"address":"10.77.0.5/24"}]}' ;;
esac
"#;

struct Plugin {
    directory: PathBuf,
}

impl Plugin {
    fn feels(&self, mood: &str) -> Result<()> {
        Ok(fs::write(self.directory.join("mood"), mood)?)
    }

    fn program(&self) -> PathBuf {
        self.directory.join("fickle")
    }

    fn install(&self) -> Result<()> {
        // Renamed into its place: a file that is open for writing cannot be executed.
        let fresh = self.directory.join("fresh");
        fs::write(&fresh, PLUGIN)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
        Ok(fs::rename(fresh, self.program())?)
    }

    fn asked(&self, pod: &str) -> usize {
        let asked = fs::read_to_string(self.directory.join("asked")).unwrap_or_default();
        asked.lines().filter(|line| *line == format!("DEL {pod}")).count()
    }
}

/// A bed whose network is that plugin's, with a deadline that a test can wait for.
async fn bed() -> Result<(Bed, Plugin, tempfile::TempDir)> {
    let place = tempfile::tempdir()?;
    let plugin = Plugin {
        directory: place.path().to_owned(),
    };
    plugin.install()?;
    plugin.feels("well")?;
    let daemon = DaemonOptions {
        cni_bin_dirs: vec![plugin.directory.clone()],
        environment: vec![("CORACLE_NETWORK_PLUGIN_DEADLINE".into(), "2s".into())],
        ..DaemonOptions::default()
    };
    let bed = Bed::planned(Plan {
        daemon,
        ..Plan::default()
    })
    .await?;
    let list = r#"{"cniVersion":"1.0.0","name":"fickle","plugins":[{"type":"fickle"}]}"#;
    bed.node().write("/etc/cni/net.d/10-fickle.conflist", list)?;
    // The change is followed: pods get the plugin's address from now on.
    wait::until_async("the configured network", Duration::from_secs(20), || async {
        let pod = bed.runtime.run_pod(PodSpec::new("first")).await?;
        let there = pod.ip().await? == "10.77.0.5";
        pod.remove().await?;
        Ok(there.then_some(()))
    })
    .await?;
    Ok((bed, plugin, place))
}

async fn run(bed: &Bed) -> Result<Pod, Status> {
    bed.runtime.run_pod(PodSpec::new("plugin")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_do_not_give_a_network() -> Result<()> {
    let (bed, plugin, _place) = bed().await?;
    let internal = Code::Internal;
    let cases = [
        (
            "hang",
            "CNI plugin hangs",
            Code::DeadlineExceeded,
            &["2s", "killed", "waiting for the cloud"][..],
        ),
        (
            "rubbish",
            "CNI plugin answers no JSON",
            internal,
            &["not JSON", "ok, done"],
        ),
        ("shape", "CNI plugin answers other JSON", internal, &["10.77.0.5"]),
        (
            "address",
            "CNI plugin answers no address",
            internal,
            &["10.77.0.500/24"],
        ),
        ("nothing", "CNI plugin answers nothing", internal, &["not JSON"]),
        (
            "flood",
            "CNI plugin answers without end",
            internal,
            &["more than", "bytes"],
        ),
        (
            "dies",
            "CNI plugin crashes",
            internal,
            &["signal 11", "segfault at 0"],
        ),
        (
            "tells",
            "CNI plugin fails in words",
            internal,
            &["no tunnel", "limit 7", "110"],
        ),
        (
            "later",
            "CNI plugin is not ready yet",
            Code::Unavailable,
            &["agent starts"],
        ),
    ];
    for (mood, case, code, parts) in cases {
        plugin.feels(mood)?;
        let words = refused(case, run(&bed).await.map(drop), code, parts);
        for name in ["fickle", "ADD"] {
            assert!(words.contains(name), "{case}: {name} is not named: {words}");
        }
        assert!(bed.runtime.list_pods().await?.is_empty(), "{case}: a pod is left");
    }
    plugin.feels("well")?;
    fs::remove_file(plugin.program())?;
    let place = plugin.directory.display().to_string();
    refused(
        "CNI plugin missing",
        run(&bed).await.map(drop),
        Code::FailedPrecondition,
        &["fickle", &place],
    );
    plugin.install()?;
    // What DEL could not undo either stays in the list until it can: the kubelet removes what is not ready.
    for left in bed.runtime.list_pods().await? {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: left.id,
        };
        bed.runtime.runtime().remove_pod_sandbox(request).await?;
    }
    run(&bed).await?.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_that_do_not_take_a_network_back() -> Result<()> {
    let (bed, plugin, _place) = bed().await?;
    for (mood, case, code, parts) in [
        (
            "fails",
            "CNI plugin fails on DEL",
            Code::Internal,
            &["DEL", "no tunnel"][..],
        ),
        (
            "hang-on",
            "CNI plugin hangs on DEL",
            Code::DeadlineExceeded,
            &["DEL", "2s"],
        ),
    ] {
        plugin.feels("well")?;
        let pod = run(&bed).await?;
        plugin.feels(mood)?;
        refused(case, pod.stop().await, code, parts);
        let asked = plugin.asked(pod.id());
        // The kubelet asks again, and so is the plugin, until it is well.
        assert!(pod.remove().await.is_err());
        assert!(
            plugin.asked(pod.id()) > asked,
            "{case}: the plugin is not asked again"
        );
        plugin.feels("well")?;
        pod.stop().await?;
        pod.remove().await?;
    }
    let pod = run(&bed).await?;
    fs::remove_file(plugin.program())?;
    refused(
        "CNI plugin missing on DEL",
        pod.stop().await,
        Code::FailedPrecondition,
        &["fickle", "DEL"],
    );
    plugin.install()?;
    pod.stop().await?;
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_ports_that_are_used_up() -> Result<()> {
    let plan = Plan {
        subnet: Some("10.91.0.0/30"),
        ..Plan::default()
    };
    let bed = Bed::planned(plan).await?;
    // Of four addresses one is the bridge's and two are nobody's.
    let pod = run(&bed).await?;
    let second = || bed.runtime.run_pod(PodSpec::new("second"));
    refused(
        "address range used up",
        second().await.map(drop),
        Code::ResourceExhausted,
        &["10.91.0.", "no address is left"],
    );
    pod.remove().await?;
    second().await?.remove().await?;
    works("address given back", "the next pod has it");
    bed.leave().await?;

    let bed = Bed::make().await?;
    let published = |name: &str| bed.runtime.run_pod(PodSpec::new(name).publish(12345, 80));
    let pod = published("holder").await?;
    refused(
        "host port of another pod",
        published("other").await.map(drop),
        Code::FailedPrecondition,
        &["12345", "in use", pod.id()],
    );
    pod.remove().await?;
    let listener = bed.node().listen(12345)?;
    let answer = published("other").await;
    if let Ok(pod) = &answer {
        pod.remove().await?;
    }
    refused(
        "host port of a process of the node",
        answer.map(drop),
        Code::FailedPrecondition,
        &["12345", "in use"],
    );
    drop(listener);
    published("after").await?.remove().await?;
    bed.leave().await
}
