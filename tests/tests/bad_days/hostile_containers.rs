//! Requests for containers that no well-meaning client sends.

use std::path::Path;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_tests::Bed;

use crate::requests::{Verdicts, long};

/// Names and texts of a container, each with what must not come through.
fn containers_with(text: &str, busybox: &str) -> Vec<(&'static str, ContainerSpec)> {
    let of = |text: &str| text.to_owned();
    let idle = || ContainerSpec::idle("x", busybox);
    let with = |change: &dyn Fn(&mut cri::ContainerConfig)| idle().with(change);
    let mount = |mount: cri::Mount| idle().with(|config| config.mounts = vec![mount]);
    vec![
        (
            "metadata.name",
            with(&|config| config.metadata.get_or_insert_default().name = of(text)),
        ),
        (
            "image",
            with(&|config| config.image.get_or_insert_default().image = of(text)),
        ),
        (
            "user_specified_image",
            with(&|config| config.image.get_or_insert_default().user_specified_image = of(text)),
        ),
        (
            "working_dir",
            with(&|config| config.working_dir = format!("/{text}")),
        ),
        (
            "labels",
            with(&|config| drop(config.labels.insert(of(text), of("x")))),
        ),
        (
            "annotations",
            with(&|config| drop(config.annotations.insert(of(text), of("x")))),
        ),
        ("log_path", with(&|config| config.log_path = of(text))),
        (
            "mounts[0].container_path",
            mount(cri::Mount {
                container_path: format!("/{text}"),
                host_path: of("/tmp"),
                ..Default::default()
            }),
        ),
        (
            "mounts[0].host_path",
            mount(cri::Mount {
                container_path: of("/x"),
                host_path: format!("/{text}"),
                ..Default::default()
            }),
        ),
        (
            "devices[0]",
            with(&|config| {
                config.devices = vec![cri::Device {
                    host_path: format!("/dev/{text}"),
                    container_path: of("/dev/x"),
                    permissions: of("rwm"),
                }];
            }),
        ),
    ]
}

/// Of those, what guards and limits a container.
fn guarded_with(text: &str, busybox: &str) -> Vec<(&'static str, ContainerSpec)> {
    let of = |text: &str| text.to_owned();
    let idle = || ContainerSpec::idle("x", busybox);
    let guarded = |change: &dyn Fn(&mut cri::LinuxContainerSecurityContext)| idle().security(change);
    let capability = |text: &str| {
        Some(cri::Capability {
            add_capabilities: vec![text.to_owned()],
            ..Default::default()
        })
    };
    vec![
        (
            "run_as_username",
            guarded(&|security| security.run_as_username = of(text)),
        ),
        (
            "capabilities",
            guarded(&|security| security.capabilities = capability(text)),
        ),
        (
            "masked_paths",
            guarded(&|security| security.masked_paths = vec![format!("/{text}")]),
        ),
        (
            "readonly_paths",
            guarded(&|security| security.readonly_paths = vec![format!("/{text}")]),
        ),
        (
            "hugepage_limits",
            idle().resources(|resources| {
                resources.hugepage_limits = vec![cri::HugepageLimit {
                    page_size: of(text),
                    limit: 1,
                }];
            }),
        ),
        (
            "cpuset_cpus",
            idle().resources(|resources| resources.cpuset_cpus = of(text)),
        ),
        (
            "cpuset_mems",
            idle().resources(|resources| resources.cpuset_mems = of(text)),
        ),
        (
            "unified",
            idle().resources(|resources| drop(resources.unified.insert(of(text), of("1")))),
        ),
    ]
}

/// Numbers and counts of a container that mean nothing.
fn containers_out_of_bounds(busybox: &str) -> Vec<(&'static str, ContainerSpec)> {
    let idle = || ContainerSpec::idle("x", busybox);
    let with = |change: &dyn Fn(&mut cri::ContainerConfig)| idle().with(change);
    let limited = |change: &dyn Fn(&mut cri::LinuxContainerResources)| idle().resources(change);
    vec![
        (
            "metadata",
            with(&|config| config.metadata = Some(cri::ContainerMetadata::default())),
        ),
        ("command", with(&|config| config.command = vec!["a\0b".into()])),
        (
            "command",
            with(&|config| config.command = vec!["x".into(); 4_000_000]),
        ),
        ("args", with(&|config| config.args = vec![long().repeat(3)])),
        ("envs", idle().env("A=B", "x")),
        ("envs", idle().env("HOME", "/a\nb")),
        (
            "mounts",
            with(&|config| config.mounts = vec![cri::Mount::default(); 5000]),
        ),
        (
            "mounts[0].container_path",
            idle().bind(Path::new("/tmp"), &format!("/{}", "y".repeat(300))),
        ),
        (
            "propagation",
            with(&|config| {
                config.mounts = vec![cri::Mount {
                    propagation: 99,
                    ..Default::default()
                }];
            }),
        ),
        ("stop_signal", with(&|config| config.stop_signal = 999)),
        (
            "cpu_period",
            limited(&|resources| resources.cpu_period = i64::MIN),
        ),
        ("cpu_quota", limited(&|resources| resources.cpu_quota = i64::MIN)),
        (
            "cpu_shares",
            limited(&|resources| resources.cpu_shares = i64::MIN),
        ),
        (
            "memory_limit_in_bytes",
            limited(&|resources| resources.memory_limit_in_bytes = i64::MIN),
        ),
        (
            "memory_swap_limit_in_bytes",
            limited(&|resources| resources.memory_swap_limit_in_bytes = i64::MIN),
        ),
        (
            "oom_score_adj",
            limited(&|resources| resources.oom_score_adj = i64::MIN),
        ),
        (
            "run_as_user",
            idle().security(|security| security.run_as_user = Some(cri::Int64Value { value: i64::MIN })),
        ),
        (
            "supplemental_groups",
            idle().security(|security| security.supplemental_groups = vec![i64::MIN]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_containers() -> Result<()> {
    let bed = Bed::make().await?;
    let mut verdicts = Verdicts::default();
    let pod = bed.runtime.run_pod(PodSpec::new("hostile")).await?;
    for text in ["a\nb", "a\0b", "\x1b[2J", long().as_str()] {
        let containers = containers_with(text, &bed.busybox).into_iter();
        for (field, spec) in containers.chain(guarded_with(text, &bed.busybox)) {
            verdicts.refused(field, pod.create(&spec).await.map(drop));
        }
    }
    for (field, spec) in containers_out_of_bounds(&bed.busybox) {
        verdicts.refused(field, pod.create(&spec).await.map(drop));
    }
    assert!(bed.runtime.list_containers().await?.is_empty());
    drop(verdicts);
    pod.remove().await?;
    bed.leave().await
}
