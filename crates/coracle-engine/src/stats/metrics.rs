//! What metrics show beyond stats, of ready pods and their running containers.

use coracle_container::cgroup::Cgroup;
use coracle_types::resources::LinuxResources;
use coracle_types::time::UnixNanos;

use super::{
    Breakdown, Capacity, ContainerStats, Depth, DeviceIo, HugePages, InterfaceCounters, Processes, Whose,
};
use crate::api::{IdPrefix, PodSummary};
use crate::engine::Engine;

/// What this node's kernel and cgroups measure beyond what all do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    /// Pressure stall information.
    pub pressure: bool,
    /// Huge pages.
    pub huge_pages: bool,
}

/// What metrics show of a container beyond its stats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// Processor time and memory by what they went to.
    pub breakdown: Breakdown,
    /// By device.
    pub io: Vec<DeviceIo>,
    /// By size of page.
    pub huge_pages: Vec<HugePages>,
    /// Processes and what they have open.
    pub processes: Processes,
}

impl Detail {
    pub(super) fn read(cgroup: &Cgroup, first: Option<u32>) -> Self {
        Self {
            breakdown: cgroup.breakdown(),
            io: cgroup.device_io(),
            huge_pages: cgroup.huge_pages(),
            processes: cgroup.census(first),
        }
    }
}

/// A running container's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerMetrics {
    /// As its stats.
    pub stats: ContainerStats,
    /// Beyond them.
    pub detail: Detail,
    /// Limits in force.
    pub resources: LinuxResources,
    /// When its first process ran.
    pub started_at: UnixNanos,
}

/// A ready pod's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct PodMetrics {
    /// Which.
    pub pod: PodSummary,
    /// When this was read.
    pub at: UnixNanos,
    /// What its interfaces carried; `None` with the host's network.
    pub network: Option<Vec<InterfaceCounters>>,
    /// Its running containers, but for those that cannot be read.
    pub containers: Vec<ContainerMetrics>,
    /// The file system of its writable layers.
    pub capacity: Option<Capacity>,
}

impl Engine {
    /// What this node measures; constant while the kernel runs.
    #[must_use]
    pub fn measures(&self) -> Measures {
        Measures {
            pressure: coracle_container::cgroup::tells_pressure(),
            huge_pages: coracle_container::cgroup::counts_huge_pages(),
        }
    }

    /// All that is measured of ready pods and their running containers.
    pub async fn pod_metrics(&self) -> Vec<PodMetrics> {
        let subjects = self.ready(&IdPrefix::default());
        let (mut targets, mut counts) = (Vec::new(), Vec::new());
        for subject in &subjects {
            for record in &subject.view.containers {
                targets.extend(subject.target(record, Depth::All));
                counts.push(subject.count(record));
            }
        }
        let capacity = {
            let snapshots = std::sync::Arc::clone(&self.parts.snapshots);
            tokio::task::spawn_blocking(move || snapshots.capacity().ok())
        };
        let (mut readings, network, (), capacity) = futures::join!(
            self.readings(targets),
            self.network_counters(&subjects),
            self.count(counts),
            capacity
        );
        let capacity = capacity.ok().flatten();
        let of_pod = subjects.iter().zip(network).map(|(subject, network)| {
            let containers = subject.view.containers.iter().filter_map(|record| {
                let reading = readings.remove(&Whose::Container(record.id.clone()))?;
                Some(ContainerMetrics {
                    stats: self.container_numbers(subject, record, Some(reading.usage)),
                    detail: reading.detail?,
                    resources: record.resources.clone(),
                    started_at: record.started_at,
                })
            });
            PodMetrics {
                pod: subject.view.pod.summary(),
                at: UnixNanos::now(),
                network: network.map(|(_, counters)| counters),
                containers: containers.collect(),
                capacity,
            }
        });
        of_pod.collect()
    }
}
