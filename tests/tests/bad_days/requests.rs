//! Requests that no well-meaning client sends: the answer is a success or an InvalidArgument that names the
//! field, is short, and holds nothing that a terminal or a log would obey.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{Container, ContainerSpec};
use coracle_tests::Bed;
use tonic::{Code, Status};

/// Longest message that a client's HTTP/2 trailers carry with room to spare.
const MESSAGE_MAX: usize = 9 << 10;

/// What is wrong with answers; all of it is told at the end.
#[derive(Default)]
pub(crate) struct Verdicts(Vec<String>);

impl Verdicts {
    /// A refusal is one that the client can act upon.
    pub(crate) fn clear<T: Debug>(&mut self, field: &str, answer: Result<T, Status>) {
        let Err(status) = answer else { return };
        let message = status.message();
        let shown: String = message.chars().take(300).collect();
        if status.code() != Code::InvalidArgument {
            self.0.push(format!("{field}: {:?}: {shown:?}", status.code()));
        } else if !message.contains(field) {
            self.0.push(format!("{field} is not named: {shown:?}"));
        } else if message.len() > MESSAGE_MAX || message.chars().any(char::is_control) {
            self.0
                .push(format!("{field}: {} bytes: {shown:?}", message.len()));
        }
    }

    /// As [`Verdicts::clear`], for what must not be accepted.
    pub(crate) fn refused<T: Debug>(&mut self, field: &str, answer: Result<T, Status>) {
        if answer.is_ok() {
            self.0.push(format!("{field} was accepted"));
        }
        self.clear(field, answer);
    }
}

impl Drop for Verdicts {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "poor answers:\n{}", self.0.join("\n"));
        }
    }
}

pub(crate) fn long() -> String {
    "x".repeat(70_000)
}

pub(crate) fn many(count: usize) -> BTreeMap<String, String> {
    (0..count)
        .map(|number| (format!("example.org/{number}"), number.to_string()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_calls() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("calls").await?;
    let mut verdicts = Verdicts::default();
    execs(&bed, &container, &mut verdicts).await;
    updates(&bed, &container, &mut verdicts).await;
    images(&bed, &mut verdicts).await;
    let runtime = || bed.runtime.runtime();
    for id in ["", "\0", "a\nb", "../..", "*", long().as_str()] {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: true,
        };
        let status = runtime()
            .pod_sandbox_status(request)
            .await
            .expect_err("a pod of that id");
        assert!(
            matches!(status.code(), Code::NotFound | Code::InvalidArgument),
            "{status}"
        );
        assert!(status.message().len() < MESSAGE_MAX && !status.message().chars().any(char::is_control));
    }
    let filter = cri::ContainerFilter {
        state: Some(cri::ContainerStateValue { state: -7 }),
        ..Default::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    verdicts.refused("filter.state", runtime().list_containers(request).await);
    let filter = cri::ContainerFilter {
        label_selector: many(10_000),
        ..Default::default()
    };
    let request = cri::ListContainersRequest { filter: Some(filter) };
    assert!(
        runtime()
            .list_containers(request)
            .await?
            .into_inner()
            .containers
            .is_empty()
    );
    for cidr in ["1.2.3.4/99", "x\ny", long().as_str()] {
        let network_config = Some(cri::NetworkConfig {
            pod_cidr: cidr.into(),
        });
        let request = cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig { network_config }),
        };
        verdicts.refused("pod_cidr", runtime().update_runtime_config(request).await);
    }
    drop(verdicts);
    // The longest wait there is does not outlast the container, and less than none is none.
    for timeout in [i64::MAX, i64::MIN] {
        let container = pod
            .run(&ContainerSpec::idle(&format!("stop{timeout}"), &bed.busybox))
            .await?;
        container.logged("idle").await?;
        let request = cri::StopContainerRequest {
            container_id: container.id().to_owned(),
            timeout,
        };
        tokio::time::timeout(Duration::from_secs(60), runtime().stop_container(request)).await??;
    }
    pod.remove().await?;
    bed.leave().await
}

async fn execs(bed: &Bed, container: &Container, verdicts: &mut Verdicts) {
    let exec = async |command: Vec<String>, timeout: i64| {
        let request = cri::ExecSyncRequest {
            container_id: container.id().to_owned(),
            cmd: command,
            timeout,
        };
        bed.runtime.runtime().exec_sync(request).await
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    verdicts.refused("timeout", exec(words(&["true"]), i64::MIN).await);
    verdicts.refused("cmd", exec(words(&[""]), 5).await);
    verdicts.refused("cmd", exec(words(&["true", "a\0b"]), 5).await);
    verdicts.refused("cmd", exec(vec![long().repeat(3)], 5).await);
    verdicts.refused("cmd", exec(vec!["x".into(); 4_000_000], 5).await);
    let answer = exec(words(&["true"]), i64::MAX).await;
    assert!(answer.is_ok_and(|answer| answer.into_inner().exit_code == 0));
    // As much as the kernel takes, and its output.
    let mut large = words(&["sh", "-c", "echo $#", "sh"]);
    large.extend(vec!["y".repeat(100_000); 15]);
    let answer = exec(large, 60).await.expect("a megabyte and a half of arguments");
    assert_eq!(answer.into_inner().stdout, b"15\n");
}

async fn updates(bed: &Bed, container: &Container, verdicts: &mut Verdicts) {
    let update = async |change: &dyn Fn(&mut cri::LinuxContainerResources)| {
        let mut linux = cri::LinuxContainerResources::default();
        change(&mut linux);
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container.id().to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        bed.runtime.runtime().update_container_resources(request).await
    };
    verdicts.refused("cpu_period", update(&|linux| linux.cpu_period = i64::MIN).await);
    verdicts.refused("cpu_quota", update(&|linux| linux.cpu_quota = i64::MIN).await);
    // The kernel takes the most it knows.
    verdicts.clear("cpu_shares", update(&|linux| linux.cpu_shares = i64::MAX).await);
    verdicts.refused(
        "memory_limit_in_bytes",
        update(&|linux| linux.memory_limit_in_bytes = i64::MIN).await,
    );
    verdicts.refused(
        "cpuset_cpus",
        update(&|linux| linux.cpuset_cpus = "0\n1".into()).await,
    );
    verdicts.refused("cpuset_cpus", update(&|linux| linux.cpuset_cpus = long()).await);
    verdicts.refused(
        "cpuset_mems",
        update(&|linux| linux.cpuset_mems = "../..".into()).await,
    );
    verdicts.clear(
        "oom_score_adj",
        update(&|linux| linux.oom_score_adj = i64::MIN).await,
    );
}

async fn images(bed: &Bed, verdicts: &mut Verdicts) {
    for name in ["", "\0", "a\nb", "\x1b[2J", "registry.test/a b", long().as_str()] {
        verdicts.refused("image", bed.runtime.pull(name).await);
        // What cannot be the name of an image is the name of none.
        if !name.is_empty() {
            assert!(matches!(bed.runtime.image(name).await, Ok(None)), "{name:?}");
        }
        verdicts.clear("image", bed.runtime.remove_image(name).await);
    }
    let auth = |change: &dyn Fn(&mut cri::AuthConfig)| {
        let mut auth = cri::AuthConfig::default();
        change(&mut auth);
        Some(auth)
    };
    for (field, auth) in [
        ("auth", auth(&|auth| auth.auth = "no base64 \n".into())),
        ("auth", auth(&|auth| auth.identity_token = "a\nb".into())),
        (
            "auth",
            auth(&|auth| auth.registry_token = "a\r\nX-Evil: 1".into()),
        ),
        ("auth", auth(&|auth| auth.username = "a:b\n".into())),
    ] {
        verdicts.clear(field, bed.runtime.pull_as("registry.test/busybox:1", auth).await);
    }
}
