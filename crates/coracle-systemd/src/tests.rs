//! Requests against a systemd of our own: what is sent, and what becomes of refusals, losses and silence.

mod bus;
mod fake;

use std::time::Duration;

use coracle_types::{Kind, Kinded as _};

use self::fake::{Fake, Mood};
use crate::{Error, Property, Scope, Systemd, UNLIMITED, UnitName};

fn scope() -> Scope {
    Scope {
        name: UnitName::scope("cri-containerd", "ab").unwrap(),
        slice: "kubepods-podX.slice".parse().unwrap(),
        description: "container ab".into(),
        pid: 42,
        properties: vec![
            Property::MemoryMax(1 << 20),
            Property::TasksMax(UNLIMITED),
            Property::AllowedCpus(vec![0, 3]),
        ],
    }
}

#[tokio::test]
async fn a_scope_is_made_around_the_process_with_its_limits() {
    let fake = Fake::start(Mood::Willing).await;
    let systemd = fake.systemd();
    systemd.start_scope(&scope()).await.unwrap();
    let unit = fake.unit("cri-containerd-ab.scope").unwrap();
    for (name, value) in [
        ("PIDs", "[42]"),
        ("Slice", "kubepods-podX.slice"),
        ("Delegate", "true"),
        ("DefaultDependencies", "false"),
        ("CollectMode", "inactive-or-failed"),
        ("MemoryMax", "1048576"),
        ("TasksMax", "18446744073709551615"),
        ("AllowedCPUs", "[9]"),
    ] {
        assert!(unit[name].contains(value), "{name}: {}", unit[name]);
    }
    let name = scope().name;
    assert!(systemd.is_active(&name).await.unwrap());
    systemd
        .set_properties(&name, &[Property::MemoryMax(2 << 20)])
        .await
        .unwrap();
    assert!(fake.unit(name.as_str()).unwrap()["MemoryMax"].contains("2097152"));
    systemd.attach(&name, 43).await.unwrap();
    assert!(fake.unit(name.as_str()).unwrap()["PIDs"].contains("43"));
    systemd.stop(&name).await.unwrap();
    assert!(fake.unit(name.as_str()).is_none());
    assert!(!systemd.is_active(&name).await.unwrap());
    systemd.stop(&name).await.unwrap();
    systemd.reset_failed(&name).await.unwrap();
}

#[tokio::test]
async fn a_unit_of_the_name_that_is_left_is_replaced() {
    let fake = Fake::start(Mood::Willing).await;
    let systemd = fake.systemd();
    systemd.start_scope(&scope()).await.unwrap();
    let again = Scope { pid: 77, ..scope() };
    systemd.start_scope(&again).await.unwrap();
    assert!(fake.unit("cri-containerd-ab.scope").unwrap()["PIDs"].contains("77"));
    assert_eq!(fake.calls("StopUnit"), 1);
}

#[tokio::test]
async fn a_connection_that_is_cut_is_made_anew() {
    let fake = Fake::start(Mood::Willing).await;
    let systemd = fake.systemd();
    systemd.start_scope(&scope()).await.unwrap();
    fake.cut();
    systemd.stop(&scope().name).await.unwrap();
    assert!(fake.unit("cri-containerd-ab.scope").is_none());
    assert_eq!(fake.connections(), 2);
}

#[tokio::test]
async fn a_scope_that_was_made_before_the_cut_is_not_made_twice() {
    let fake = Fake::start(Mood::CutsAfterStart).await;
    fake.systemd().start_scope(&scope()).await.unwrap();
    assert_eq!(fake.calls("StopUnit"), 0, "its process would have been killed");
    assert!(fake.unit("cri-containerd-ab.scope").unwrap()["PIDs"].contains("42"));
}

#[tokio::test]
async fn a_job_that_fails_and_one_that_hangs_are_told_apart() {
    let fake = Fake::start(Mood::FailsJobs).await;
    let error = fake.systemd().start_scope(&scope()).await.unwrap_err();
    assert!(
        matches!(&error, Error::Job { result, .. } if result == "failed"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("systemctl status cri-containerd-ab.scope"),
        "{error}"
    );

    let fake = Fake::start(Mood::ForgetsJobs).await;
    let systemd = fake.systemd().with_patience(Duration::from_millis(200));
    let error = systemd.start_scope(&scope()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::DeadlineExceeded);
    assert!(
        error
            .to_string()
            .contains("StartTransientUnit(cri-containerd-ab.scope)"),
        "{error}"
    );
}

#[tokio::test]
async fn where_no_systemd_is_the_socket_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let systemd = Systemd::at(crate::Way::Bus(directory.path().join("bus")));
    let error = systemd.start_scope(&scope()).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("/bus") && text.contains("init system"), "{text}");
}

#[tokio::test]
async fn a_scope_that_holds_others_is_joined_and_never_stopped() {
    let fake = Fake::start(Mood::Willing).await;
    let systemd = fake.systemd();
    systemd.hold(&scope()).await.unwrap();
    systemd.hold(&Scope { pid: 43, ..scope() }).await.unwrap();
    assert!(fake.unit("cri-containerd-ab.scope").unwrap()["PIDs"].contains("43"));
    assert_eq!(fake.calls("StopUnit"), 0);
}

#[tokio::test]
async fn many_jobs_at_once_each_hear_of_their_own() {
    let fake = Fake::start(Mood::Willing).await;
    let systemd = fake.systemd();
    let starts = (0..40).map(|number| {
        let systemd = &systemd;
        async move {
            let name = UnitName::scope("many", &number.to_string()).unwrap();
            systemd.start_scope(&Scope { name, ..scope() }).await
        }
    });
    for started in futures::future::join_all(starts).await {
        started.unwrap();
    }
    assert_eq!(fake.connections(), 1);
}
