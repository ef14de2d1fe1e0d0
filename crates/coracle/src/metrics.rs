//! Measurements for Prometheus: how long calls, operations and steps take, and what is there now.
//!
//! Labels are the names of methods, codes, operations, steps and states, all of which stand in the
//! program's text; ids, names and images of pods are never among them, so the number of series is bounded.

mod endpoint;
mod gauges;

use std::sync::Arc;
use std::time::Duration;

use coracle_cri::process::Meter;
use coracle_engine::operations::Observer;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

pub(crate) use self::endpoint::Endpoint;

/// From a look at a map to the patience of whoever waits: seconds, 0.1 ms to a minute.
const BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    30.0, 60.0,
];

/// gRPC's codes by their numbers (grpc/grpc, doc/statuscodes.md).
const CODES: [&str; 17] = [
    "OK",
    "Cancelled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Makes a histogram of times.
#[derive(Debug, Clone, Copy)]
struct Times;

impl MetricConstructor<Histogram> for Times {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// All that is measured as it happens.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<Call, Histogram, Times>,
    steps: Family<Step, Histogram, Times>,
    operations: Family<Operation, Histogram, Times>,
    reloads: Family<Outcome, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let mut registry = Registry::with_prefix("coracle");
        let calls = Family::new_with_constructor(Times);
        let steps = Family::new_with_constructor(Times);
        let operations = Family::new_with_constructor(Times);
        let reloads = Family::default();
        registry.register_with_unit(
            "rpc_duration",
            "How long calls took, by method and gRPC code",
            Unit::Seconds,
            calls.clone(),
        );
        registry.register_with_unit(
            "step_duration",
            "How long the steps of operations took",
            Unit::Seconds,
            steps.clone(),
        );
        registry.register_with_unit(
            "operation_duration",
            "How long operations took since their first client asked",
            Unit::Seconds,
            operations.clone(),
        );
        registry.register(
            "config_reloads",
            "How often the configuration was read again, by what came of it",
            reloads.clone(),
        );
        Arc::new(Self {
            registry,
            calls,
            steps,
            operations,
            reloads,
        })
    }

    /// Notes that the configuration was read again.
    pub(crate) fn reloaded(&self, outcome: &'static str) {
        self.reloads.get_or_create(&Outcome { outcome }).inc();
    }
}

impl Meter for Metrics {
    fn answered(&self, call: &str, code: i32, took: Duration) {
        let code = usize::try_from(code).ok().and_then(|code| CODES.get(code));
        let labels = Call {
            method: call.to_owned(),
            code: code.copied().unwrap_or("Unknown"),
        };
        self.calls.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

impl Observer for Metrics {
    fn step(&self, name: &'static str, took: Duration) {
        self.steps
            .get_or_create(&Step { step: name })
            .observe(took.as_secs_f64());
    }

    fn operation(&self, kind: &'static str, took: Duration) {
        self.operations
            .get_or_create(&Operation { operation: kind })
            .observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_their_buckets_by_method_and_code() {
        let metrics = Metrics::new();
        metrics.answered("RunPodSandbox", 0, Duration::from_millis(20));
        metrics.answered("RunPodSandbox", 5, Duration::from_micros(150));
        metrics.step("run.network", Duration::from_millis(3));
        metrics.operation("run pod sandbox", Duration::from_millis(21));
        metrics.reloaded("refused");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &metrics.registry).unwrap();
        for line in [
            "coracle_rpc_duration_seconds_bucket{le=\"0.025\",method=\"RunPodSandbox\",code=\"OK\"} 1",
            "coracle_rpc_duration_seconds_bucket{le=\"0.01\",method=\"RunPodSandbox\",code=\"OK\"} 0",
            "coracle_rpc_duration_seconds_count{method=\"RunPodSandbox\",code=\"NotFound\"} 1",
            "coracle_step_duration_seconds_count{step=\"run.network\"} 1",
            "coracle_operation_duration_seconds_count{operation=\"run pod sandbox\"} 1",
            "coracle_config_reloads_total{outcome=\"refused\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in:\n{text}"
            );
        }
    }
}
