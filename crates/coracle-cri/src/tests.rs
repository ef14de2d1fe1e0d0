//! The services over a real socket, in front of a runtime that only remembers what it was asked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_proto::admin::pull_event::Event;
use coracle_proto::client::{Client, ClientError, kind_of};
use coracle_proto::{admin, cri};
use coracle_types::{Kind, Kinded, PodSandboxId};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::tests::memory::Memory;
use crate::{Process, ServeError, serve, socket};

mod memory;

struct Node {
    memory: Arc<Memory>,
    client: Client,
    end: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), ServeError>>,
    _file: socket::SocketFile,
    _directory: tempfile::TempDir,
}

async fn node() -> Node {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("coracle.sock");
    let (listener, file) = socket::bind(&path, 0o600).await.unwrap();
    let memory = Arc::new(Memory::default());
    let (end, ended) = oneshot::channel::<()>();
    let engine = Arc::clone(&memory);
    let serving = tokio::spawn(async move {
        serve(engine, Process::default(), listener, async {
            let _ = ended.await;
        })
        .await
    });
    let client = Client::connect(&path).await.unwrap();
    Node {
        memory,
        client,
        end,
        serving,
        _file: file,
        _directory: directory,
    }
}

fn pod(name: &str) -> cri::RunPodSandboxRequest {
    let metadata = cri::PodSandboxMetadata {
        name: name.into(),
        ..Default::default()
    };
    let config = cri::PodSandboxConfig {
        metadata: Some(metadata),
        ..Default::default()
    };
    cri::RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: "kata".into(),
    }
}

/// The calls of the wire's table that answer something else than "not implemented".
const OFFERED: [&str; 31] = [
    "Version",
    "Status",
    "RuntimeConfig",
    "UpdateRuntimeConfig",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "ExecSync",
    "ReopenContainerLog",
    "PullImage",
    "ListImages",
    "ImageStatus",
    "RemoveImage",
    "ImageFsInfo",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
];

#[tokio::test]
async fn all_43_calls_are_registered_and_those_not_offered_name_themselves() {
    let node = node().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("unix:{}", node.client.socket().display()))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let table = include_str!("../../coracle-proto/tests/cri-v1.txt");
    let calls: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("rpc "))
        .collect();
    assert_eq!(calls.len(), 43);
    let mut offered = 0;
    for call in calls {
        let (service, name) = call.split(' ').next().unwrap().split_once('.').unwrap();
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/runtime.v1.{service}/{name}").parse().unwrap();
        let codec: tonic_prost::ProstCodec<(), ()> = Default::default();
        let answer = grpc.unary(tonic::Request::new(()), path, codec).await;
        if OFFERED.contains(&name) {
            offered += 1;
            // An empty request may be refused, but not as unknown.
            assert_ne!(
                answer.err().map(|status| status.code()),
                Some(Code::Unimplemented),
                "{name}"
            );
            continue;
        }
        let status = answer.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            status.message(),
            format!("{name} is not implemented by this version")
        );
    }
    assert_eq!(offered, OFFERED.len());
}

#[tokio::test]
async fn what_every_client_asks_first_is_answered() {
    let node = node().await;
    let version = node
        .client
        .runtime()
        .version(cri::VersionRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(version.runtime_name, "coracle");
    assert_eq!(version.runtime_api_version, "v1");
    assert!(!version.version.is_empty() && !version.runtime_version.is_empty());
    let info = node
        .client
        .images()
        .image_fs_info(cri::ImageFsInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(info.image_filesystems[0].used_bytes.unwrap().value, 5);
    assert_eq!(info.container_filesystems[0].inodes_used.unwrap().value, 6);
    let status = node
        .client
        .runtime()
        .status(cri::StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.status.unwrap().conditions[1].r#type, "NetworkReady");
    assert_eq!(status.runtime_handlers[0].name, "");
    let config = node
        .client
        .runtime()
        .runtime_config(cri::RuntimeConfigRequest {})
        .await
        .unwrap();
    assert_eq!(
        config.into_inner().linux.unwrap().cgroup_driver(),
        cri::CgroupDriver::Cgroupfs
    );
}

#[tokio::test]
async fn a_callers_deadline_ends_its_waiting_and_not_the_work() {
    let node = node().await;
    let mut request = tonic::Request::new(pod("slow"));
    request.set_timeout(Duration::from_millis(30));
    let status = node.client.runtime().run_pod_sandbox(request).await.unwrap_err();
    assert_eq!(kind_of(&status), Kind::DeadlineExceeded, "{status:?}");
    assert!(!node.memory.done.load(Ordering::SeqCst));
    node.memory.gate.notify_one();
    while !node.memory.done.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    assert_eq!(node.memory.asked(), ["run slow RuntimeHandlerName(\"kata\")"]);
}

#[tokio::test]
async fn a_fault_in_one_call_is_that_calls_answer() {
    let node = node().await;
    let status = node
        .client
        .runtime()
        .run_pod_sandbox(pod("panics"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    let pod = node
        .client
        .runtime()
        .run_pod_sandbox(pod("fine"))
        .await
        .unwrap()
        .into_inner();
    assert!(pod.pod_sandbox_id.parse::<PodSandboxId>().is_ok());
}

#[tokio::test]
async fn output_of_sixteen_megabytes_a_stream_passes() {
    let node = node().await;
    let request = cri::ExecSyncRequest {
        container_id: "c".into(),
        cmd: vec!["x".into()],
        timeout: 0,
    };
    let output = node
        .client
        .runtime()
        .exec_sync(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (output.stdout.len(), output.stderr.len(), output.exit_code),
        (16_000_000, 16_000_000, 3)
    );
    let late = cri::ExecSyncRequest {
        timeout: 1,
        ..request.clone()
    };
    let status = node.client.runtime().exec_sync(late).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let negative = cri::ExecSyncRequest {
        timeout: -1,
        ..request
    };
    let status = node.client.runtime().exec_sync(negative).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("timeout: -1"), "{}", status.message());
}

#[tokio::test]
async fn failures_have_their_codes_and_words() {
    let node = node().await;
    let mut runtime = node.client.runtime();
    let start = cri::StartContainerRequest {
        container_id: "c".into(),
    };
    let status = runtime.start_container(start).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "test: as the test wants it");

    let create = cri::CreateContainerRequest {
        pod_sandbox_id: "p".into(),
        config: Some(cri::ContainerConfig {
            metadata: Some(Default::default()),
            image: Some(Default::default()),
            ..Default::default()
        }),
        sandbox_config: None,
    };
    let status = runtime.create_container(create.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    assert!(
        status.message().starts_with("RROUnsupported: "),
        "{}",
        status.message()
    );

    let status = runtime
        .create_container(cri::CreateContainerRequest {
            config: None,
            ..create
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "CreateContainer: config: is missing");
}

#[tokio::test]
async fn ids_reach_the_engine_as_they_are_but_none_is_not_all() {
    let node = node().await;
    let mut runtime = node.client.runtime();
    for id in ["../../etc", "ABC", "a"] {
        runtime
            .stop_pod_sandbox(cri::StopPodSandboxRequest {
                pod_sandbox_id: id.into(),
            })
            .await
            .unwrap();
    }
    let status = runtime
        .stop_pod_sandbox(cri::StopPodSandboxRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let negative = cri::StopContainerRequest {
        container_id: "c".into(),
        timeout: -5,
    };
    runtime.stop_container(negative).await.unwrap();
    assert_eq!(
        node.memory.asked(),
        ["stop ../../etc", "stop ABC", "stop a", "stop c 0ns"]
    );
}

#[tokio::test]
async fn a_filter_with_an_unknown_state_is_refused() {
    let node = node().await;
    let mut runtime = node.client.runtime();
    let filter = |state| cri::ListPodSandboxRequest {
        filter: Some(cri::PodSandboxFilter {
            id: "ab".into(),
            state: Some(cri::PodSandboxStateValue { state }),
            ..Default::default()
        }),
    };
    runtime.list_pod_sandbox(filter(1)).await.unwrap();
    assert_eq!(node.memory.asked(), ["list ab Some(NotReady) {}"]);
    let status = runtime.list_pod_sandbox(filter(7)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status.message().starts_with("ListPodSandbox: filter.state: 7 "),
        "{}",
        status.message()
    );
}

#[tokio::test]
async fn pulls_carry_credentials_and_say_why_they_fail() {
    let node = node().await;
    let request = cri::PullImageRequest {
        image: Some(cri::ImageSpec {
            image: "r.example/a".into(),
            ..Default::default()
        }),
        auth: Some(cri::AuthConfig {
            username: "me".into(),
            password: "hunter2".into(),
            ..Default::default()
        }),
        sandbox_config: Some(cri::PodSandboxConfig::default()),
    };
    let status = node.client.images().pull_image(request).await.unwrap_err();
    assert_eq!(
        (status.code(), kind_of(&status)),
        (Code::Unknown, Kind::RegistryUnavailable)
    );
    let asked = node.memory.asked().join("\n");
    assert!(
        asked.contains("username: \"me\"") && !asked.contains("hunter2"),
        "{asked}"
    );
    assert!(
        asked.ends_with("false"),
        "an empty configuration is none: {asked}"
    );
}

#[tokio::test]
async fn the_admin_service_answers_on_the_same_socket() {
    let node = node().await;
    let mut admin = node.client.admin();
    let findings = admin
        .audit(admin::AuditRequest {})
        .await
        .unwrap()
        .into_inner()
        .findings;
    assert_eq!(findings[0].difference(), admin::Difference::Missing);
    let explain = admin::ExplainRequest {
        pod_sandbox_id: "p".into(),
    };
    let steps = admin.explain(explain).await.unwrap().into_inner().steps;
    assert_eq!((steps[0].start_nanos, steps[0].took_nanos), (4000, None));

    let request = admin::PullRequest {
        reference: "a".into(),
        ..Default::default()
    };
    let mut events = admin.pull(request).await.unwrap().into_inner();
    let first = events.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Layer(layer)) if layer.received == 3 && layer.size == 9));
    let end = ClientError::of("Pull")(events.message().await.unwrap_err());
    assert_eq!(end.kind(), Kind::RegistryUnavailable);

    admin
        .import(admin::ImportRequest {
            path: "/x.tar".into(),
        })
        .await
        .unwrap();
    let status = admin
        .import(admin::ImportRequest { path: "x.tar".into() })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_pod_range_is_passed_on_when_there_is_one() {
    let node = node().await;
    let mut runtime = node.client.runtime();
    runtime
        .update_runtime_config(cri::UpdateRuntimeConfigRequest::default())
        .await
        .unwrap();
    let network = cri::NetworkConfig {
        pod_cidr: "10.1.0.0/24,fd00::/64".into(),
    };
    let config = cri::RuntimeConfig {
        network_config: Some(network),
    };
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(config),
    };
    runtime.update_runtime_config(request).await.unwrap();
    assert_eq!(node.memory.asked(), ["cidr 10.1.0.0/24,fd00::/64"]);
}

#[tokio::test]
async fn serving_ends_when_asked_and_the_client_says_that_nobody_is_there() {
    let node = node().await;
    node.end.send(()).unwrap();
    node.serving.await.unwrap().unwrap();
    let error = Client::connect(node.client.socket()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.to_string().contains("coracle.sock"), "{error}");
}

/// The runtime's real people speak Go: crictl, when it is there.
#[tokio::test(flavor = "multi_thread")]
async fn crictl_understands_the_answers() {
    let node = node().await;
    let endpoint = format!("unix://{}", node.client.socket().display());
    for (arguments, wanted) in [
        (&["version"][..], "coracle"),
        (&["info"], "NoConfiguration"),
        (&["imagefsinfo"], "/var/lib/x"),
        (&["pods", "--state", "ready"], "POD ID"),
        (&["ps", "-a"], "CONTAINER"),
        (&["runtime-config"], "CGROUPFS"),
    ] {
        let command = tokio::process::Command::new("crictl")
            .args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint])
            .args(arguments)
            .output();
        let output = match command.await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            other => other.unwrap(),
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && text.contains(wanted),
            "{arguments:?}: {text}{error}"
        );
    }
}
