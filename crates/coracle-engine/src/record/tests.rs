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

/// A ready pod of a boot.
fn pod(boot: &str) -> PodRecord {
    PodRecord {
        id: PodSandboxId::generate(),
        config: PodSandboxConfig::default(),
        handler: RuntimeHandlerName::default(),
        created_at: UnixNanos(1),
        phase: PodPhase::Ready,
        ips: Vec::new(),
        netns: None,
        boot: boot.to_owned(),
        steps: Vec::new(),
    }
}

#[test]
fn what_was_removed_does_not_come_back_from_the_database() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("db.redb")).expect("a database");
    let records = Records::new(dir.path(), &store);
    let (living, removed, rebooted) = (pod("now"), pod("now"), pod("before"));
    let (kept, gone, old) = (
        container(&living.id),
        container(&living.id),
        container(&rebooted.id),
    );
    for record in [&living, &removed, &rebooted] {
        records.put_pod(record).expect("remembered");
    }
    for record in [&kept, &gone, &old] {
        records.put_container(record).expect("remembered");
    }
    // As after a kill between the removal of the file and the commit, or after a boot.
    for lost in [records.pod_dir(&removed.id), records.pod_dir(&rebooted.id)] {
        remove(&lost).expect("removed");
    }
    for lost in [records.bundle(&gone.id), records.bundle(&old.id)] {
        remove(&lost).expect("removed");
    }
    store
        .table::<u32>("other")
        .put("x", &1)
        .expect("queued")
        .wait()
        .expect("durable");

    let mut found = records.all().expect("readable");
    assert_eq!(found.take_removed("now"), (vec![removed.id], vec![gone.id]));
    let pods: HashSet<_> = found.pods.into_iter().map(|pod| pod.id).collect();
    assert_eq!(pods, HashSet::from([living.id, rebooted.id]));
    let containers: HashSet<_> = found.containers.into_iter().map(|record| record.id).collect();
    assert_eq!(containers, HashSet::from([kept.id, old.id]));
}
