//! The steps as lines of text: name, duration, and a bar where each lies in the whole.

use super::{Calls, Step, tone_of};
use crate::terminal::Screen;

/// Columns of the picture, when there is room.
const WIDEST: usize = 40;
/// Less than this tells nothing.
const LEAST: usize = 8;

/// A line a step. Time in which the runtime was not asked for anything is cut out and said so.
pub(super) fn lines(steps: &[Step], screen: &Screen) -> Vec<String> {
    let calls = Calls::of(steps);
    let busy = calls.busy_ms();
    let names = steps
        .iter()
        .map(|step| step.name.len())
        .max()
        .unwrap_or(0)
        .max(18);
    let taken = names + "  0000.00 ms  ".len();
    let room = screen
        .width
        .map_or(WIDEST, |width| width.saturating_sub(taken).min(WIDEST));
    let scale = |ms: f64| ((ms / busy.max(1e-6) * room as f64).round() as usize).min(room);
    let mut lines = Vec::new();
    for (step, begin) in calls.placed() {
        let took = step
            .took_ms
            .map_or("   running".to_owned(), |took| format!("{took:>7.2} ms"));
        let mut line = format!("{:<names$} {took}", step.name);
        if screen.plain {
            line = match step.took_ms {
                Some(took) => format!("{}: begins at {begin:.2} ms, takes {took:.2} ms", step.name),
                None => format!("{}: begins at {begin:.2} ms, still runs", step.name),
            };
        } else if room >= LEAST {
            let offset = scale(begin).min(room - 1);
            let bar = step
                .took_ms
                .map_or(1, |took| scale(took).max(1))
                .min(room - offset);
            let bar = screen.paint(&"█".repeat(bar), tone_of(step.operation()));
            line = format!("{line}  {}{bar}", " ".repeat(offset));
        }
        lines.push(line);
    }
    lines.push(if screen.plain {
        format!("total: {busy:.2} ms in the runtime")
    } else {
        let total = format!("{:<names$} {busy:>7.2} ms", "total");
        let where_to = "  in the runtime";
        let fits = screen
            .width
            .is_none_or(|width| total.len() + where_to.len() <= width);
        total + if fits { where_to } else { "" }
    });
    lines
}

#[cfg(test)]
mod tests {
    use super::super::step;
    use super::*;
    use crate::cli::Output;
    use crate::terminal::Clock;

    #[test]
    fn the_time_between_two_calls_is_cut_out() {
        let steps = [
            step("run.shim", 0.0, Some(1.0)),
            step("run.network", 0.5, Some(1.5)),
            step("start.exec", 500.0, Some(2.0)),
            step("start.wait", 502.0, None),
        ];
        let mut screen = Screen::to(Box::new(std::io::sink()), Output::Table, None, Clock::Running);
        let expected = [
            "run.shim              1.00 ms  ██████████",
            "run.network           1.50 ms       ███████████████",
            "start.exec            2.00 ms                      ████████████████████",
            "start.wait            running                                         █",
            "total                 4.00 ms  in the runtime",
        ];
        assert_eq!(lines(&steps, &screen), expected);
        screen.width = Some(30);
        assert_eq!(lines(&steps, &screen)[0], "run.shim              1.00 ms");
        screen.plain = true;
        assert_eq!(
            lines(&steps, &screen)[3],
            "start.wait: begins at 4.00 ms, still runs"
        );
    }
}
