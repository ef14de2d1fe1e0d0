//! Measurements: CRI's stats, and rates from two of them.

use std::collections::HashMap;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ContainerStats, CpuUsage, IoUsage, ListContainerStatsRequest, ListPodSandboxStatsRequest, MemoryUsage,
    PodSandboxStats, PsiStats, UInt64Value,
};
use coracle_types::{Kind, Kinded};

use crate::commands::find::{self, Objects};

/// What a pod or a container uses. What the runtime does not say is `None`.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    /// Of the pod or container.
    pub(super) id: String,
    /// Its name.
    pub(super) name: String,
    /// Name of its pod; empty for a pod.
    pub(super) pod: String,
    /// Of its pod.
    pub(super) namespace: String,
    /// When it was made, in nanoseconds since 1970.
    pub(super) created_at: i64,
    /// Billionths of a core in use.
    pub(super) nano_cores: Option<u64>,
    /// Bytes of the working set.
    pub(super) memory: Option<u64>,
    /// Bytes it may have.
    pub(super) memory_limit: Option<u64>,
    /// Bytes of writable layers.
    pub(super) disk: Option<u64>,
    /// Bytes a second.
    pub(super) received: Option<u64>,
    /// Bytes a second.
    pub(super) sent: Option<u64>,
    /// Per cent of the last ten seconds in which some task waited: for cpu, memory, io.
    pub(super) pressure: [Option<f64>; 3],
    /// Processes, of a pod.
    pub(super) processes: Option<u64>,
    /// A pod's.
    pub(super) containers: Vec<Usage>,
}

/// A counter as it stood.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: i64,
    value: u64,
}

/// Takes measurements one after the other.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    before: HashMap<(String, &'static str), Reading>,
    now: HashMap<(String, &'static str), Reading>,
}

impl Sampler {
    /// Pods with their containers, as they are now.
    pub(super) async fn take(&mut self, client: &Client) -> anyhow::Result<Vec<Usage>> {
        let objects = Objects::load(client).await?;
        let request = ListPodSandboxStatsRequest { filter: None };
        let reply = client.runtime().list_pod_sandbox_stats(request).await;
        let pods = match reply.map_err(ClientError::of("ListPodSandboxStats")) {
            Ok(reply) => {
                let stats = reply.into_inner().stats;
                stats.into_iter().map(|pod| self.pod(pod, &objects)).collect()
            }
            Err(error) if error.kind() == Kind::Unimplemented => self.by_container(client, &objects).await?,
            Err(error) => return Err(error.into()),
        };
        self.before = std::mem::take(&mut self.now);
        Ok(pods)
    }

    /// For runtimes that measure containers only: a pod is their sum.
    async fn by_container(&mut self, client: &Client, objects: &Objects) -> anyhow::Result<Vec<Usage>> {
        let request = ListContainerStatsRequest { filter: None };
        let reply = client.runtime().list_container_stats(request).await;
        let reply = reply.map_err(ClientError::of("ListContainerStats"))?;
        let mut pods: Vec<Usage> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for stats in reply.into_inner().stats {
            let id = stats.attributes.as_ref().map_or("", |attributes| &attributes.id);
            let Some(pod) = objects.container_by_id(id).and_then(|one| objects.pod_of(one)) else {
                continue;
            };
            let place = *places.entry(pod.id.clone()).or_insert_with(|| {
                pods.push(named(pod));
                pods.len() - 1
            });
            let usage = self.container(
                stats,
                objects,
                &pods[place].name.clone(),
                &pods[place].namespace.clone(),
            );
            let sum = |whole: &mut Option<u64>, part: Option<u64>| {
                *whole = whole.map_or(part, |whole| Some(whole + part.unwrap_or(0)));
            };
            let pod = &mut pods[place];
            sum(&mut pod.nano_cores, usage.nano_cores);
            sum(&mut pod.memory, usage.memory);
            sum(&mut pod.disk, usage.disk);
            pod.containers.push(usage);
        }
        Ok(pods)
    }

    fn pod(&mut self, stats: PodSandboxStats, objects: &Objects) -> Usage {
        let attributes = stats.attributes.unwrap_or_default();
        let metadata = attributes.metadata.unwrap_or_default();
        let linux = stats.linux.unwrap_or_default();
        let network = linux.network.unwrap_or_default();
        let link = network.default_interface.unwrap_or_default();
        let id = attributes.id;
        let created = objects.pod_by_id(&id).map_or(0, |pod| pod.created_at);
        let containers: Vec<_> = linux
            .containers
            .into_iter()
            .map(|one| self.container(one, objects, &metadata.name, &metadata.namespace))
            .collect();
        let disk: Option<u64> = containers.iter().map(|one| one.disk).sum();
        Usage {
            nano_cores: self.cores(&id, linux.cpu.as_ref()),
            received: self.rate(&id, "received", network.timestamp, value(link.rx_bytes.as_ref())),
            sent: self.rate(&id, "sent", network.timestamp, value(link.tx_bytes.as_ref())),
            memory: memory(linux.memory.as_ref()).0,
            memory_limit: memory(linux.memory.as_ref()).1,
            disk,
            pressure: pressure(linux.cpu.as_ref(), linux.memory.as_ref(), linux.io.as_ref()),
            processes: linux
                .process
                .and_then(|process| value(process.process_count.as_ref())),
            name: metadata.name,
            namespace: metadata.namespace,
            created_at: created,
            containers,
            pod: String::new(),
            id,
        }
    }

    fn container(&mut self, stats: ContainerStats, objects: &Objects, pod: &str, namespace: &str) -> Usage {
        let attributes = stats.attributes.unwrap_or_default();
        let id = attributes.id;
        let known = objects.container_by_id(&id);
        Usage {
            nano_cores: self.cores(&id, stats.cpu.as_ref()),
            memory: memory(stats.memory.as_ref()).0,
            memory_limit: memory(stats.memory.as_ref()).1,
            disk: stats
                .writable_layer
                .and_then(|layer| value(layer.used_bytes.as_ref())),
            pressure: pressure(stats.cpu.as_ref(), stats.memory.as_ref(), stats.io.as_ref()),
            name: attributes
                .metadata
                .map(|metadata| metadata.name)
                .unwrap_or_default(),
            pod: pod.to_owned(),
            namespace: namespace.to_owned(),
            created_at: known.map_or(0, |one| one.created_at),
            id,
            ..Usage::default()
        }
    }

    /// From two readings of the counter; before there are two, what the runtime says.
    fn cores(&mut self, id: &str, cpu: Option<&CpuUsage>) -> Option<u64> {
        let cpu = cpu?;
        let counted = value(cpu.usage_core_nano_seconds.as_ref());
        self.rate(id, "cpu", cpu.timestamp, counted)
            .or_else(|| value(cpu.usage_nano_cores.as_ref()))
    }

    /// Growth a second since the reading before.
    fn rate(&mut self, id: &str, what: &'static str, at: i64, value: Option<u64>) -> Option<u64> {
        let reading = Reading { at, value: value? };
        let key = (id.to_owned(), what);
        let before = self.before.get(&key).copied();
        self.now.insert(key, reading);
        let before = before.filter(|before| before.at < reading.at && before.value <= reading.value)?;
        let grown = u128::from(reading.value - before.value);
        let nanos = u128::try_from(reading.at - before.at).ok()?;
        u64::try_from(grown * 1_000_000_000 / nanos).ok()
    }
}

fn named(pod: &coracle_proto::cri::PodSandbox) -> Usage {
    Usage {
        id: pod.id.clone(),
        name: find::pod_name(pod).to_owned(),
        namespace: find::pod_namespace(pod).to_owned(),
        created_at: pod.created_at,
        ..Usage::default()
    }
}

fn value(value: Option<&UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

/// The working set, and what it may be: CRI tells what is left.
fn memory(memory: Option<&MemoryUsage>) -> (Option<u64>, Option<u64>) {
    let Some(memory) = memory else {
        return (None, None);
    };
    let used = value(memory.working_set_bytes.as_ref());
    let left = value(memory.available_bytes.as_ref()).filter(|left| *left > 0);
    (used, used.zip(left).map(|(used, left)| used.saturating_add(left)))
}

fn pressure(cpu: Option<&CpuUsage>, memory: Option<&MemoryUsage>, io: Option<&IoUsage>) -> [Option<f64>; 3] {
    let some = |psi: Option<&PsiStats>| psi?.some.as_ref().map(|data| data.avg10);
    [
        some(cpu.and_then(|cpu| cpu.psi.as_ref())),
        some(memory.and_then(|memory| memory.psi.as_ref())),
        some(io.and_then(|io| io.psi.as_ref())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_in_order() {
        let mut sampler = Sampler::default();
        let mut rate = |at: i64, value: u64| {
            let rate = sampler.rate("a", "cpu", at, Some(value));
            sampler.before = std::mem::take(&mut sampler.now);
            rate
        };
        assert_eq!(rate(1_000_000_000, 500), None);
        assert_eq!(rate(3_000_000_000, 700), Some(100));
        assert_eq!(rate(3_000_000_000, 700), None, "no time has passed");
        assert_eq!(rate(4_000_000_000, 10), None, "the counter began anew");
    }
}
