//! `audit`: the difference between the books and the kernel.

use std::process::ExitCode;

use coracle_proto::admin::{AuditRequest, Difference};
use coracle_proto::client::{Client, ClientError};
use serde::Serialize;

use super::find;
use crate::cli::Output;
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Status, Tone};

const COLUMNS: [Column; 5] = [
    Column::new("FOUND"),
    Column::new("KIND").cut(Cut::End),
    Column::new("OBJECT").cut(Cut::Begin),
    Column::new("OWNER").rank(2),
    Column::new("REMEDY").rank(1).cut(Cut::End),
];

#[derive(Serialize)]
struct Finding {
    difference: &'static str,
    kind: String,
    object: String,
    owner: String,
    remedy: String,
}

/// Shows the difference; fails when there is one.
pub(crate) async fn show(client: &Client, screen: &Screen) -> anyhow::Result<ExitCode> {
    let reply = client
        .admin()
        .audit(AuditRequest {})
        .await
        .map_err(ClientError::of("Audit"))?;
    tell(reply.into_inner().findings, screen)
}

fn tell(findings: Vec<coracle_proto::admin::Finding>, screen: &Screen) -> anyhow::Result<ExitCode> {
    if findings.is_empty() && matches!(screen.output, Output::Table | Output::Wide) {
        screen.line("nothing leaked, nothing missing")?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = findings.into_iter().map(row).collect::<Result<_, _>>()?;
    let well = rows.is_empty();
    screen.listing(&Listing {
        columns: COLUMNS.to_vec(),
        rows,
        nothing: String::new(),
    })?;
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        Status::Failed.into()
    })
}

fn row(finding: coracle_proto::admin::Finding) -> anyhow::Result<Row> {
    let (difference, tone) = match finding.difference() {
        Difference::Leaked => ("leaked", Tone::Costs),
        Difference::Missing => ("missing", Tone::Bad),
        Difference::Unspecified => ("unknown", Tone::Costs),
    };
    let found = Finding {
        difference,
        kind: finding.kind,
        object: finding.object,
        owner: finding.owner,
        remedy: finding.remedy,
    };
    Ok(Row {
        cells: vec![
            Cell::toned(difference, tone),
            found.kind.as_str().into(),
            found.object.as_str().into(),
            find::short(&found.owner).into(),
            found.remedy.as_str().into(),
        ],
        name: format!("{}/{}", found.kind, found.object),
        key: format!("{} {}", found.kind, found.object),
        value: serde_json::to_value(found)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::forms;

    #[test]
    fn a_difference_in_every_form() {
        let finding = |difference: Difference, kind: &str, object: &str, owner: &str, remedy: &str| {
            coracle_proto::admin::Finding {
                difference: difference.into(),
                kind: kind.to_owned(),
                object: object.to_owned(),
                owner: owner.to_owned(),
                remedy: remedy.to_owned(),
            }
        };
        let findings = [
            finding(
                Difference::Leaked,
                "network namespace",
                "/run/netns/coracle-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
                "",
                "no pod owns it: ip netns delete",
            ),
            finding(
                Difference::Missing,
                "cgroup",
                "/kubepods/pod1/c",
                &"a".repeat(64),
                "stop the pod: its container runs without limits",
            ),
        ];
        insta::assert_snapshot!(forms(|screen| tell(findings.to_vec(), screen).map(drop)));
    }

    #[test]
    fn no_difference_in_every_form() {
        insta::assert_snapshot!(forms(|screen| tell(Vec::new(), screen).map(drop)));
    }
}
