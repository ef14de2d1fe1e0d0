//! `ops`: what the daemon is doing, at which step it is, how long already, and who waits for it.

use std::time::Duration;

use coracle_proto::admin::{ListOperationsRequest, Operation};
use coracle_proto::client::{Client, ClientError};
use serde::Serialize;

use super::filter::{Facts, Filters};
use super::{find, watch};
use crate::cli::OpsArgs;
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Tone, instant, took};

const KEYS: &[&str] = &["name", "kind", "pod", "id", "step"];
pub(super) const COLUMNS: [Column; 9] = [
    Column::new("OPERATION").cut(Cut::End),
    Column::new("OBJECT").rank(1).cut(Cut::Begin),
    Column::new("STEP").cut(Cut::End),
    Column::new("IN STEP").rank(3).right(),
    Column::new("AGE").right(),
    Column::new("AWAITS").rank(2).cut(Cut::End),
    Column::new("CLIENTS").rank(4).right(),
    Column::new("ID").wide().right(),
    Column::new("POD ID").wide(),
];
/// Older than this is worth a second look: most operations take milliseconds.
const LONG: Duration = Duration::from_secs(10);

#[derive(Serialize)]
struct Value {
    id: u64,
    kind: String,
    name: String,
    pod_id: String,
    container_id: String,
    began: String,
    age_ms: f64,
    waiting_clients: u32,
    steps: Vec<StepValue>,
}

#[derive(Serialize)]
struct StepValue {
    name: String,
    age_ms: f64,
    awaits: String,
}

/// Shows what is under way, oldest first.
pub(crate) async fn list(client: &Client, args: &OpsArgs, screen: &Screen) -> anyhow::Result<()> {
    let filters = Filters::parse(&args.pick.filter, KEYS, &[])?;
    watch::list(client, screen, args.pick.watch, async || {
        let reply = client
            .admin()
            .list_operations(ListOperationsRequest {})
            .await
            .map_err(ClientError::of("ListOperations"))?;
        let operations = reply.into_inner().operations;
        let shown = operations.iter().filter(|operation| filters.fit(*operation));
        let rows = shown.map(|one| row(one, args)).collect::<Result<_, _>>()?;
        let nothing = match operations.len() {
            0 => "nothing is under way".to_owned(),
            count => format!("none of {count} operations fits"),
        };
        Ok(Listing {
            columns: COLUMNS.to_vec(),
            rows,
            nothing,
        })
    })
    .await
}

pub(super) fn row(operation: &Operation, args: &OpsArgs) -> anyhow::Result<Row> {
    let millis = |nanos: u64| (nanos / 1_000) as f64 / 1e3;
    // Of steps beside each other the oldest is what everything waits for.
    let oldest = operation.steps.iter().max_by_key(|step| step.age_nanos);
    let more = match operation.steps.len() {
        0 | 1 => String::new(),
        count => format!(" (+{} more)", count - 1),
    };
    let age = Duration::from_nanos(operation.age_nanos);
    let value = Value {
        id: operation.id,
        kind: operation.kind.clone(),
        name: operation.name.clone(),
        pod_id: operation.pod_sandbox_id.clone(),
        container_id: operation.container_id.clone(),
        began: instant(operation.began_at),
        age_ms: millis(operation.age_nanos),
        waiting_clients: operation.waiting,
        steps: operation
            .steps
            .iter()
            .map(|step| StepValue {
                name: step.name.clone(),
                age_ms: millis(step.age_nanos),
                awaits: step.awaits.clone(),
            })
            .collect(),
    };
    Ok(Row {
        cells: vec![
            Cell::toned(&operation.kind, Tone::Name),
            operation.name.as_str().into(),
            oldest
                .map_or("-".to_owned(), |step| format!("{}{more}", step.name))
                .into(),
            oldest
                .map_or(String::new(), |step| took(Duration::from_nanos(step.age_nanos)))
                .into(),
            Cell::toned(took(age), if age > LONG { Tone::Costs } else { Tone::Plain }),
            oldest.map_or("", |step| step.awaits.as_str()).into(),
            clients(operation.waiting).into(),
            operation.id.to_string().into(),
            super::lists::id(&operation.pod_sandbox_id, args.pick.no_trunc).into(),
        ],
        value: serde_json::to_value(value)?,
        name: format!("operation/{}", operation.id),
        key: operation.id.to_string(),
    })
}

/// All clients gone is worth a word: the operation goes on, its result is kept for a retry.
fn clients(waiting: u32) -> String {
    if waiting == 0 {
        "none".to_owned()
    } else {
        waiting.to_string()
    }
}

impl Facts for Operation {
    fn facts(&self, key: &str) -> Vec<String> {
        match key {
            "name" => {
                let mut names = vec![self.name.clone()];
                names.extend(self.name.rsplit('/').next().map(str::to_owned));
                names
            }
            "kind" => vec![self.kind.clone()],
            "pod" => vec![
                find::short(&self.pod_sandbox_id).to_owned(),
                self.pod_sandbox_id.clone(),
            ],
            "id" => vec![self.id.to_string()],
            "step" => self.steps.iter().map(|step| step.name.clone()).collect(),
            _ => Vec::new(),
        }
    }
}
