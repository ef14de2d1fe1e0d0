//! What was measured, as a table: a pod, and its containers below it.

use serde_json::{Value, json};

use super::sample::Usage;
use crate::commands::find;
use crate::terminal::{Cell, Column, Cut, Listing, Row, Screen, Tone, bytes, cores, instant, rate, share};

/// Cells of the meter.
const METER: usize = 10;

/// The table. `machine_cores` makes a meter beside the processor time, for a live view.
pub(super) fn listing(pods: &[Usage], screen: &Screen, machine_cores: Option<usize>) -> Listing {
    let mut columns = vec![Column::new("NAME").cut(Cut::End), Column::new("CPU").right()];
    if machine_cores.is_some() {
        columns.push(Column::new("OF NODE").rank(9));
    }
    columns.extend([
        Column::new("MEMORY").right(),
        Column::new("OF LIMIT").rank(4).right(),
        Column::new("DISK").rank(5).right(),
        Column::new("RX").rank(6).right(),
        Column::new("TX").rank(6).right(),
        Column::new("CPU WAIT").rank(1).right(),
        Column::new("MEM WAIT").rank(2).right(),
        Column::new("IO WAIT").rank(3).right(),
        Column::new("PROCS").rank(8).right(),
        Column::new("AGE").rank(7).right(),
        Column::new("NAMESPACE").wide(),
        Column::new("ID").wide(),
    ]);
    let mut rows = Vec::new();
    for pod in pods {
        rows.push(row(pod, screen, machine_cores));
        rows.extend(pod.containers.iter().map(|one| row(one, screen, machine_cores)));
    }
    Listing {
        columns,
        rows,
        nothing: "there is no pod on this node, or none of those asked for".to_owned(),
    }
}

fn row(usage: &Usage, screen: &Screen, machine_cores: Option<usize>) -> Row {
    let of_pod = usage.pod.is_empty();
    let name = match (of_pod, screen.plain) {
        (true, true) => format!("pod {}", usage.name),
        (true, false) => usage.name.clone(),
        (false, true) => format!("container {} of pod {}", usage.name, usage.pod),
        (false, false) => format!("  {}", usage.name),
    };
    let tone = if of_pod { Tone::Name } else { Tone::Plain };
    let number = |value: Option<u64>, form: fn(u64) -> String| Cell::from(value.map_or("-".to_owned(), form));
    let mut cells = vec![Cell::toned(name, tone), number(usage.nano_cores, cores)];
    if let Some(machine) = machine_cores {
        let part = usage.nano_cores.unwrap_or(0) as f64 / 1e9 / machine.max(1) as f64;
        let tone = if of_pod { Tone::Picture } else { Tone::Faint };
        cells.push(Cell::toned(meter(part), tone));
    }
    cells.extend([
        number(usage.memory, bytes),
        of_limit(usage),
        number(usage.disk, bytes),
        number(usage.received, rate),
        number(usage.sent, rate),
    ]);
    cells.extend(usage.pressure.map(waited));
    cells.extend([
        number(usage.processes, |count| count.to_string()),
        screen.clock.ago(usage.created_at).into(),
        usage.namespace.as_str().into(),
        find::short(&usage.id).into(),
    ]);
    Row {
        cells,
        value: value(usage),
        name: if of_pod {
            format!("pod/{}/{}", usage.namespace, usage.name)
        } else {
            format!("container/{}/{}/{}", usage.namespace, usage.pod, usage.name)
        },
        key: usage.id.clone(),
    }
}

/// A share in tenths, each in halves.
fn meter(part: f64) -> String {
    let halves = (part.clamp(0.0, 1.0) * (2 * METER) as f64).round() as usize;
    let (full, half) = (halves / 2, halves % 2);
    format!(
        "{}{}{}",
        "━".repeat(full),
        "╸".repeat(half),
        " ".repeat(METER - full - half)
    )
}

fn of_limit(usage: &Usage) -> Cell {
    let Some((used, limit)) = usage.memory.zip(usage.memory_limit) else {
        return "-".into();
    };
    let percent = used as f64 * 100.0 / limit.max(1) as f64;
    let tone = match percent {
        90.0.. => Tone::Bad,
        75.0.. => Tone::Costs,
        _ => Tone::Plain,
    };
    Cell::toned(share(percent), tone)
}

fn waited(percent: Option<f64>) -> Cell {
    let Some(percent) = percent else {
        return "-".into();
    };
    let tone = match percent {
        40.0.. => Tone::Bad,
        10.0.. => Tone::Costs,
        _ => Tone::Plain,
    };
    Cell::toned(share(percent), tone)
}

fn value(usage: &Usage) -> Value {
    let mut value = json!({
        "kind": if usage.pod.is_empty() { "pod" } else { "container" },
        "id": usage.id,
        "name": usage.name,
        "namespace": usage.namespace,
        "created": instant(usage.created_at),
        "cpu_nano_cores": usage.nano_cores,
        "memory_bytes": usage.memory,
        "memory_limit_bytes": usage.memory_limit,
        "disk_bytes": usage.disk,
        "pressure_percent": {
            "cpu": usage.pressure[0],
            "memory": usage.pressure[1],
            "io": usage.pressure[2],
        },
    });
    if usage.pod.is_empty() {
        value["received_bytes_per_second"] = json!(usage.received);
        value["sent_bytes_per_second"] = json!(usage.sent);
        value["processes"] = json!(usage.processes);
    } else {
        value["pod"] = json!(usage.pod);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::{NOW, SECOND, forms};

    fn usage(name: &str, pod: &str, seconds: i64) -> Usage {
        Usage {
            id: name[..1].repeat(64),
            name: name.to_owned(),
            pod: pod.to_owned(),
            namespace: "shop".to_owned(),
            created_at: NOW - seconds * SECOND,
            nano_cores: Some(1_250_000_000),
            memory: Some(200 << 20),
            memory_limit: Some(256 << 20),
            disk: Some(12 << 10),
            pressure: [Some(0.0), Some(41.5), Some(12.0)],
            ..Usage::default()
        }
    }

    fn pods() -> Vec<Usage> {
        let mut web = usage("web-7d9c5b8f6d-x2x7k", "", 3_700);
        (web.received, web.sent, web.processes) = (Some(1 << 20), Some(900), Some(12));
        web.containers = vec![usage("nginx", &web.name, 3_600)];
        // Of which the runtime says nothing.
        let silent = Usage {
            id: "f".repeat(64),
            name: "evil\u{1b}[31m".to_owned(),
            namespace: "default".to_owned(),
            ..Usage::default()
        };
        vec![web, silent]
    }

    #[test]
    fn what_pods_use_in_every_form() {
        insta::assert_snapshot!(forms(|screen| screen.listing(&listing(&pods(), screen, None))));
    }

    #[test]
    fn the_live_table_has_a_meter() {
        insta::assert_snapshot!(forms(|screen| {
            Ok(screen.raw(&screen.table_text(&listing(&pods(), screen, Some(4))))?)
        }));
    }

    #[test]
    fn a_meter_is_always_as_wide() {
        for part in [0.0, 0.02, 0.04, 0.5, 0.97, 1.0, 7.0, f64::NAN] {
            assert_eq!(meter(part).chars().count(), METER, "{part}");
        }
        assert_eq!(meter(0.25), "━━╸       ");
    }
}
