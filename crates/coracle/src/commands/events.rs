//! `events`: what happens to pods and containers, a line an event.

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{ContainerEventResponse, ContainerEventType, ContainerState, GetEventsRequest};
use serde::Serialize;

use super::filter::{Facts, Filters};
use super::find;
use crate::cli::{EventsArgs, Output};
use crate::terminal::{Cell, Column, Listing, Row, Screen, Table, Tone, Trouble, instant};

const KEYS: &[&str] = &["type", "name", "pod", "namespace", "id", "kind"];

/// One event, in the words of people.
#[derive(Debug, Serialize)]
struct Event {
    time: String,
    #[serde(rename = "type")]
    what: &'static str,
    kind: &'static str,
    id: String,
    name: String,
    pod: String,
    namespace: String,
    pod_id: String,
    exit_code: Option<i32>,
    reason: String,
    message: String,
}

/// Shows events until interrupted, the runtime leaves, or as many have come as were asked for.
pub(crate) async fn show(client: &Client, args: &EventsArgs, screen: &Screen) -> anyhow::Result<()> {
    let filters = Filters::parse(&args.filter, KEYS, &[])?;
    let of = ClientError::of("GetContainerEvents");
    let mut stream = client
        .runtime()
        .get_container_events(GetEventsRequest {})
        .await
        .map_err(&of)?
        .into_inner();
    let table = heading(screen)?;
    let mut left = args.count.unwrap_or(u64::MAX);
    let broken_off = |status| {
        let trouble =
            Trouble::new("the runtime broke the stream of events off: it was ended, or cut this reader off")
                .next("what it misses is in its log; once it answers again: coracle events");
        anyhow::Error::new(of(status)).context(trouble)
    };
    while left > 0
        && let Some(event) = stream.message().await.map_err(broken_off)?
    {
        let event = Event::of(&event);
        if filters.fit(&event) {
            show_one(screen, &table, &event)?;
            left -= 1;
        }
    }
    if left > 0 {
        crate::terminal::remark("the runtime ended the stream");
    }
    Ok(())
}

/// Widths for what will come: nothing is known yet.
fn heading(screen: &Screen) -> anyhow::Result<Table> {
    let wide = |text: &str, width: usize| Cell::from("x".repeat(width.max(text.len())));
    let columns = [
        ("TIME", 24, 2),
        ("EVENT", 8, 0),
        ("KIND", 9, 3),
        ("OBJECT", 30, 0),
        ("ID", find::SHORT, 4),
        ("DETAIL", 24, 1),
    ];
    let row = Row {
        cells: columns.map(|(name, width, _)| wide(name, width)).to_vec(),
        value: serde_json::Value::Null,
        name: String::new(),
        key: String::new(),
    };
    let listing = Listing {
        columns: columns
            .map(|(name, _, rank)| Column::new(name).rank(rank).cut(cut_of(name)))
            .to_vec(),
        rows: vec![row],
        nothing: String::new(),
    };
    let table = Table::of(screen, &listing);
    if matches!(screen.output, Output::Table | Output::Wide) {
        screen.raw(&table.heading(screen))?;
    }
    Ok(table)
}

fn cut_of(column: &str) -> crate::terminal::Cut {
    match column {
        "OBJECT" => crate::terminal::Cut::Begin,
        "DETAIL" => crate::terminal::Cut::End,
        _ => crate::terminal::Cut::Never,
    }
}

fn show_one(screen: &Screen, table: &Table, event: &Event) -> anyhow::Result<()> {
    match screen.output {
        Output::Json | Output::Yaml => screen.item(event),
        Output::Name => Ok(screen.line(crate::terminal::clean(&event.path()))?),
        Output::Table | Output::Wide => {
            let tone = match event.what {
                "created" => Tone::Costs,
                "started" => Tone::Good,
                "stopped" => Tone::Bad,
                _ => Tone::Faint,
            };
            let cells = [
                Cell::toned(&event.time, Tone::Faint),
                Cell::toned(event.what, tone),
                event.kind.into(),
                Cell::toned(event.object(), Tone::Name),
                Cell::toned(find::short(&event.id), Tone::Faint),
                event.detail().into(),
            ];
            Ok(screen.raw(&table.row(screen, &cells))?)
        }
    }
}

impl Event {
    fn of(event: &ContainerEventResponse) -> Self {
        let sandbox = event.pod_sandbox_status.clone().unwrap_or_default();
        let pod = sandbox.metadata.unwrap_or_default();
        let of_pod = event.container_id == sandbox.id;
        let container = event
            .containers_statuses
            .iter()
            .find(|status| status.id == event.container_id);
        let ended = container.filter(|status| status.state() == ContainerState::ContainerExited);
        let name = container
            .and_then(|status| status.metadata.clone())
            .unwrap_or_default()
            .name;
        Self {
            time: instant(event.created_at),
            what: match event.container_event_type() {
                ContainerEventType::ContainerCreatedEvent => "created",
                ContainerEventType::ContainerStartedEvent => "started",
                ContainerEventType::ContainerStoppedEvent => "stopped",
                ContainerEventType::ContainerDeletedEvent => "deleted",
            },
            kind: if of_pod { "pod" } else { "container" },
            id: event.container_id.clone(),
            name: if of_pod { pod.name.clone() } else { name },
            pod: pod.name,
            namespace: pod.namespace,
            pod_id: sandbox.id,
            exit_code: ended.map(|status| status.exit_code),
            reason: container.map(|status| status.reason.clone()).unwrap_or_default(),
            message: container.map(|status| status.message.clone()).unwrap_or_default(),
        }
    }

    fn object(&self) -> String {
        if self.kind == "pod" {
            format!("{}/{}", self.namespace, self.name)
        } else {
            format!("{}/{}/{}", self.namespace, self.pod, self.name)
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.kind, self.object())
    }

    /// How it ended, when it has.
    fn detail(&self) -> String {
        let mut parts = Vec::new();
        if let Some(code) = self.exit_code.filter(|_| self.what == "stopped") {
            parts.push(format!("exit code {code}"));
            parts.extend(
                [&self.reason, &self.message]
                    .into_iter()
                    .filter(|text| !text.is_empty())
                    .cloned(),
            );
        }
        parts.join(", ")
    }
}

impl Facts for Event {
    fn facts(&self, key: &str) -> Vec<String> {
        match key {
            "type" => vec![self.what.to_owned()],
            "kind" => vec![self.kind.to_owned()],
            "name" => vec![self.name.clone()],
            "pod" => vec![self.pod.clone(), self.pod_id.clone()],
            "namespace" => vec![self.namespace.clone()],
            "id" => vec![self.id.clone(), self.pod_id.clone()],
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_proto::cri::{ContainerMetadata, ContainerStatus, PodSandboxMetadata, PodSandboxStatus};

    use super::*;
    use crate::terminal::forms::{NOW, SECOND, forms};

    fn response(what: ContainerEventType, id: &str, after: i64) -> ContainerEventResponse {
        let exited = what == ContainerEventType::ContainerStoppedEvent;
        ContainerEventResponse {
            container_id: id.repeat(64),
            container_event_type: what.into(),
            created_at: NOW + after * SECOND,
            pod_sandbox_status: Some(PodSandboxStatus {
                id: "a".repeat(64),
                metadata: Some(PodSandboxMetadata {
                    name: "web-7d9c5b8f6d-x2x7k".to_owned(),
                    namespace: "shop".to_owned(),
                    ..PodSandboxMetadata::default()
                }),
                ..PodSandboxStatus::default()
            }),
            containers_statuses: vec![ContainerStatus {
                id: "b".repeat(64),
                metadata: Some(ContainerMetadata {
                    name: "nginx".to_owned(),
                    attempt: 0,
                }),
                state: if exited {
                    ContainerState::ContainerExited
                } else {
                    ContainerState::ContainerRunning
                }
                .into(),
                exit_code: 137,
                reason: "OOMKilled".to_owned(),
                message: "evil\u{1b}[2J words".to_owned(),
                ..ContainerStatus::default()
            }],
        }
    }

    #[test]
    fn a_life_in_every_form() {
        use ContainerEventType::{
            ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
        };
        let life = [
            response(ContainerStartedEvent, "a", 0),
            response(ContainerCreatedEvent, "b", 1),
            response(ContainerStoppedEvent, "b", 62),
            response(ContainerDeletedEvent, "b", 63),
        ];
        insta::assert_snapshot!(forms(|screen| {
            let table = heading(screen)?;
            life.iter()
                .try_for_each(|event| show_one(screen, &table, &Event::of(event)))
        }));
    }
}
