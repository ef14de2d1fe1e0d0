//! `doctor`: what this node has, what its lack costs, and what to do.

mod subject;

use std::process::ExitCode;

use coracle_doctor::{Finding, State, Topic};
use serde::Serialize;

use crate::cli::{DoctorArgs, DoctorTopic, Global, Output};
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Status, Tone};

const COLUMNS: [Column; 6] = [
    Column::new("STATE"),
    Column::new("PART").rank(2),
    Column::new("WHAT").cut(Cut::End),
    Column::new("SEEN").rank(1).cut(Cut::End),
    Column::new("COSTS").wide(),
    Column::new("REMEDY").wide(),
];

#[derive(Serialize)]
struct Value {
    topic: &'static str,
    name: &'static str,
    state: &'static str,
    seen: String,
    cost: String,
    remedy: String,
}

/// Examines the node; fails when something is broken.
pub(crate) async fn run(args: &DoctorArgs, global: &Global, screen: &Screen) -> anyhow::Result<ExitCode> {
    let subject = subject::gather(args, global).await;
    let topics: Vec<_> = args.topics.iter().map(|topic| part(*topic)).collect();
    let findings = coracle_doctor::examine(&subject, &topics);
    show(&findings, args.problems, screen)?;
    let broken = findings.iter().any(|finding| finding.state == State::Broken);
    Ok(if broken {
        Status::Failed.into()
    } else {
        ExitCode::SUCCESS
    })
}

fn part(topic: DoctorTopic) -> Topic {
    match topic {
        DoctorTopic::Configuration => Topic::Configuration,
        DoctorTopic::Kernel => Topic::Kernel,
        DoctorTopic::Cgroups => Topic::Cgroups,
        DoctorTopic::Network => Topic::Network,
        DoctorTopic::Storage => Topic::Storage,
        DoctorTopic::Sockets => Topic::Sockets,
        DoctorTopic::Limits => Topic::Limits,
        DoctorTopic::Security => Topic::Security,
        DoctorTopic::System => Topic::System,
    }
}

fn show(findings: &[Finding], problems: bool, screen: &Screen) -> anyhow::Result<()> {
    let shown: Vec<_> = findings
        .iter()
        .filter(|finding| !problems || finding.state != State::Ok)
        .collect();
    if screen.output == Output::Table && !screen.plain {
        return report(&shown, findings, screen);
    }
    let rows = shown
        .iter()
        .map(|finding| row(finding))
        .collect::<Result<_, _>>()?;
    let mut columns = COLUMNS.to_vec();
    if screen.plain {
        // Who listens hears what to do, too.
        columns.iter_mut().for_each(|column| column.wide = false);
    }
    screen.listing(&Listing {
        columns,
        rows,
        nothing: "nothing to complain of".to_owned(),
    })
}

fn row(finding: &Finding) -> anyhow::Result<Row> {
    let value = Value {
        topic: finding.topic.word(),
        name: finding.name,
        state: finding.state.word(),
        seen: finding.seen.clone(),
        cost: finding.cost.clone(),
        remedy: finding.remedy.clone(),
    };
    let key = format!("{}/{}", finding.topic.word(), finding.name);
    Ok(Row {
        cells: vec![
            Cell::toned(finding.state.word(), tone(finding.state)),
            finding.topic.word().into(),
            Cell::toned(finding.name, Tone::Name),
            finding.seen.as_str().into(),
            finding.cost.as_str().into(),
            finding.remedy.as_str().into(),
        ],
        value: serde_json::to_value(value)?,
        name: key.clone(),
        key,
    })
}

fn tone(state: State) -> Tone {
    match state {
        State::Ok => Tone::Good,
        State::Unknown => Tone::Faint,
        State::Costs => Tone::Costs,
        State::Broken => Tone::Bad,
    }
}

/// For people: a part a paragraph, a line a finding, and below those that are not well why and what to do.
fn report(shown: &[&Finding], all: &[Finding], screen: &Screen) -> anyhow::Result<()> {
    let names = shown.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let narrow = screen.width.is_some_and(|width| width < names + 40);
    for part in shown.chunk_by(|a, b| a.topic == b.topic) {
        if let Some(first) = part.first() {
            screen.line(screen.paint(first.topic.word(), Tone::Heading))?;
        }
        for finding in part {
            let state = format!("{} {:<7}", finding.state.sign(), finding.state.word());
            let state = screen.paint(&state, tone(finding.state));
            if narrow {
                screen.line(format!("  {state}  {}", finding.name))?;
                screen.wrapped(&finding.seen, "             ", Tone::Plain)?;
            } else {
                let indent = " ".repeat(names + 15);
                let lines = screen.wrap(&finding.seen, names + 15);
                let first = lines.first().map_or("", String::as_str);
                screen.line(format!("  {state}  {:<names$}  {first}", finding.name))?;
                for line in lines.iter().skip(1) {
                    screen.line(format!("{indent}{line}"))?;
                }
            }
            if !finding.cost.is_empty() {
                let word = if finding.state == State::Unknown {
                    "why"
                } else {
                    "costs"
                };
                screen.wrapped(&format!("{word}: {}", finding.cost), "             ", Tone::Faint)?;
            }
            if !finding.remedy.is_empty() {
                screen.wrapped(&format!("do: {}", finding.remedy), "             ", Tone::Faint)?;
            }
        }
        screen.line("")?;
    }
    let count = |state: State| all.iter().filter(|finding| finding.state == state).count();
    let mut words = vec![format!("{} ok", count(State::Ok))];
    words.push(format!("{} cost something", count(State::Costs)));
    words.push(format!("{} broken", count(State::Broken)));
    if count(State::Unknown) > 0 {
        words.push(format!("{} unknown", count(State::Unknown)));
    }
    Ok(screen.wrapped(&words.join(", "), "", Tone::Plain)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::forms;

    fn finding(topic: Topic, name: &'static str, state: State, words: [&str; 3]) -> Finding {
        let [seen, cost, remedy] = words.map(str::to_owned);
        Finding {
            topic,
            name,
            state,
            seen,
            cost,
            remedy,
        }
    }

    fn findings() -> Vec<Finding> {
        vec![
            finding(
                Topic::Configuration,
                "source",
                State::Broken,
                [
                    "/etc/coracle/config.toml:2: rooot: unknown key: did you mean root?",
                    "a daemon that starts now refuses to; one that runs goes on with what it has",
                    "coracle config check says file, line and remedy of each mistake",
                ],
            ),
            finding(Topic::Kernel, "version", State::Ok, ["6.1.0", "", ""]),
            finding(
                Topic::Cgroups,
                "version",
                State::Costs,
                [
                    "1, with 2 beside it (hybrid)",
                    "no memory.high, no pressure of a pod, slower starts",
                    "boot with systemd.unified_cgroup_hierarchy=1",
                ],
            ),
            finding(
                Topic::Cgroups,
                "may be written",
                State::Unknown,
                ["not tried", "this user is not root", "run this as root"],
            ),
        ]
    }

    #[test]
    fn findings_in_every_form() {
        insta::assert_snapshot!(forms(|screen| show(&findings(), false, screen)));
    }

    #[test]
    fn problems_alone_are_shown_and_all_are_counted() {
        insta::assert_snapshot!(forms(|screen| show(&findings(), true, screen)));
    }
}
