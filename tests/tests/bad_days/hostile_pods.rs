//! Requests for pods that no well-meaning client sends.

use std::collections::BTreeMap;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::PodSpec;
use coracle_testkit::measure::rss;
use coracle_tests::Bed;

use crate::requests::{Verdicts, long, many};

/// Names and texts of a pod, each with what must not come through: the field, and what is given for it.
fn pods_with(text: &str) -> Vec<(&'static str, PodSpec)> {
    let of = |text: &str| text.to_owned();
    let pod = |change: &dyn Fn(&mut cri::PodSandboxConfig)| PodSpec::new("x").with(change);
    let named = |change: &dyn Fn(&mut cri::PodSandboxMetadata)| {
        pod(&|config| change(config.metadata.get_or_insert_default()))
    };
    let linux = |change: &dyn Fn(&mut cri::LinuxPodSandboxConfig)| PodSpec::new("x").linux(change);
    let guarded = |change: &dyn Fn(&mut cri::LinuxSandboxSecurityContext)| {
        linux(&|linux| change(linux.security_context.get_or_insert_default()))
    };
    let profile = || {
        Some(cri::SecurityProfile {
            profile_type: cri::security_profile::ProfileType::Localhost.into(),
            localhost_ref: of(text),
        })
    };
    let mut handler = PodSpec::new("x");
    handler.handler = of(text);
    vec![
        ("metadata.name", named(&|metadata| metadata.name = of(text))),
        ("metadata.uid", named(&|metadata| metadata.uid = of(text))),
        (
            "metadata.namespace",
            named(&|metadata| metadata.namespace = of(text)),
        ),
        ("hostname", pod(&|config| config.hostname = of(text))),
        (
            "log_directory",
            pod(&|config| config.log_directory = format!("/{text}")),
        ),
        (
            "labels",
            pod(&|config| drop(config.labels.insert(of(text), of("x")))),
        ),
        (
            "annotations",
            pod(&|config| drop(config.annotations.insert(of(text), of("x")))),
        ),
        ("runtime_handler", handler),
        (
            "cgroup_parent",
            linux(&|linux| linux.cgroup_parent = format!("/{text}")),
        ),
        (
            "sysctls",
            linux(&|linux| drop(linux.sysctls.insert(of(text), of("1")))),
        ),
        (
            "sysctls",
            linux(&|linux| drop(linux.sysctls.insert(of("net.ipv4.ip_forward"), of(text)))),
        ),
        (
            "dns_config.servers",
            pod(&|config| config.dns_config.get_or_insert_default().servers = vec![of(text)]),
        ),
        (
            "dns_config.searches",
            pod(&|config| config.dns_config.get_or_insert_default().searches = vec![of(text)]),
        ),
        (
            "dns_config.options",
            pod(&|config| config.dns_config.get_or_insert_default().options = vec![of(text)]),
        ),
        ("seccomp", guarded(&|security| security.seccomp = profile())),
        ("apparmor", guarded(&|security| security.apparmor = profile())),
        (
            "selinux_options",
            guarded(&|security| security.selinux_options.get_or_insert_default().level = of(text)),
        ),
        (
            "host_ip",
            pod(&|config| {
                config.port_mappings = vec![cri::PortMapping {
                    host_ip: of(text),
                    ..Default::default()
                }];
            }),
        ),
    ]
}

/// Numbers and counts of a pod that mean nothing.
fn pods_out_of_bounds() -> Vec<(&'static str, PodSpec)> {
    let pod = |change: &dyn Fn(&mut cri::PodSandboxConfig)| PodSpec::new("x").with(change);
    let port = |port: cri::PortMapping| pod(&|config| config.port_mappings = vec![port.clone()]);
    vec![
        (
            "metadata",
            pod(&|config| config.metadata = Some(cri::PodSandboxMetadata::default())),
        ),
        ("labels", pod(&|config| config.labels = many(200_000))),
        (
            "annotations",
            pod(&|config| config.annotations = BTreeMap::from([("a".into(), "x".repeat(2 << 20))])),
        ),
        (
            "container_port",
            port(cri::PortMapping {
                container_port: i32::MIN,
                ..Default::default()
            }),
        ),
        (
            "host_port",
            port(cri::PortMapping {
                host_port: i32::MAX,
                ..Default::default()
            }),
        ),
        (
            "protocol",
            port(cri::PortMapping {
                protocol: 99,
                ..Default::default()
            }),
        ),
        (
            "port_mappings",
            pod(&|config| config.port_mappings = vec![cri::PortMapping::default(); 100_000]),
        ),
        (
            "dns_config",
            pod(&|config| config.dns_config.get_or_insert_default().searches = vec!["a.b".into(); 100_000]),
        ),
    ]
}

/// Of those, what guards a pod.
fn pods_guarded_out_of_bounds() -> Vec<(&'static str, PodSpec)> {
    let guarded = |change: &dyn Fn(&mut cri::LinuxSandboxSecurityContext)| {
        PodSpec::new("x").linux(|linux| change(linux.security_context.get_or_insert_default()))
    };
    let id = |value| Some(cri::Int64Value { value });
    vec![
        (
            "namespace_options",
            guarded(&|security| {
                security.namespace_options.get_or_insert_default().pid = 99;
            }),
        ),
        (
            "run_as_user",
            guarded(&|security| security.run_as_user = id(i64::MIN)),
        ),
        (
            "run_as_group",
            guarded(&|security| {
                security.run_as_user = id(1);
                security.run_as_group = id(i64::MAX);
            }),
        ),
        (
            "supplemental_groups",
            guarded(&|security| security.supplemental_groups = vec![i64::MIN]),
        ),
        (
            "supplemental_groups",
            guarded(&|security| security.supplemental_groups = vec![7; 200_000]),
        ),
        (
            "userns_options",
            PodSpec::new("x").namespaces(|options| {
                options.userns_options = Some(cri::UserNamespace {
                    mode: cri::NamespaceMode::Pod.into(),
                    uids: vec![cri::IdMapping {
                        host_id: u32::MAX,
                        container_id: u32::MAX,
                        length: u32::MAX,
                    }],
                    gids: Vec::new(),
                });
            }),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_pods() -> Result<()> {
    let bed = Bed::make().await?;
    let before = rss(&bed.daemon.proc()?)?;
    let mut verdicts = Verdicts::default();
    for text in ["a\nb", "a\0b", "\x1b[2J", "a\u{202e}b\u{9b}", long().as_str()] {
        for (field, spec) in pods_with(text) {
            verdicts.refused(field, bed.runtime.run_pod(spec).await.map(drop));
        }
    }
    for (field, spec) in pods_out_of_bounds()
        .into_iter()
        .chain(pods_guarded_out_of_bounds())
    {
        verdicts.refused(field, bed.runtime.run_pod(spec).await.map(drop));
    }
    drop(verdicts);
    // Much, and still what a cluster might hold.
    let spec = PodSpec::new("many").with(|config| {
        config.labels = many(10_000);
        config.annotations = BTreeMap::from([("note".into(), "two\nlines\t\x1b[2J".into())]);
    });
    let pod = bed.runtime.run_pod(spec).await?;
    assert_eq!(bed.runtime.list_pods().await?[0].labels.len(), 10_000);
    pod.remove().await?;
    let after = rss(&bed.daemon.proc()?)?;
    assert!(
        after < before + (96 << 20),
        "the daemon grew from {before} to {after} bytes"
    );
    bed.leave().await
}
