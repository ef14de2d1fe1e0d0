//! `--watch`: a list, and then a line for each change of it.

use std::collections::HashMap;
use std::time::Duration;

use coracle_proto::client::Client;
use coracle_proto::cri::{ContainerEventResponse, GetEventsRequest};
use serde_json::{Value, json};
use tonic::Streaming;

use crate::cli::Output;
use crate::terminal::{Cell, Column, Listing, Row, Screen, Table, Tone, clean};

/// Between two looks, when nothing tells of a change.
const PAUSE: Duration = Duration::from_secs(1);
/// What happens at once is shown at once: a pod's start is several events.
const GATHER: Duration = Duration::from_millis(30);
/// Events that one look answers at most, lest a flood keep it away.
const DRAINED: usize = 10_000;

/// Shows the list that `load` gives: once, or again and again until interrupted.
pub(crate) async fn list(
    client: &Client,
    screen: &Screen,
    watched: bool,
    load: impl AsyncFnMut() -> anyhow::Result<Listing>,
) -> anyhow::Result<()> {
    if watched {
        return watch(client, screen, load).await;
    }
    let mut load = load;
    screen.listing(&load().await?)
}

async fn watch(
    client: &Client,
    screen: &Screen,
    mut load: impl AsyncFnMut() -> anyhow::Result<Listing>,
) -> anyhow::Result<()> {
    // Asked before the first look, so that nothing falls between.
    let mut events = Events::open(client).await;
    let mut seen = Changes::default();
    let mut table = None;
    loop {
        let listing = load().await?;
        let changes = seen.take(&listing.rows);
        if table.is_none() || !changes.is_empty() {
            let table = table.get_or_insert_with(|| heading(screen, &listing));
            for (change, row) in &changes {
                show(screen, table, change, row)?;
            }
        }
        events.wait().await;
    }
}

fn heading(screen: &Screen, listing: &Listing) -> Table {
    let mut wider = listing.clone();
    wider.columns.insert(0, Column::new("CHANGE"));
    for row in &mut wider.rows {
        row.cells.insert(0, Cell::from("changed"));
    }
    let table = Table::of(screen, &wider);
    if matches!(screen.output, Output::Table | Output::Wide) {
        // A closed pipe shows at the next line.
        let _ = screen.raw(&table.heading(screen));
    }
    table
}

fn show(screen: &Screen, table: &Table, change: &'static str, row: &Row) -> anyhow::Result<()> {
    match screen.output {
        Output::Json | Output::Yaml => {
            let mut value = row.value.clone();
            if let Value::Object(fields) = &mut value {
                fields.insert("change".to_owned(), json!(change));
            }
            screen.item(&value)
        }
        Output::Name => Ok(screen.line(format!("{change} {}", clean(&row.name)))?),
        Output::Table | Output::Wide => {
            let tone = match change {
                "new" => Tone::Good,
                "gone" => Tone::Bad,
                "changed" => Tone::Costs,
                _ => Tone::Faint,
            };
            let mut cells = vec![Cell::toned(change, tone)];
            cells.extend(row.cells.iter().cloned());
            Ok(screen.raw(&table.row(screen, &cells))?)
        }
    }
}

/// What was seen last.
#[derive(Default)]
struct Changes {
    known: Option<HashMap<String, Row>>,
}

impl Changes {
    /// What differs from the last look, gone ones last; at the first look everything, as `-`.
    fn take(&mut self, rows: &[Row]) -> Vec<(&'static str, Row)> {
        let first = self.known.is_none();
        let mut before = self.known.take().unwrap_or_default();
        let mut changes = Vec::new();
        for row in rows {
            match before.remove(&row.key) {
                _ if first => changes.push(("-", row.clone())),
                None => changes.push(("new", row.clone())),
                Some(old) if old.value != row.value => changes.push(("changed", row.clone())),
                Some(_) => {}
            }
        }
        let mut gone: Vec<_> = before.into_values().collect();
        gone.sort_by(|a, b| a.key.cmp(&b.key));
        changes.extend(gone.into_iter().map(|row| ("gone", row)));
        self.known = Some(rows.iter().map(|row| (row.key.clone(), row.clone())).collect());
        changes
    }
}

/// The runtime's events, where it tells them.
struct Events(Option<Streaming<ContainerEventResponse>>);

impl Events {
    async fn open(client: &Client) -> Self {
        // A stream whose first word comes with the first event is not waited for.
        let mut runtime = client.runtime();
        let asked = runtime.get_container_events(GetEventsRequest {});
        let answer = tokio::time::timeout(Duration::from_millis(500), asked).await;
        Self(answer.ok().and_then(Result::ok).map(tonic::Response::into_inner))
    }

    /// Until something happened, or the pause is over.
    async fn wait(&mut self) {
        let Some(stream) = &mut self.0 else {
            return tokio::time::sleep(PAUSE).await;
        };
        match tokio::time::timeout(PAUSE, stream.message()).await {
            Ok(Ok(Some(_))) => {
                tokio::time::sleep(GATHER).await;
                // One look answers all that have come meanwhile.
                for _ in 0..DRAINED {
                    match tokio::time::timeout(Duration::ZERO, stream.message()).await {
                        Ok(Ok(Some(_))) => {}
                        // The end is met again by the next wait.
                        _ => break,
                    }
                }
            }
            Ok(_) => {
                self.0 = None;
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, state: &str) -> Row {
        Row {
            cells: Vec::new(),
            value: json!({ "state": state }),
            name: key.to_owned(),
            key: key.to_owned(),
        }
    }

    #[test]
    fn only_what_differs_is_a_change() {
        let mut changes = Changes::default();
        let mut words = |rows: &[Row]| {
            let taken = changes.take(rows);
            taken
                .into_iter()
                .map(|(change, row)| format!("{change} {}", row.name))
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&[row("a", "ready")]), ["- a"]);
        assert!(words(&[row("a", "ready")]).is_empty());
        assert_eq!(
            words(&[row("b", "ready"), row("a", "gone")]),
            ["new b", "changed a"]
        );
        assert_eq!(words(&[]), ["gone a", "gone b"]);
    }
}
