//! `explain` and `audit`: what only this runtime can tell.

use std::process::ExitCode;
use std::time::Duration;

use coracle_proto::admin::{AuditRequest, Difference, ExplainRequest};
use coracle_proto::client::{Client, ClientError};
use serde::Serialize;

use super::find;
use crate::cli::Output;
use crate::terminal;

/// Columns of the waterfall's picture.
const WIDTH: u64 = 40;

#[derive(Serialize)]
struct StepRow {
    name: String,
    start_ms: f64,
    took_ms: Option<f64>,
}

/// Shows the steps of a pod's start.
pub(crate) async fn show(client: &Client, text: &str, output: Output) -> anyhow::Result<()> {
    let pod_sandbox_id = find::pod(client, text).await?;
    let reply = client
        .admin()
        .explain(ExplainRequest { pod_sandbox_id })
        .await
        .map_err(ClientError::of("Explain"));
    let steps = reply.map_err(super::needs_coracle)?.into_inner().steps;
    let millis = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    let rows: Vec<_> = steps
        .into_iter()
        .map(|step| StepRow {
            name: step.name,
            start_ms: millis(step.start_nanos),
            took_ms: step.took_nanos.map(millis),
        })
        .collect();
    if output == Output::Json {
        return terminal::json(&rows);
    }
    for line in waterfall(&rows) {
        terminal::line(line);
    }
    Ok(())
}

/// A line a step: name, beginning, duration, and a bar where it lies in the whole. Time in which the
/// runtime was not asked for anything (between two calls of the kubelet) is cut out and said so.
fn waterfall(rows: &[StepRow]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut groups: Vec<&[StepRow]> = Vec::new();
    let operation = |row: &StepRow| row.name.split('.').next().unwrap_or_default().to_owned();
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let name = operation(first);
        let length = rest.iter().take_while(|row| operation(row) == name).count();
        let (group, tail) = rest.split_at(length);
        groups.push(group);
        rest = tail;
    }
    let busy: f64 = groups.iter().map(|group| span(group)).sum();
    let scale = |ms: f64| {
        (ms / busy.max(1e-6) * WIDTH as f64)
            .round()
            .clamp(0.0, WIDTH as f64) as usize
    };
    let mut before = 0.0;
    for group in groups {
        let begin = group.first().map_or(0.0, |row| row.start_ms);
        for row in group {
            let offset = scale(before + row.start_ms - begin).min(WIDTH as usize - 1);
            let bar = row
                .took_ms
                .map_or(1, |took| scale(took).max(1))
                .min(WIDTH as usize - offset);
            let took = row
                .took_ms
                .map_or("   running".to_owned(), |took| format!("{took:>7.2} ms"));
            let picture = format!("{}{}", " ".repeat(offset), "█".repeat(bar));
            lines.push(
                format!("{:<18} {took}  {picture}", row.name)
                    .trim_end()
                    .to_owned(),
            );
        }
        before += span(group);
    }
    lines.push(format!("{:<18} {busy:>7.2} ms  in the runtime", "total"));
    lines
}

fn span(group: &[StepRow]) -> f64 {
    let begin = group.first().map_or(0.0, |row| row.start_ms);
    group
        .iter()
        .map(|row| row.start_ms + row.took_ms.unwrap_or(0.0) - begin)
        .fold(0.0, f64::max)
}

#[derive(Serialize)]
struct FindingRow {
    difference: &'static str,
    kind: String,
    object: String,
    owner: String,
    remedy: String,
}

/// Shows the difference between ledgers and kernel; fails when there is one.
pub(crate) async fn audit(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let reply = client
        .admin()
        .audit(AuditRequest {})
        .await
        .map_err(ClientError::of("Audit"));
    let findings = reply.map_err(super::needs_coracle)?.into_inner().findings;
    let rows: Vec<_> = findings
        .into_iter()
        .map(|finding| FindingRow {
            difference: match finding.difference() {
                Difference::Leaked => "leaked",
                Difference::Missing => "missing",
                Difference::Unspecified => "unknown",
            },
            kind: finding.kind,
            object: finding.object,
            owner: finding.owner,
            remedy: finding.remedy,
        })
        .collect();
    if output == Output::Json {
        terminal::json(&rows)?;
    } else if rows.is_empty() {
        terminal::line("nothing leaked, nothing missing");
    } else {
        terminal::table(
            ["FOUND", "KIND", "OBJECT", "OWNER", "REMEDY"],
            rows.iter().map(|row| {
                let owner = row.owner.get(..13).unwrap_or(&row.owner).to_owned();
                [
                    row.difference.to_owned(),
                    row.kind.clone(),
                    row.object.clone(),
                    owner,
                    row.remedy.clone(),
                ]
            }),
        );
    }
    Ok(if rows.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, start_ms: f64, took_ms: Option<f64>) -> StepRow {
        StepRow {
            name: name.to_owned(),
            start_ms,
            took_ms,
        }
    }

    #[test]
    fn the_time_between_two_calls_is_cut_out() {
        let rows = [
            row("run.shim", 0.0, Some(1.0)),
            row("run.network", 0.5, Some(1.5)),
            row("start.exec", 500.0, Some(2.0)),
            row("start.wait", 502.0, None),
        ];
        let expected = [
            "run.shim              1.00 ms  ██████████",
            "run.network           1.50 ms       ███████████████",
            "start.exec            2.00 ms                      ████████████████████",
            "start.wait            running                                         █",
            "total                 4.00 ms  in the runtime",
        ];
        assert_eq!(waterfall(&rows), expected);
    }
}
