//! Pods and containers of which no record can be read: named, removable, in nobody's way.

use std::collections::BTreeMap;

use coracle_store::Ledger;
use coracle_types::container::{ContainerConfig, ContainerMetadata};
use coracle_types::format::Format;
use coracle_types::pod::{PodSandboxConfig, PodSandboxMetadata};
use coracle_types::resources::LinuxResources;
use coracle_types::signal::Signal;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Digest, PodSandboxId, RuntimeHandlerName};

use crate::api::ProcessUser;
use crate::objects::Object;
use crate::parts::Parts;
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::{ContainerRecord, Damaged, PodRecord};

/// The Kubernetes namespace that such pods are listed in; no client makes pods there.
const NAMESPACE: &str = "coracle-quarantine";

/// A pod of which nothing but its id and what it owns is known. It is listed as not ready, under a name that
/// no client gives, and its stop and removal take everything away that its ledger or its shim knows of.
pub(super) fn pod(parts: &Parts, damaged: &Damaged) -> Option<PodRecord> {
    let id: PodSandboxId = damaged.id.parse().ok()?;
    if damaged.on_file && !damaged.newer {
        parts.records.put_aside(&id);
    }
    Some(PodRecord {
        format: Format,
        config: PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: format!("damaged-{}", id.short()),
                uid: id.to_string(),
                namespace: NAMESPACE.to_owned(),
                attempt: 0,
            },
            ..PodSandboxConfig::default()
        },
        handler: RuntimeHandlerName::default(),
        created_at: UnixNanos::now(),
        phase: PodPhase::Stopped,
        ips: Vec::new(),
        netns: Some(parts.networks.netns_path(&id)),
        // Without a directory it is of an earlier boot: nothing of it lives.
        boot: if damaged.on_file {
            parts.boot.clone()
        } else {
            String::new()
        },
        steps: Vec::new(),
        quarantine: Some(damaged.reason.clone()),
        left_alone: damaged.newer,
        id,
    })
}

/// Which pod owns a container, by the ledgers of all pods.
pub(super) fn owners<'a>(
    parts: &Parts,
    pods: impl Iterator<Item = &'a PodSandboxId>,
) -> BTreeMap<ContainerId, (PodSandboxId, String)> {
    let mut owners = BTreeMap::new();
    for pod in pods {
        let Ok(ledger) = Ledger::<Object>::open(&parts.records.pod_dir(pod).join("ledger")) else {
            continue;
        };
        for object in ledger.entries() {
            if let Object::Task { container, cgroup } = object {
                owners.insert(container.clone(), (pod.clone(), cgroup.clone()));
            }
        }
    }
    owners
}

/// A container of which only its pod and its cgroup are known. One whose record is damaged counts as ended,
/// and what still runs of it is ended, since nobody could say what it is. One of a newer program runs on
/// until its pod is removed, or that program comes back.
pub(super) fn container(pod: &PodSandboxId, cgroup: &str, damaged: &Damaged) -> Option<ContainerRecord> {
    let (id, reason): (ContainerId, _) = (damaged.id.parse().ok()?, &damaged.reason);
    let now = UnixNanos::now();
    let ended = ContainerRecord {
        format: Format,
        config: ContainerConfig {
            metadata: ContainerMetadata {
                name: format!("damaged-{}", id.short()),
                attempt: 0,
            },
            ..ContainerConfig::default()
        },
        pod: pod.clone(),
        image_id: Digest::from_sha256(&[0; 32]),
        layers: Vec::new(),
        volumes: Default::default(),
        cgroup: cgroup.to_owned(),
        user: ProcessUser::default(),
        stop_signal: Signal::KILL,
        log_path: None,
        resources: LinuxResources::default(),
        phase: ContainerPhase::Exited,
        pid: None,
        created_at: now,
        started_at: now,
        finished_at: now,
        exit_code: 255,
        reason: "Unknown".to_owned(),
        message: format!("its record was damaged ({reason}), so it was ended"),
        left_alone: false,
        id,
    };
    Some(if damaged.newer {
        ContainerRecord {
            phase: ContainerPhase::Running,
            finished_at: UnixNanos::default(),
            exit_code: 0,
            reason: String::new(),
            message: reason.clone(),
            left_alone: true,
            ..ended
        }
    } else {
        ended
    })
}
