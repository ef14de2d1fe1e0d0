//! `ps` and `pods`.

use std::collections::BTreeMap;

use coracle_proto::client::Client;
use coracle_proto::cri::{Container, ContainerState, PodSandbox, PodSandboxState};
use serde::Serialize;

use super::filter::{Facts, Filters, image_names};
use super::find::{self, Objects};
use super::watch;
use crate::cli::{ListArgs, Output};
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Tone, instant};

const POD_KEYS: &[&str] = &["state", "name", "namespace", "label", "id", "handler"];
const POD_STATES: &[&str] = &["ready", "not-ready"];
const CONTAINER_KEYS: &[&str] = &["state", "name", "pod", "namespace", "image", "label", "id"];
const CONTAINER_STATES: &[&str] = &["created", "running", "exited", "unknown"];

pub(super) const POD_COLUMNS: [Column; 8] = [
    Column::new("POD ID").rank(3),
    Column::new("NAME").cut(Cut::End),
    Column::new("NAMESPACE").rank(2),
    Column::new("STATE"),
    Column::new("AGE").rank(1).right(),
    Column::new("ATTEMPT").rank(4).right(),
    Column::new("HANDLER").wide(),
    Column::new("LABELS").wide(),
];
pub(super) const CONTAINER_COLUMNS: [Column; 9] = [
    Column::new("CONTAINER ID").rank(4),
    Column::new("NAME").cut(Cut::End),
    Column::new("STATE"),
    Column::new("AGE").rank(1).right(),
    Column::new("IMAGE").rank(3).cut(Cut::Begin),
    Column::new("POD").rank(2).cut(Cut::End),
    Column::new("NAMESPACE").wide(),
    Column::new("POD ID").wide(),
    Column::new("ATTEMPT").wide().right(),
];

#[derive(Serialize)]
struct PodValue<'a> {
    id: &'a str,
    name: &'a str,
    namespace: &'a str,
    uid: &'a str,
    attempt: u32,
    state: &'static str,
    created_at: i64,
    created: String,
    handler: &'a str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
struct ContainerValue<'a> {
    id: &'a str,
    name: &'a str,
    attempt: u32,
    pod_id: &'a str,
    pod: &'a str,
    namespace: &'a str,
    image: &'a str,
    image_id: &'a str,
    state: &'static str,
    created_at: i64,
    created: String,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
}

/// Lists pods.
pub(crate) async fn pods(client: &Client, args: &ListArgs, screen: &Screen) -> anyhow::Result<()> {
    let filters = Filters::parse(&args.pick.filter, POD_KEYS, POD_STATES)?;
    watch::list(client, screen, args.pick.watch, async || {
        let objects = Objects::new(find::pods(client).await?, Vec::new());
        let all = args.all || filters.names("state");
        let shown = objects
            .pods
            .iter()
            .filter(|pod| all || pod.state() == PodSandboxState::SandboxReady)
            .filter(|pod| filters.fit(*pod));
        let rows = shown
            .map(|pod| pod_row(pod, &objects, args, screen))
            .collect::<Result<_, _>>()?;
        let nothing = match objects.pods.len() {
            0 => "there is no pod on this node".to_owned(),
            count => format!("none of {count} pods fits: --all shows those that are not ready, too"),
        };
        Ok(Listing {
            columns: POD_COLUMNS.to_vec(),
            rows,
            nothing,
        })
    })
    .await
}

/// Lists containers.
pub(crate) async fn containers(client: &Client, args: &ListArgs, screen: &Screen) -> anyhow::Result<()> {
    let filters = Filters::parse(&args.pick.filter, CONTAINER_KEYS, CONTAINER_STATES)?;
    watch::list(client, screen, args.pick.watch, async || {
        let objects = Objects::load(client).await?;
        let all = args.all || filters.names("state");
        let shown = objects
            .containers
            .iter()
            .filter(|one| all || one.state() == ContainerState::ContainerRunning)
            .filter(|one| filters.fit(&InPod(one, objects.pod_of(one))));
        let rows = shown
            .map(|one| container_row(one, &objects, args, screen))
            .collect::<Result<_, _>>()?;
        let nothing = match objects.containers.len() {
            0 => "there is no container on this node".to_owned(),
            count => format!("none of {count} containers fits: --all shows those that do not run, too"),
        };
        Ok(Listing {
            columns: CONTAINER_COLUMNS.to_vec(),
            rows,
            nothing,
        })
    })
    .await
}

pub(super) fn pod_row(
    pod: &PodSandbox,
    objects: &Objects,
    args: &ListArgs,
    screen: &Screen,
) -> anyhow::Result<Row> {
    let metadata = pod.metadata.clone().unwrap_or_default();
    let state = find::pod_state(pod);
    let value = PodValue {
        id: &pod.id,
        name: &metadata.name,
        namespace: &metadata.namespace,
        uid: &metadata.uid,
        attempt: metadata.attempt,
        state,
        created_at: pod.created_at,
        created: instant(pod.created_at),
        handler: &pod.runtime_handler,
        labels: &pod.labels,
        annotations: &pod.annotations,
    };
    Ok(Row {
        value: serde_json::to_value(value)?,
        cells: vec![
            Cell::toned(id(&pod.id, args.pick.no_trunc), Tone::Faint),
            Cell::toned(&metadata.name, Tone::Name),
            metadata.namespace.as_str().into(),
            Cell::toned(state, tone_of(state)),
            screen.clock.ago(pod.created_at).into(),
            metadata.attempt.to_string().into(),
            pod.runtime_handler.as_str().into(),
            labels(&pod.labels).into(),
        ],
        // Only this form shows it.
        name: match screen.output {
            Output::Name => objects.path_of_pod(pod),
            _ => String::new(),
        },
        key: pod.id.clone(),
    })
}

pub(super) fn container_row(
    one: &Container,
    objects: &Objects,
    args: &ListArgs,
    screen: &Screen,
) -> anyhow::Result<Row> {
    let metadata = one.metadata.clone().unwrap_or_default();
    let pod = objects.pod_of(one);
    let (pod_name, namespace) = (
        pod.map_or("", find::pod_name),
        pod.map_or("", find::pod_namespace),
    );
    let image = image_of(one);
    let state = state_word(one.state());
    let value = ContainerValue {
        id: &one.id,
        name: &metadata.name,
        attempt: metadata.attempt,
        pod_id: &one.pod_sandbox_id,
        pod: pod_name,
        namespace,
        image,
        image_id: &one.image_id,
        state,
        created_at: one.created_at,
        created: instant(one.created_at),
        labels: &one.labels,
        annotations: &one.annotations,
    };
    Ok(Row {
        value: serde_json::to_value(value)?,
        cells: vec![
            Cell::toned(id(&one.id, args.pick.no_trunc), Tone::Faint),
            Cell::toned(&metadata.name, Tone::Name),
            Cell::toned(state, tone_of(state)),
            screen.clock.ago(one.created_at).into(),
            shown_image(image, args.pick.no_trunc).into(),
            pod_name.into(),
            namespace.into(),
            id(&one.pod_sandbox_id, args.pick.no_trunc).into(),
            metadata.attempt.to_string().into(),
        ],
        name: match screen.output {
            Output::Name => objects.path_of_container(one),
            _ => String::new(),
        },
        key: one.id.clone(),
    })
}

/// A container with the pod it is in.
struct InPod<'a>(&'a Container, Option<&'a PodSandbox>);

impl Facts for InPod<'_> {
    fn facts(&self, key: &str) -> Vec<String> {
        let Self(one, pod) = self;
        match key {
            "state" => vec![state_word(one.state()).to_owned()],
            "name" => vec![find::container_name(one).to_owned()],
            "pod" => vec![
                pod.map_or("", find::pod_name).to_owned(),
                one.pod_sandbox_id.clone(),
            ],
            "namespace" => vec![pod.map_or("", find::pod_namespace).to_owned()],
            "image" => {
                let mut names = image_names(image_of(one));
                for id in [&one.image_id, &one.image_ref]
                    .into_iter()
                    .filter(|id| !id.is_empty())
                {
                    names.extend([id.clone(), find::short(id).to_owned()]);
                }
                names
            }
            "label" => facts_of(&one.labels),
            "id" => vec![one.id.clone()],
            _ => Vec::new(),
        }
    }
}

impl Facts for PodSandbox {
    fn facts(&self, key: &str) -> Vec<String> {
        match key {
            "state" => vec![find::pod_state(self).to_owned()],
            "name" => vec![find::pod_name(self).to_owned()],
            "namespace" => vec![find::pod_namespace(self).to_owned()],
            "label" => facts_of(&self.labels),
            "handler" => vec![self.runtime_handler.clone()],
            "id" => vec![self.id.clone()],
            _ => Vec::new(),
        }
    }
}

/// The reference that was asked for, else what the runtime calls it.
fn image_of(container: &Container) -> &str {
    container.image.as_ref().map_or("", |image| {
        if image.user_specified_image.is_empty() {
            &image.image
        } else {
            &image.user_specified_image
        }
    })
}

/// An image that is told by its id is told by few digits.
fn shown_image(image: &str, whole: bool) -> String {
    if image.starts_with("sha256:") && !whole {
        return find::short(image).to_owned();
    }
    image.to_owned()
}

fn facts_of(labels: &BTreeMap<String, String>) -> Vec<String> {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    facts_of(labels).join(",")
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

/// What a state means.
pub(crate) fn tone_of(state: &str) -> Tone {
    match state {
        "ready" | "running" => Tone::Good,
        "created" => Tone::Costs,
        "unknown" => Tone::Bad,
        _ => Tone::Faint,
    }
}

/// An id as it is shown.
pub(crate) fn id(id: &str, whole: bool) -> String {
    if whole { id } else { find::short(id) }.to_owned()
}
