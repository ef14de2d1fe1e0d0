//! Requests and limits, and the numbers that the kubelet makes of them.

use crate::container::{Container, Resources};
use crate::fields::{At, Fields};
use crate::pod::Pod;
use crate::quantity::Quantity;

/// The period of CPU quotas in microseconds, the kubelet's default.
const CPU_PERIOD: i64 = 100_000;
/// The least that the kernel takes for a quota, microseconds.
const CPU_QUOTA_MIN: i64 = 1000;
/// The least and the most that the kernel takes for shares.
const SHARES: (i64, i64) = (2, 262_144);
/// `oom_score_adj` of guaranteed pods.
const GUARANTEED: i64 = -997;
/// `oom_score_adj` of pods that ask for nothing.
const BEST_EFFORT: i64 = 1000;

/// How safe a pod is when memory is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has limits of CPU and memory, and requests that equal them.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// What CRI is told of a container's resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Microseconds; 0 without a quota to go with it.
    pub cpu_period: i64,
    /// Microseconds in each period; 0 is no limit.
    pub cpu_quota: i64,
    /// Weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Bytes; 0 is no limit.
    pub memory: i64,
    /// -1000 to 1000.
    pub oom_score_adj: i64,
}

/// `resources` of a container.
pub(crate) fn resources(fields: &mut Fields<'_>) -> Resources {
    let Some(at) = fields.get("resources") else {
        return Resources::default();
    };
    let Some(mut inner) = at.fields() else {
        return Resources::default();
    };
    inner.refused(
        &["claims"],
        "there is no driver that allots devices: take the field away",
    );
    let limits = inner.get("limits");
    let requests = inner.get("requests");
    inner.finish();
    let mut resources = Resources::default();
    for (at, is_limit) in [(limits, true), (requests, false)] {
        for (name, at) in at.iter().flat_map(At::entries) {
            amount(&name, &at, is_limit, &mut resources);
        }
    }
    for (name, request, limit) in [
        ("cpu", &mut resources.cpu_request, resources.cpu_limit),
        ("memory", &mut resources.memory_request, resources.memory_limit),
        (
            "ephemeral-storage",
            &mut resources.storage_request,
            resources.storage_limit,
        ),
    ] {
        if let (Some(request), Some(limit)) = (*request, limit)
            && request > limit
        {
            at.refuse(format!(
                "more {name} is requested than the limit allows: lower the request or raise the limit"
            ));
        }
        *request = request.or(limit);
    }
    resources
}

fn amount(name: &str, at: &At<'_>, is_limit: bool, resources: &mut Resources) {
    let Some(value) = at.quantity() else { return };
    let (request, limit) = match name {
        "cpu" => (&mut resources.cpu_request, &mut resources.cpu_limit),
        "memory" => (&mut resources.memory_request, &mut resources.memory_limit),
        "ephemeral-storage" => {
            at.ignore("nobody measures what a container writes here");
            (&mut resources.storage_request, &mut resources.storage_limit)
        }
        _ => {
            match name.strip_prefix("hugepages-").map(str::parse::<Quantity>) {
                Some(Ok(size)) if is_limit => {
                    resources.hugepages.push((size.value().unsigned_abs(), value.value().unsigned_abs()));
                }
                Some(Ok(_)) => {}
                _ => at.refuse("nothing here hands out this resource: cpu, memory, ephemeral-storage and hugepages-SIZE are known"),
            }
            return;
        }
    };
    *(if is_limit { limit } else { request }) = Some(value);
}

impl Pod {
    /// The pod's class, as the kubelet finds it.
    #[must_use]
    pub fn qos_class(&self) -> QosClass {
        let some = |quantity: Option<Quantity>| quantity.filter(|quantity| !quantity.is_zero());
        let mut guaranteed = true;
        let mut anything = false;
        for Container { resources, .. } in self.all_containers() {
            for (request, limit) in [
                (some(resources.cpu_request), some(resources.cpu_limit)),
                (some(resources.memory_request), some(resources.memory_limit)),
            ] {
                anything |= request.is_some() || limit.is_some();
                guaranteed &= limit.is_some() && request == limit;
            }
        }
        match (anything, guaranteed) {
            (true, true) => QosClass::Guaranteed,
            (true, false) => QosClass::Burstable,
            (false, _) => QosClass::BestEffort,
        }
    }

    /// What the kubelet would tell CRI of a container's resources on a node with so many bytes of memory.
    #[must_use]
    pub fn limits(&self, container: &Container, node_memory: u64) -> Limits {
        let resources = &container.resources;
        let milli = |quantity: Option<Quantity>| quantity.map_or(0, Quantity::milli_value);
        let quota = cpu_quota(milli(resources.cpu_limit));
        Limits {
            cpu_period: CPU_PERIOD,
            cpu_quota: quota,
            cpu_shares: cpu_shares(milli(resources.cpu_request)),
            memory: resources.memory_limit.map_or(0, Quantity::value),
            oom_score_adj: self.oom_score_adj(container, node_memory),
        }
    }

    /// Who is killed first when the node's memory is short: the less a container asked for of it.
    fn oom_score_adj(&self, container: &Container, node_memory: u64) -> i64 {
        match self.qos_class() {
            QosClass::Guaranteed => return GUARANTEED,
            QosClass::BestEffort => return BEST_EFFORT,
            QosClass::Burstable => {}
        }
        let memory = i64::try_from(node_memory.max(1)).unwrap_or(i64::MAX);
        let request = |container: &Container| container.resources.memory_request.map_or(0, Quantity::value);
        let score = |request: i64| {
            let share = 1000 * i128::from(request) / i128::from(memory);
            1000 - i64::try_from(share).unwrap_or(i64::MAX).min(2000)
        };
        let mut adjusted = score(request(container));
        if self.is_sidecar(container) {
            // A sidecar must not be killed before the containers that it serves.
            let least = self.containers.iter().map(request).min().unwrap_or(0);
            adjusted = adjusted.min(score(least));
        }
        adjusted.clamp(1000 + GUARANTEED, BEST_EFFORT - 1)
    }
}

/// The weight of so many thousandths of a CPU.
fn cpu_shares(milli: i64) -> i64 {
    milli
        .saturating_mul(1024)
        .div_euclid(1000)
        .clamp(SHARES.0, SHARES.1)
}

/// The quota of so many thousandths of a CPU.
fn cpu_quota(milli: i64) -> i64 {
    match milli {
        0 => 0,
        _ => milli.saturating_mul(CPU_PERIOD / 1000).max(CPU_QUOTA_MIN),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_and_quotas_are_the_kubelets() {
        for (milli, shares, quota) in [
            (0, 2, 0),
            (1, 2, 1000),
            (10, 10, 1000),
            (100, 102, 10_000),
            (250, 256, 25_000),
            (1000, 1024, 100_000),
            (2500, 2560, 250_000),
            (256_000, 262_144, 25_600_000),
            (1_000_000, 262_144, 100_000_000),
        ] {
            assert_eq!((cpu_shares(milli), cpu_quota(milli)), (shares, quota), "{milli}m");
        }
    }

    fn pod(text: &str) -> Pod {
        crate::tests::pod(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n{text}"
        ))
    }

    fn class_and_scores(text: &str) -> (QosClass, Vec<i64>) {
        let pod = pod(text);
        let scores = pod
            .all_containers()
            .map(|container| pod.limits(container, 4 << 30).oom_score_adj);
        (pod.qos_class(), scores.collect())
    }

    #[test]
    fn classes_and_scores_are_the_kubelets() {
        assert_eq!(
            class_and_scores("  containers: [{name: a, image: i}]\n"),
            (QosClass::BestEffort, vec![1000])
        );
        let both = "{limits: {cpu: 1, memory: 1Gi}}";
        assert_eq!(
            class_and_scores(&format!(
                "  containers: [{{name: a, image: i, resources: {both}}}]\n"
            )),
            (QosClass::Guaranteed, vec![-997])
        );
        assert_eq!(
            class_and_scores(&format!(
                "  containers: [{{name: a, image: i, resources: {both}}}, {{name: b, image: i}}]\n"
            )),
            (QosClass::Burstable, vec![750, 999])
        );
        assert_eq!(
            class_and_scores("  containers: [{name: a, image: i, resources: {requests: {memory: 4Gi}}}]\n"),
            (QosClass::Burstable, vec![3])
        );
    }

    #[test]
    fn a_sidecar_outlives_what_it_serves() {
        let text = "  initContainers: [{name: s, image: i, restartPolicy: Always}]\n  containers: [{name: a, image: i, resources: {requests: {memory: 1Gi}}}]\n";
        assert_eq!(class_and_scores(text), (QosClass::Burstable, vec![750, 750]));
    }

    proptest! {
        #[test]
        fn a_larger_request_is_never_killed_sooner(a in 1u64..8 << 30, b in 1u64..8 << 30) {
            let text = format!("  containers: [{{name: a, image: i, resources: {{requests: {{memory: {a}}}}}}}, {{name: b, image: i, resources: {{requests: {{memory: {b}}}}}}}]\n");
            let (class, scores) = class_and_scores(&text);
            prop_assert_eq!(class, QosClass::Burstable);
            prop_assert!(scores.iter().all(|score| (3..=999).contains(score)));
            prop_assert!((a < b) <= (scores[0] >= scores[1]));
        }

        #[test]
        fn shares_and_quotas_stay_within_the_kernels_bounds(milli in 0..i64::MAX) {
            prop_assert!((2..=262_144).contains(&cpu_shares(milli)));
            let quota = cpu_quota(milli);
            prop_assert!(quota == 0 || quota >= 1000);
        }
    }
}
