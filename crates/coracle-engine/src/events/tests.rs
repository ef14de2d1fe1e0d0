//! Which events a change makes.

use std::sync::Arc;

use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kinded};

use super::*;
use crate::record::tests;

fn container() -> ContainerRecord {
    tests::container(&coracle_types::PodSandboxId::generate())
}

fn view(phase: PodPhase, containers: &[&ContainerRecord]) -> View {
    let mut record = tests::pod("now");
    record.phase = phase;
    View {
        pod: Arc::new(record),
        containers: containers
            .iter()
            .map(|record| Arc::new(ContainerRecord::clone(record)))
            .collect(),
    }
}

fn in_phase(record: &ContainerRecord, phase: ContainerPhase) -> ContainerRecord {
    let mut record = record.clone();
    record.phase = phase;
    record
}

fn kinds(changes: &[Change], id: Option<&ContainerId>) -> Vec<EventKind> {
    changes
        .iter()
        .filter(|(about, _)| about.as_ref() == id)
        .map(|(_, kind)| *kind)
        .collect()
}

#[test]
fn a_life_is_told_once_in_its_order() {
    let record = in_phase(&container(), ContainerPhase::Created);
    let id = Some(&record.id);
    let mut told = Told::of(&view(PodPhase::Starting, &[]));
    assert!(told.changes(&view(PodPhase::Starting, &[])).is_empty());
    let up = told.changes(&view(PodPhase::Ready, &[]));
    assert_eq!(kinds(&up, None), [EventKind::Created, EventKind::Started]);
    assert!(told.changes(&view(PodPhase::Ready, &[])).is_empty());

    let made = told.changes(&view(PodPhase::Ready, &[&record]));
    assert_eq!(kinds(&made, id), [EventKind::Created]);
    let starting = in_phase(&record, ContainerPhase::Starting);
    assert!(told.changes(&view(PodPhase::Ready, &[&starting])).is_empty());
    let running = in_phase(&record, ContainerPhase::Running);
    let started = told.changes(&view(PodPhase::Ready, &[&running]));
    assert_eq!(kinds(&started, id), [EventKind::Started]);
    let stopping = in_phase(&record, ContainerPhase::Stopping);
    assert!(told.changes(&view(PodPhase::Ready, &[&stopping])).is_empty());
    let exited = in_phase(&record, ContainerPhase::Exited);
    let ended = told.changes(&view(PodPhase::Stopping, &[&exited]));
    assert_eq!(kinds(&ended, id), [EventKind::Stopped]);
    let stopped = told.changes(&view(PodPhase::Stopped, &[&exited]));
    assert_eq!(kinds(&stopped, None), [EventKind::Stopped]);

    let gone = told.end();
    assert_eq!(kinds(&gone, id), [EventKind::Deleted]);
    assert_eq!(kinds(&gone, None), [EventKind::Deleted]);
    assert_eq!(gone.last().unwrap().0, None, "the pod goes last");
}

#[test]
fn what_ends_unseen_is_told_whole() {
    let record = in_phase(&container(), ContainerPhase::Running);
    let id = Some(&record.id);
    let mut told = Told::of(&view(PodPhase::Ready, &[&record]));
    assert!(told.changes(&view(PodPhase::Ready, &[&record])).is_empty());
    // Removed while it runs: its end is told before it is gone.
    let removing = in_phase(&record, ContainerPhase::Removing);
    assert!(told.changes(&view(PodPhase::Ready, &[&removing])).is_empty());
    let gone = told.changes(&view(PodPhase::Ready, &[]));
    assert_eq!(kinds(&gone, id), [EventKind::Stopped, EventKind::Deleted]);
    // The same with the exit noted meanwhile.
    let mut told = Told::of(&view(PodPhase::Ready, &[&record]));
    let mut ended = removing.clone();
    ended.finished_at = UnixNanos(5);
    let noted = told.changes(&view(PodPhase::Ready, &[&ended]));
    assert_eq!(kinds(&noted, id), [EventKind::Stopped]);
    let gone = told.changes(&view(PodPhase::Ready, &[]));
    assert_eq!(kinds(&gone, id), [EventKind::Deleted]);
}

#[test]
fn a_start_that_failed_is_an_end_and_no_start() {
    let created = in_phase(&container(), ContainerPhase::Created);
    let id = Some(&created.id);
    let mut told = Told::of(&view(PodPhase::Ready, &[&created]));
    let mut failed = in_phase(&created, ContainerPhase::Exited);
    "StartError".clone_into(&mut failed.reason);
    let changes = told.changes(&view(PodPhase::Ready, &[&failed]));
    assert_eq!(kinds(&changes, id), [EventKind::Stopped]);
    // One that ran and ended between two looks did start.
    let mut told = Told::of(&view(PodPhase::Ready, &[&created]));
    let quick = in_phase(&created, ContainerPhase::Exited);
    let changes = told.changes(&view(PodPhase::Ready, &[&quick]));
    assert_eq!(kinds(&changes, id), [EventKind::Started, EventKind::Stopped]);
}

#[test]
fn a_pod_that_never_came_up_is_no_event() {
    let mut told = Told::of(&view(PodPhase::Starting, &[]));
    assert!(told.changes(&view(PodPhase::Stopped, &[])).is_empty());
    assert!(told.end().is_empty());
}

#[tokio::test]
async fn a_slow_reader_is_let_go_and_others_hear_all() {
    let events = Events::default();
    let mut told = Told::of(&view(PodPhase::Starting, &[]));
    let up = view(PodPhase::Ready, &[]);
    told.tell(&events, &up);
    let (mut slow, mut quick) = (events.follow(), events.follow());
    let record = container();
    for _ in 0..RING {
        for phase in [ContainerPhase::Running, ContainerPhase::Exited] {
            let mut told = Told::of(&up);
            told.tell(&events, &view(PodPhase::Ready, &[&in_phase(&record, phase)]));
            while let Ok(Ok(Some(_))) = tokio::time::timeout(std::time::Duration::ZERO, quick.next()).await {}
        }
    }
    let error = slow.next().await.unwrap_err();
    assert_eq!(error.kind(), Kind::ResourceExhausted);
    assert_eq!(slow.next().await.unwrap(), None, "nothing after the error");
    told.end();
    events.end();
    assert_eq!(quick.next().await.unwrap(), None);
    assert_eq!(events.follow().next().await.unwrap(), None);
}
