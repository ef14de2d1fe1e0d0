//! What is there at the moment of asking: pods, containers, images, operations, and the node's own
//! processes with what they take.

use std::fs;
use std::path::{Path, PathBuf};

use coracle_engine::Engine;
use coracle_engine::api::{ContainerFilter, PodFilter};
use coracle_types::container::ContainerState;
use coracle_types::pod::PodSandboxState as PodState;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::Operation;

/// Ticks a second in /proc (USER_HZ), part of the interface on x86-64 and arm64.
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Role {
    role: &'static str,
}

/// What is there now; reads a few files of /proc for each shim.
pub(super) fn gather(engine: &Engine, runtime_cgroup: &str) -> Registry {
    let mut all = Registry::default();
    let registry = all.sub_registry_with_prefix("coracle");
    registry.register(
        "build",
        "The program",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    objects(registry, engine);
    helpers(registry, runtime_cgroup);
    own_process(all.sub_registry_with_prefix("process"));
    all
}

fn objects(registry: &mut Registry, engine: &Engine) {
    let pods = Family::<State, Gauge>::default();
    // States that nobody is in are there, too, so that a sum or an alert has something to look at.
    for (state, word) in [(PodState::Ready, "ready"), (PodState::NotReady, "not_ready")] {
        let filter = PodFilter {
            state: Some(state),
            ..PodFilter::default()
        };
        let count = engine.list_pod_sandboxes(&filter).len();
        pods.get_or_create(&State { state: word }).set(count as i64);
    }
    registry.register("pods", "Pods by state", pods);
    let containers = Family::<State, Gauge>::default();
    for (state, word) in [
        (ContainerState::Created, "created"),
        (ContainerState::Running, "running"),
        (ContainerState::Exited, "exited"),
        (ContainerState::Unknown, "unknown"),
    ] {
        let filter = ContainerFilter {
            state: Some(state),
            ..ContainerFilter::default()
        };
        let count = engine.list_containers(&filter).len();
        containers.get_or_create(&State { state: word }).set(count as i64);
    }
    registry.register("containers", "Containers by state", containers);
    let images = engine.list_images(None).len();
    registry.register("images", "Images on the node", ConstGauge::new(images as i64));
    let paused = Family::<State, Gauge>::default();
    let hosts = engine.paused_registry_hosts();
    for (half_open, word) in [(false, "open"), (true, "half_open")] {
        let count = hosts.iter().filter(|host| host.half_open == half_open).count();
        paused.get_or_create(&State { state: word }).set(count as i64);
    }
    registry.register(
        "registry_hosts_paused",
        "Registry hosts that are left alone since they could not be reached, by the state of their breaker",
        paused,
    );
    let running = Family::<Operation, Gauge>::default();
    for operation in engine.operations() {
        let operation = operation.kind;
        running.get_or_create(&Operation { operation }).inc();
    }
    registry.register(
        "operations_running",
        "Operations under way, pulls among them",
        running,
    );
}

/// Keeper and shims: they live in a cgroup of their own.
fn helpers(registry: &mut Registry, runtime_cgroup: &str) {
    let count = Family::<Role, Gauge>::default();
    let memory = Family::<Role, Gauge>::default();
    for role in ["keeper", "shim"] {
        count.get_or_create(&Role { role }).set(0);
        memory.get_or_create(&Role { role }).set(0);
    }
    for process in processes_in(runtime_cgroup) {
        let comm = fs::read_to_string(process.join("comm")).unwrap_or_default();
        let role = match comm.trim() {
            "coracle-keeper" => "keeper",
            "coracle-shim" => "shim",
            _ => continue,
        };
        count.get_or_create(&Role { role }).inc();
        memory
            .get_or_create(&Role { role })
            .inc_by(resident(&process) as i64);
    }
    registry.register("helpers", "Processes of keeper and shims", count);
    registry.register_with_unit(
        "helpers_resident_memory",
        "What they take, shared pages counted in each",
        Unit::Bytes,
        memory,
    );
}

/// Directories of /proc, from whichever hierarchy has the cgroup: of its own processes, and of those in the scopes
/// that systemd has directly below it. Slices below are of pods.
fn processes_in(cgroup: &str) -> Vec<PathBuf> {
    let places = ["", "unified", "pids", "memory", "systemd"];
    let mut lists = places.iter().map(|hierarchy| {
        let directory = Path::new("/sys/fs/cgroup")
            .join(hierarchy)
            .join(cgroup.trim_start_matches('/'));
        listed_in(&directory)
    });
    let text = lists.find(|text| !text.is_empty());
    text.unwrap_or_default()
        .lines()
        .map(|pid| Path::new("/proc").join(pid))
        .collect()
}

/// The pids of a cgroup and of the scopes directly below it, one a line.
fn listed_in(directory: &Path) -> String {
    let mut text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    let scopes = below.filter(|entry| entry.file_name().as_encoded_bytes().ends_with(b".scope"));
    for scope in scopes {
        text += &fs::read_to_string(scope.path().join("cgroup.procs")).unwrap_or_default();
    }
    text
}

/// Resident bytes (proc_pid_status(5): VmRSS is in kB).
fn resident(process: &Path) -> u64 {
    let text = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

/// This process, by the names that every client library gives.
fn own_process(registry: &mut Registry) {
    let own = Path::new("/proc/self");
    registry.register_with_unit(
        "resident_memory",
        "Resident memory of the daemon",
        Unit::Bytes,
        ConstGauge::new(resident(own) as i64),
    );
    let descriptors = fs::read_dir(own.join("fd")).map_or(0, Iterator::count);
    registry.register(
        "open_fds",
        "Open descriptors",
        ConstGauge::new(descriptors as i64),
    );
    let stat = fs::read_to_string(own.join("stat")).unwrap_or_default();
    // The name may hold spaces and parentheses: fields are counted from its end, where the third is.
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let seconds = (field(14) + field(15)) as f64 / TICKS;
    registry.register_with_unit(
        "cpu",
        "Processor time of the daemon",
        Unit::Seconds,
        ConstCounter::new(seconds),
    );
    registry.register("threads", "Threads", ConstGauge::new(field(20) as i64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_looked_for_in_scopes_but_not_in_slices() {
        let directory = tempfile::tempdir().unwrap();
        let all = [
            (".", "1\n"),
            ("n-keeper-x.scope", "2\n3\n"),
            ("n-pods.slice", "4\n"),
        ];
        for (name, pids) in all {
            fs::create_dir_all(directory.path().join(name)).unwrap();
            fs::write(directory.path().join(name).join("cgroup.procs"), pids).unwrap();
        }
        assert_eq!(listed_in(directory.path()), "1\n2\n3\n");
        assert_eq!(listed_in(&directory.path().join("none")), "");
    }

    #[test]
    fn the_own_process_is_measured() {
        let mut all = Registry::default();
        own_process(all.sub_registry_with_prefix("process"));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &all).unwrap();
        let value = |name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("{name}: {text}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_threads ") >= 1.0);
        assert!(value("process_cpu_seconds_total ") >= 0.0);
    }
}
