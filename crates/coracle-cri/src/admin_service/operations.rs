//! ListOperations: what is under way.

use std::time::Duration;

use coracle_engine::operations::Operation;
use coracle_proto::admin;

use crate::facilities::Facilities;

pub(super) fn call<F: Facilities>(engine: &F) -> admin::ListOperationsResponse {
    admin::ListOperationsResponse {
        operations: engine.operations().into_iter().map(operation).collect(),
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn operation(own: Operation) -> admin::Operation {
    let steps = own.steps.iter().map(|step| admin::RunningStep {
        name: step.name.to_owned(),
        age_nanos: nanos(step.age),
        awaits: step.awaits.map_or("", |awaited| awaited.word()).to_owned(),
    });
    admin::Operation {
        id: own.id,
        kind: own.kind.to_owned(),
        pod_sandbox_id: own.pod.map(Into::into).unwrap_or_default(),
        container_id: own.container.map(Into::into).unwrap_or_default(),
        began_at: own.began.0,
        age_nanos: nanos(own.age),
        waiting: u32::try_from(own.waiting).unwrap_or(u32::MAX),
        steps: steps.collect(),
        name: own.name,
    }
}
