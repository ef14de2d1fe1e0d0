//! Records as tests need them.

use super::*;

/// A container that nothing was done with.
pub(crate) fn container(pod: &PodSandboxId) -> ContainerRecord {
    let id = ContainerId::generate();
    ContainerRecord {
        cgroup: format!("/test/{id}"),
        id,
        pod: pod.clone(),
        config: ContainerConfig::default(),
        image_id: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
        layers: Vec::new(),
        user: ProcessUser::default(),
        stop_signal: Signal::KILL,
        log_path: None,
        resources: LinuxResources::default(),
        phase: ContainerPhase::Created,
        pid: None,
        created_at: UnixNanos(1),
        started_at: UnixNanos::default(),
        finished_at: UnixNanos::default(),
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
    }
}
