//! Every advertised family has values, with as many labels as its descriptor.

use std::collections::BTreeMap;

use coracle_engine::api::{ContainerSummary, FsUsage, PodSummary};
use coracle_engine::stats::{
    Breakdown, Capacity, CgroupUsage, ContainerStats, Detail, HugePages, InterfaceCounters, Pressures,
    Processes, Stats, Traffic,
};
use coracle_types::container::{ContainerMetadata, ContainerState};
use coracle_types::image::ImageSpec;
use coracle_types::pod::{PodSandboxMetadata, PodSandboxState};
use coracle_types::resources::LinuxResources;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, PodSandboxId, RuntimeHandlerName};

use super::*;

fn container_stats(pod: &PodSandboxId) -> ContainerStats {
    let pressure = Some(Pressure::default());
    ContainerStats {
        container: ContainerSummary {
            id: ContainerId::generate(),
            pod: pod.clone(),
            metadata: ContainerMetadata {
                name: "web".into(),
                attempt: 0,
            },
            image: ImageSpec {
                image: "registry.test/web:1".into(),
                ..ImageSpec::default()
            },
            image_id: Digest::from_sha256(&[1; 32]),
            state: ContainerState::Running,
            created_at: UnixNanos(1),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
        },
        usage: Some(CgroupUsage {
            at: UnixNanos(9),
            stats: Stats {
                cpu_nanos: 2_500_000_000,
                ..Stats::default()
            },
            nano_cores: None,
            pressures: Pressures {
                cpu: pressure,
                memory: pressure,
                io: pressure,
            },
        }),
        writable: Some(FsUsage {
            mountpoint: "/w".into(),
            used_bytes: 4096,
            inodes_used: 1,
            timestamp: UnixNanos(8),
        }),
    }
}

fn sample() -> PodMetrics {
    let id = PodSandboxId::generate();
    let container = ContainerMetrics {
        stats: container_stats(&id),
        detail: Detail {
            breakdown: Breakdown::default(),
            io: Vec::new(),
            huge_pages: vec![HugePages {
                size: "2MB".into(),
                usage: 3,
                max_usage: 0,
            }],
            processes: Processes {
                count: 1,
                descriptors: Some((3, 1)),
                open_files_limit: Some(1024),
            },
        },
        resources: LinuxResources {
            cpu_quota: -1,
            ..LinuxResources::default()
        },
        started_at: UnixNanos(5_000_000_000),
    };
    PodMetrics {
        pod: PodSummary {
            id,
            metadata: PodSandboxMetadata {
                name: "pod".into(),
                uid: "u".into(),
                namespace: "ns".into(),
                attempt: 0,
            },
            state: PodSandboxState::Ready,
            created_at: UnixNanos(1),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            handler: RuntimeHandlerName::default(),
        },
        at: UnixNanos(9),
        network: Some(vec![InterfaceCounters {
            name: "eth0".into(),
            received: Traffic::default(),
            sent: Traffic::default(),
        }]),
        containers: vec![container],
        capacity: Some(Capacity::default()),
    }
}

#[test]
fn each_descriptor_has_values_with_exactly_its_labels() {
    let all = descriptors(Measures {
        pressure: true,
        huge_pages: true,
    });
    let metrics = pod(&sample());
    let mut values: BTreeMap<&str, Vec<&cri::Metric>> = BTreeMap::new();
    let of_containers = metrics.container_metrics.iter().flat_map(|one| &one.metrics);
    for metric in metrics.metrics.iter().chain(of_containers) {
        values.entry(&metric.name).or_default().push(metric);
    }
    for descriptor in &all {
        assert!(!descriptor.help.is_empty());
        let found = values.remove(&*descriptor.name);
        let found = found.unwrap_or_else(|| panic!("{} has no value", descriptor.name));
        for metric in found {
            assert_eq!(
                metric.label_values.len(),
                descriptor.label_keys.len(),
                "{}",
                descriptor.name
            );
        }
    }
    assert!(values.is_empty(), "not advertised, or twice: {:?}", values.keys());
}

#[test]
fn labels_say_whose_a_value_is() {
    let metrics = pod(&sample());
    let network = &metrics.metrics[0].label_values;
    assert_eq!(
        network,
        &["pod", "ns", "", &metrics.pod_sandbox_id, "", "eth0"].map(str::to_owned)
    );
    let of_container = &metrics.container_metrics[0];
    let find = |name: &str| of_container.metrics.iter().find(|metric| metric.name == name);
    let cpu = find("container_cpu_usage_seconds_total").unwrap();
    assert_eq!(cpu.value.unwrap().value, 2);
    assert_eq!(
        cpu.label_values[2..5],
        ["web", &*of_container.container_id, "registry.test/web:1"]
    );
    assert_eq!(find("container_spec_cpu_quota").unwrap().value.unwrap().value, 0);
}

#[test]
fn what_the_node_does_not_measure_is_not_advertised() {
    let all = descriptors(Measures {
        pressure: false,
        huge_pages: false,
    });
    let hidden = |one: &cri::MetricDescriptor| one.name.contains("pressure") || one.name.contains("hugetlb");
    assert!(!all.iter().any(hidden));
    assert_eq!(all.len(), families::ALL.len() - 8);
}
