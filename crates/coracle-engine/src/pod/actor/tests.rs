//! What an actor knows of a container without a shim to ask.

use coracle_types::PodSandboxId;

use super::*;

fn in_phase(phase: ContainerPhase, started_at: UnixNanos) -> Container {
    let mut record = crate::record::tests::container(&PodSandboxId::generate());
    (record.phase, record.started_at) = (phase, started_at);
    let mut container = Container::new(Arc::new(record));
    container.record_mut().phase = ContainerPhase::Removing;
    container
}

#[test]
fn a_failed_removal_leaves_a_container_as_it_was() {
    let never = UnixNanos::default();
    let then = UnixNanos(2);
    let phase = |container: &Container| container.phase_without_removal();
    assert_eq!(
        phase(&in_phase(ContainerPhase::Created, never)),
        ContainerPhase::Created
    );
    let mut running = in_phase(ContainerPhase::Running, then);
    assert_eq!(phase(&running), ContainerPhase::Running);
    running.patience = Some(watch::Sender::new(Instant::now()));
    assert_eq!(phase(&running), ContainerPhase::Stopping);
    running.ended.send_replace(true);
    assert_eq!(phase(&running), ContainerPhase::Exited);
    assert_eq!(
        phase(&in_phase(ContainerPhase::Exited, then)),
        ContainerPhase::Exited
    );
}
