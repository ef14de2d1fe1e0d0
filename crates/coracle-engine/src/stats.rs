//! What pods and containers use, read when somebody asks: no timer and no thread a pod.
//!
//! Readings come straight from the cgroups' files, by the paths in the records; no shim is asked and nothing
//! is searched. They are made on a blocking thread, of which a list needs one; a cgroup whose files hang is
//! left out and holds nobody up. Processor rates lie between two such readings ([`meter`]), what writable
//! layers take is counted behind the answers ([`disk`]).

mod disk;
mod lane;
mod meter;
mod metrics;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use coracle_container::cgroup::{Cgroup, CgroupPath};
use coracle_types::pod::PodSandboxState;
use coracle_types::time::UnixNanos;
use coracle_types::{ContainerId, Kind, PodSandboxId};

pub use coracle_container::cgroup::{
    Breakdown, DeviceIo, HugePages, Pressure, Pressures, Processes, Stall, Stats,
};
pub use coracle_network::{InterfaceCounters, Traffic};
pub use coracle_snapshot::Capacity;

pub(crate) use self::meter::Meters;
pub use self::metrics::{ContainerMetrics, Detail, Measures, PodMetrics};
use crate::api::{ContainerFilter, ContainerSummary, FsUsage, IdPrefix, ImageFsInfo, PodFilter, PodSummary};
use crate::config::EngineConfig;
use crate::engine::{Engine, has_labels, no_container};
use crate::error::EngineError;
use crate::pod::{PodHandle, View};
use crate::policy::{ContainerPhase, PodPhase};
use crate::record::ContainerRecord;

/// What the files of a cgroup said.
#[derive(Debug, Clone, PartialEq)]
pub struct CgroupUsage {
    /// When they were read.
    pub at: UnixNanos,
    /// Processor time, memory, processes.
    pub stats: Stats,
    /// Nanoseconds of processor time a second, since an earlier reading; `None` at the first one.
    pub nano_cores: Option<u64>,
    /// What was waited for.
    pub pressures: Pressures,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    /// Which.
    pub container: ContainerSummary,
    /// `None` for one that does not run, or whose cgroup cannot be read.
    pub usage: Option<CgroupUsage>,
    /// Its writable layer as it was counted last; `None` before the first count.
    pub writable: Option<FsUsage>,
}

/// What a pod uses.
#[derive(Debug, Clone, PartialEq)]
pub struct PodStats {
    /// Which.
    pub pod: PodSummary,
    /// Of all of it: from the pod's own cgroup where it has one, else its containers' sum.
    pub usage: Option<CgroupUsage>,
    /// What its interfaces carried, and when that was read; `None` with the host's network.
    pub network: Option<(UnixNanos, Vec<InterfaceCounters>)>,
    /// Its containers.
    pub containers: Vec<ContainerStats>,
}

/// How things are read, shared by all pods.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    cgroups: lane::Lane<Whose>,
    walks: disk::Walks,
}

/// Whose cgroup it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Pod(PodSandboxId),
    Container(ContainerId),
}

/// How much is read of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What a list of stats shows.
    Usage,
    /// What metrics show, too; costs a look at every process.
    All,
}

/// A cgroup to read.
struct Target {
    path: String,
    depth: Depth,
    first: Option<u32>,
    container: Option<ContainerId>,
    meters: Arc<Meters>,
}

/// What was read of it.
struct Reading {
    usage: CgroupUsage,
    detail: Option<Detail>,
}

/// A pod at one moment and its earlier readings.
struct Subject {
    view: Arc<View>,
    meters: Arc<Meters>,
}

impl Subject {
    fn of(handle: &PodHandle) -> Self {
        let (view, meters) = (handle.view(), Arc::clone(handle.meters()));
        meters.keep(|id| view.containers.iter().any(|record| record.id == *id));
        Self { view, meters }
    }

    fn target(&self, record: &ContainerRecord, depth: Depth) -> Option<(Whose, Target)> {
        let target = Target {
            path: record.cgroup.clone(),
            depth,
            first: record.pid,
            container: Some(record.id.clone()),
            meters: Arc::clone(&self.meters),
        };
        runs(record).then(|| (Whose::Container(record.id.clone()), target))
    }

    /// The pod's own cgroup. A pod that named none shares the default one with others.
    fn own_target(&self, config: &EngineConfig) -> Option<(Whose, Target)> {
        let pod = &self.view.pod;
        let named = &pod.config.cgroup_parent;
        if named.is_empty() {
            return None;
        }
        // A container's path is as the driver in force made it of the pod's, when it was made.
        let of_container = self
            .view
            .containers
            .iter()
            .find_map(|record| Path::new(&record.cgroup).parent()?.to_str());
        let path = of_container.map_or_else(|| crate::cgroups::parent_path(config, named), str::to_owned);
        let target = Target {
            path,
            depth: Depth::Usage,
            first: None,
            container: None,
            meters: Arc::clone(&self.meters),
        };
        Some((Whose::Pod(pod.id.clone()), target))
    }

    fn count(&self, record: &ContainerRecord) -> meter::Count {
        meter::Count {
            id: record.id.clone(),
            meters: Arc::clone(&self.meters),
        }
    }
}

fn runs(record: &ContainerRecord) -> bool {
    matches!(record.phase, ContainerPhase::Running | ContainerPhase::Stopping)
}

/// Reads one cgroup; on a thread that may block.
fn read(target: &Target) -> Option<Reading> {
    let path: CgroupPath = target.path.parse().ok()?;
    let cgroup = Cgroup::open(&path).ok()?;
    let stats = cgroup.stats().ok()?;
    let now = Instant::now();
    let nano_cores = target
        .meters
        .rate(target.container.as_ref(), stats.cpu_nanos, now);
    let usage = CgroupUsage {
        at: UnixNanos::now(),
        nano_cores,
        stats,
        pressures: cgroup.pressures(),
    };
    let detail = (target.depth == Depth::All).then(|| Detail::read(&cgroup, target.first));
    Some(Reading { usage, detail })
}

impl Engine {
    /// What a container uses.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn container_stats(&self, id: &IdPrefix) -> Result<ContainerStats, EngineError> {
        let (id, handle) = self.container(id)?;
        let subject = Subject::of(&handle);
        let record = subject.view.containers.iter().find(|record| record.id == id);
        let record = Arc::clone(record.ok_or_else(|| no_container(id.as_str()))?);
        let mut stats = self.stats_of(vec![(&subject, record)]).await;
        stats.pop().ok_or_else(|| no_container(id.as_str()))
    }

    /// What containers use that match; one that cannot be read is listed without numbers.
    pub async fn list_container_stats(&self, filter: &ContainerFilter) -> Vec<ContainerStats> {
        let subjects: Vec<_> = self
            .parts
            .index
            .pods(&filter.pod)
            .iter()
            .map(Subject::of)
            .collect();
        let mut chosen = Vec::new();
        for subject in &subjects {
            let records = subject.view.containers.iter().filter(|record| {
                record.id.as_str().starts_with(&filter.id.0)
                    && filter.state.is_none_or(|state| record.state() == state)
                    && has_labels(&record.config.labels, &filter.labels)
            });
            chosen.extend(records.map(|record| (subject, Arc::clone(record))));
        }
        self.stats_of(chosen).await
    }

    async fn stats_of(&self, chosen: Vec<(&Subject, Arc<ContainerRecord>)>) -> Vec<ContainerStats> {
        let targets = chosen
            .iter()
            .filter_map(|(subject, record)| subject.target(record, Depth::Usage))
            .collect();
        let counts = chosen
            .iter()
            .map(|(subject, record)| subject.count(record))
            .collect();
        let (mut readings, ()) = futures::join!(self.readings(targets), self.count(counts));
        chosen
            .iter()
            .map(|(subject, record)| {
                let reading = readings.remove(&Whose::Container(record.id.clone()));
                self.container_numbers(subject, record, reading.map(|reading| reading.usage))
            })
            .collect()
    }

    fn container_numbers(
        &self,
        subject: &Subject,
        record: &ContainerRecord,
        usage: Option<CgroupUsage>,
    ) -> ContainerStats {
        let counted = subject.meters.counted(&record.id);
        ContainerStats {
            container: record.summary(),
            usage,
            writable: counted.map(|counted| FsUsage {
                mountpoint: self.parts.config.root.join("writable"),
                used_bytes: counted.usage.bytes,
                inodes_used: counted.usage.inodes,
                timestamp: counted.at,
            }),
        }
    }

    /// Space that images and writable layers take: of images now, of writable layers as they were counted last, for
    /// stats or for this.
    pub async fn image_fs_info(&self) -> ImageFsInfo {
        let pods = self.parts.index.pods(&IdPrefix::default());
        let subjects: Vec<_> = pods.iter().map(Subject::of).collect();
        let counts: Vec<_> = subjects
            .iter()
            .flat_map(|subject| subject.view.containers.iter().map(|record| subject.count(record)))
            .collect();
        self.count(counts.clone()).await;
        let counted: Vec<_> = counts
            .iter()
            .filter_map(|count| count.meters.counted(&count.id))
            .collect();
        let now = UnixNanos::now();
        let usage = |directory: &str, usage: coracle_snapshot::Usage, timestamp| FsUsage {
            mountpoint: self.parts.config.root.join(directory),
            used_bytes: usage.bytes,
            inodes_used: usage.inodes,
            timestamp,
        };
        let writable = counted.iter().map(|counted| counted.usage).sum();
        // No part of the sum is older.
        let oldest = counted.iter().map(|counted| counted.at).min();
        ImageFsInfo {
            images: usage("layers", self.parts.images.usage(), now),
            containers: usage("writable", writable, oldest.unwrap_or(now)),
        }
    }

    async fn readings(&self, targets: Vec<(Whose, Target)>) -> std::collections::HashMap<Whose, Reading> {
        let keys: Vec<_> = targets.iter().map(|(key, _)| key.clone()).collect();
        let found = self.parts.readers.cgroups.read(targets, read).await;
        keys.into_iter()
            .zip(found)
            .filter_map(|(key, reading)| Some((key, reading.flatten()?)))
            .collect()
    }

    async fn count(&self, layers: Vec<meter::Count>) {
        self.parts
            .readers
            .walks
            .refresh(&self.parts.snapshots, layers)
            .await;
    }

    /// What a ready pod uses.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` for a pod that is not ready: nothing of it runs.
    pub async fn pod_stats(&self, id: &IdPrefix) -> Result<PodStats, EngineError> {
        let handle = self.pod(id)?;
        let subject = Subject::of(&handle);
        if subject.view.pod.state() != PodSandboxState::Ready {
            let message = format!("pod sandbox {} is not ready: nothing of it runs", handle.id());
            return Err(EngineError::new(
                Kind::FailedPrecondition,
                "pod sandbox stats",
                message,
            ));
        }
        let gone = || {
            EngineError::new(
                Kind::NotFound,
                "find",
                format!("pod sandbox {} is gone", handle.id()),
            )
        };
        self.stats_of_pods(&[subject]).await.pop().ok_or_else(gone)
    }

    /// What ready pods use that match.
    pub async fn list_pod_stats(&self, filter: &PodFilter) -> Vec<PodStats> {
        let subjects: Vec<_> = self
            .ready(&filter.id)
            .into_iter()
            .filter(|subject| has_labels(&subject.view.pod.config.labels, &filter.labels))
            .collect();
        self.stats_of_pods(&subjects).await
    }

    fn ready(&self, id: &IdPrefix) -> Vec<Subject> {
        let handles = self.parts.index.pods(id);
        let subjects = handles.iter().map(Subject::of);
        subjects
            .filter(|subject| subject.view.pod.phase == PodPhase::Ready)
            .collect()
    }

    async fn stats_of_pods(&self, subjects: &[Subject]) -> Vec<PodStats> {
        let (mut targets, mut counts) = (Vec::new(), Vec::new());
        for subject in subjects {
            targets.extend(subject.own_target(&self.parts.config));
            for record in &subject.view.containers {
                targets.extend(subject.target(record, Depth::Usage));
                counts.push(subject.count(record));
            }
        }
        let (mut readings, network, ()) = futures::join!(
            self.readings(targets),
            self.network_counters(subjects),
            self.count(counts)
        );
        let of_pod = subjects.iter().zip(network).map(|(subject, network)| {
            let records = subject.view.containers.iter();
            let containers: Vec<_> = records
                .map(|record| {
                    let reading = readings.remove(&Whose::Container(record.id.clone()));
                    self.container_numbers(subject, record, reading.map(|reading| reading.usage))
                })
                .collect();
            let own = readings.remove(&Whose::Pod(subject.view.pod.id.clone()));
            PodStats {
                pod: subject.view.pod.summary(),
                usage: own
                    .map(|reading| reading.usage)
                    .or_else(|| sum(containers.iter().filter_map(|stats| stats.usage.as_ref()))),
                network,
                containers,
            }
        });
        of_pod.collect()
    }

    async fn network_counters(
        &self,
        subjects: &[Subject],
    ) -> Vec<Option<(UnixNanos, Vec<InterfaceCounters>)>> {
        let has_own = |subject: &Subject| subject.view.pod.netns.is_some();
        let pods: Vec<_> = subjects
            .iter()
            .filter(|subject| has_own(subject))
            .map(|subject| subject.view.pod.id.clone())
            .collect();
        let found = self.parts.networks.counters(&pods).await;
        let mut found = found
            .inspect_err(|error| tracing::warn!(%error, "pods' interfaces cannot be read"))
            .unwrap_or_default()
            .into_iter();
        let now = UnixNanos::now();
        subjects
            .iter()
            .map(|subject| has_own(subject).then(|| found.next().flatten()).flatten())
            .map(|counters| counters.map(|counters| (now, counters)))
            .collect()
    }
}

/// Of a pod without a cgroup of its own. What cannot be added (limits, pressure) is left out.
fn sum<'a>(parts: impl Iterator<Item = &'a CgroupUsage>) -> Option<CgroupUsage> {
    parts.cloned().reduce(|mut all, one| {
        let (a, b) = (&mut all.stats, one.stats);
        a.cpu_nanos += b.cpu_nanos;
        a.memory_usage += b.memory_usage;
        a.memory_working_set += b.memory_working_set;
        a.memory_rss += b.memory_rss;
        a.swap_usage += b.swap_usage;
        a.page_faults += b.page_faults;
        a.major_page_faults += b.major_page_faults;
        a.pids += b.pids;
        a.oom_kills += b.oom_kills;
        (a.memory_limit, a.swap_limit, a.pids_limit) = (None, None, None);
        all.at = all.at.max(one.at);
        all.nano_cores = all.nano_cores.zip(one.nano_cores).map(|(a, b)| a + b);
        all.pressures = Pressures::default();
        all
    })
}
