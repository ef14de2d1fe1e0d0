//! What verbose statuses tell people, as JSON.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use crate::parts::Parts;
use crate::pod::{PodHandle, View};
use crate::record::ContainerRecord;

/// Of a pod: where its things are and how its start went.
pub(crate) fn of_pod(view: &View, handle: &PodHandle) -> BTreeMap<String, String> {
    let pod = &view.pod;
    let info = json!({
        "netns": pod.netns,
        "ips": pod.ips,
        "phase": pod.phase,
        "boot": pod.boot,
        "config": pod.config,
        "steps": handle.trace().steps(),
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

/// Of a container: its process, its layers and its OCI specification.
pub(crate) fn of_container(parts: &Parts, record: &ContainerRecord) -> BTreeMap<String, String> {
    let spec = fs::read(parts.records.bundle(&record.id).join("config.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok());
    let info = json!({
        "sandboxID": record.pod,
        "pid": record.pid,
        "phase": record.phase,
        "cgroup": record.cgroup,
        "layers": record.layers,
        "volumes": record.volumes,
        "config": record.config,
        "runtimeSpec": spec,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}
