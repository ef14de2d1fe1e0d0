//! `ps` and `pods`.

use std::collections::HashMap;

use coracle_proto::client::Client;
use coracle_proto::cri::{Container, ContainerState, PodSandbox, PodSandboxState};
use serde::Serialize;

use super::find;
use crate::cli::{ListArgs, Output};
use crate::terminal;

#[derive(Serialize)]
struct PodRow<'a> {
    id: &'a str,
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    attempt: u32,
    state: &'static str,
    created_at: i64,
    handler: &'a str,
    labels: std::collections::BTreeMap<&'a String, &'a String>,
    annotations: std::collections::BTreeMap<&'a String, &'a String>,
}

#[derive(Serialize)]
struct ContainerRow<'a> {
    id: &'a str,
    name: &'a str,
    attempt: u32,
    pod_id: &'a str,
    pod: &'a str,
    image: &'a str,
    image_id: &'a str,
    state: &'static str,
    created_at: i64,
    labels: std::collections::BTreeMap<&'a String, &'a String>,
}

/// Lists pods.
pub(crate) async fn pods(client: &Client, args: &ListArgs, output: Output) -> anyhow::Result<()> {
    let pods = find::pods(client).await?;
    let shown = pods
        .iter()
        .filter(|pod| args.all || pod.state() == PodSandboxState::SandboxReady);
    let rows: Vec<_> = shown.map(pod_row).collect();
    if output == Output::Json {
        return terminal::json(&rows);
    }
    terminal::table(
        ["POD", "NAME", "NAMESPACE", "STATE", "AGE", "ATTEMPT"],
        rows.iter().map(|row| {
            [
                id(row.id, args),
                row.name.to_owned(),
                row.namespace.to_owned(),
                row.state.to_owned(),
                terminal::ago(row.created_at),
                row.attempt.to_string(),
            ]
        }),
    );
    Ok(())
}

/// Lists containers.
pub(crate) async fn containers(client: &Client, args: &ListArgs, output: Output) -> anyhow::Result<()> {
    let (pods, containers) = (find::pods(client).await?, find::containers(client).await?);
    let names: HashMap<&str, &str> = pods
        .iter()
        .map(|pod| (pod.id.as_str(), find::pod_name(pod)))
        .collect();
    let shown = containers
        .iter()
        .filter(|one| args.all || one.state() == ContainerState::ContainerRunning);
    let rows: Vec<_> = shown.map(|container| container_row(container, &names)).collect();
    if output == Output::Json {
        return terminal::json(&rows);
    }
    terminal::table(
        ["CONTAINER", "NAME", "STATE", "AGE", "IMAGE", "POD", "POD ID"],
        rows.iter().map(|row| {
            [
                id(row.id, args),
                row.name.to_owned(),
                row.state.to_owned(),
                terminal::ago(row.created_at),
                row.image.to_owned(),
                row.pod.to_owned(),
                id(row.pod_id, args),
            ]
        }),
    );
    Ok(())
}

fn pod_row(pod: &PodSandbox) -> PodRow<'_> {
    let metadata = pod.metadata.as_ref();
    PodRow {
        id: &pod.id,
        name: find::pod_name(pod),
        namespace: metadata.map_or("", |metadata| &metadata.namespace),
        uid: metadata.map_or("", |metadata| &metadata.uid),
        attempt: metadata.map_or(0, |metadata| metadata.attempt),
        state: match pod.state() {
            PodSandboxState::SandboxReady => "ready",
            PodSandboxState::SandboxNotready => "not ready",
        },
        created_at: pod.created_at,
        handler: &pod.runtime_handler,
        labels: pod.labels.iter().collect(),
        annotations: pod.annotations.iter().collect(),
    }
}

fn container_row<'a>(container: &'a Container, pods: &HashMap<&'a str, &'a str>) -> ContainerRow<'a> {
    ContainerRow {
        id: &container.id,
        name: find::container_name(container),
        attempt: container.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        pod_id: &container.pod_sandbox_id,
        pod: pods
            .get(container.pod_sandbox_id.as_str())
            .copied()
            .unwrap_or_default(),
        image: container.image.as_ref().map_or("", |image| &image.image),
        image_id: &container.image_id,
        state: state_word(container.state()),
        created_at: container.created_at,
        labels: container.labels.iter().collect(),
    }
}

/// A container's state as people read it.
pub(crate) fn state_word(state: ContainerState) -> &'static str {
    match state {
        ContainerState::ContainerCreated => "created",
        ContainerState::ContainerRunning => "running",
        ContainerState::ContainerExited => "exited",
        ContainerState::ContainerUnknown => "unknown",
    }
}

fn id(id: &str, args: &ListArgs) -> String {
    let length = if args.no_trunc { id.len() } else { 13.min(id.len()) };
    id.get(..length).unwrap_or(id).to_owned()
}
