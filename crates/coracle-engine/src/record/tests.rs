//! Records as tests need them.

use std::collections::HashSet;

use super::*;

/// A container that nothing was done with.
pub(crate) fn container(pod: &PodSandboxId) -> ContainerRecord {
    let id = ContainerId::generate();
    ContainerRecord {
        format: Format,
        cgroup: format!("/test/{id}"),
        id,
        pod: pod.clone(),
        config: ContainerConfig::default(),
        image_id: format!("sha256:{}", "0".repeat(64)).parse().expect("a digest"),
        layers: Vec::new(),
        volumes: Default::default(),
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
        left_alone: false,
    }
}

/// A ready pod of a boot.
pub(crate) fn pod(boot: &str) -> PodRecord {
    PodRecord {
        format: Format,
        id: PodSandboxId::generate(),
        config: PodSandboxConfig::default(),
        handler: RuntimeHandlerName::default(),
        created_at: UnixNanos(1),
        phase: PodPhase::Ready,
        ips: Vec::new(),
        netns: None,
        boot: boot.to_owned(),
        steps: Vec::new(),
        quarantine: None,
        left_alone: false,
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

    // As of a pod whose shim lives though its record is lost.
    fs::write(records.pod_dir(&living.id).join("shim.sock"), "").expect("written");
    let mut found = records.all().expect("readable");
    assert_eq!(found.take_removed("now"), (vec![removed.id], vec![gone.id]));
    let pods: HashSet<_> = found.pods.into_iter().map(|pod| pod.id).collect();
    assert_eq!(pods, HashSet::from([living.id, rebooted.id]));
    let containers: HashSet<_> = found.containers.into_iter().map(|record| record.id).collect();
    assert_eq!(containers, HashSet::from([kept.id, old.id]));
}

#[test]
fn a_damaged_file_is_read_from_the_database_and_named_where_that_cannot_help() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(&dir.path().join("db.redb")).expect("a database");
    let records = Records::new(dir.path(), &store);
    let (mended, lost, cut) = (pod("now"), pod("now"), pod("now"));
    records.put_pod(&mended).expect("remembered");
    store
        .table::<u32>("other")
        .put("x", &1)
        .expect("queued")
        .wait()
        .expect("durable");
    for id in [&mended.id, &lost.id, &cut.id] {
        make_private_dir(&records.pod_dir(id)).expect("made");
    }
    fs::write(records.pod_dir(&mended.id).join("record.json"), "{").expect("damaged");
    // Without a record, but with a shim; and one whose making was cut before there was anything.
    fs::write(records.pod_dir(&lost.id).join("shim.sock"), "").expect("written");
    let found = records.all().expect("readable");
    assert_eq!(found.pods, vec![mended.clone()]);
    assert_eq!(found.mended[0].id, mended.id.as_str());
    let damaged: Vec<_> = found.damaged_pods.iter().map(|pod| pod.id.as_str()).collect();
    assert_eq!(damaged, [lost.id.as_str()]);
}
