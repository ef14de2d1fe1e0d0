//! The steps as a picture: one SVG without anything from elsewhere, for light and dark, readable aloud.

use std::fmt::Write;

use super::{Calls, Step, span};

const WIDTH: f64 = 920.0;
const MARGIN: f64 = 28.0;
const NAMES: f64 = 190.0;
const TIMES: f64 = 84.0;
const ROW: f64 = 24.0;
const BAR: f64 = 12.0;
const HEAD: f64 = 92.0;
const GROUP: f64 = 30.0;

/// Plain rules, no variables: every viewer understands them.
const STYLE: &str = "\
text{font-family:ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-size:13px}\
.title{font-size:20px;font-weight:600}.small{font-size:11px}.ms{font-variant-numeric:tabular-nums}\
.name{font-family:ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono',monospace;font-size:12px}\
.call{font-weight:600}.grid{stroke-width:1}.cut{stroke-width:1;stroke-dasharray:2 3}\
text{fill:#1d2430}.paper{fill:#ffffff}.soft{fill:#667085}.grid{stroke:#e6e9ef}.cut{stroke:#667085}.run{fill:#2f7fd8}.create{fill:#8a5cd6}.start{fill:#1f9d6b}.other{fill:#8893a5}\
@media (prefers-color-scheme:dark){text{fill:#e8ecf2}.paper{fill:#12161d}.soft{fill:#95a0b3}.grid{stroke:#262d39}.cut{stroke:#95a0b3}.run{fill:#5aa7f5}.create{fill:#b18cf2}.start{fill:#45c794}.other{fill:#6f7b8f}}";

/// The picture of a start.
pub(super) fn picture(pod: &str, steps: &[Step]) -> String {
    let calls = Calls::of(steps);
    let busy = calls.busy_ms();
    let rows = steps.len() as f64 * ROW + calls.calls.len() as f64 * GROUP;
    let height = HEAD + rows + 30.0;
    let axis = Axis::over(busy);
    let pod = escape(pod);
    let mut svg = String::new();
    let mut put = |text: &str| {
        svg.push_str(text);
        svg.push('\n');
    };
    put(&format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title desc\">"
    ));
    put(&format!(
        "<title id=\"title\">The start of pod {pod}: {busy:.1} ms in the runtime</title>"
    ));
    put(&format!(
        "<desc id=\"desc\">{}</desc>",
        escape(&told(&calls, steps))
    ));
    put(&format!("<style>{STYLE}</style>"));
    put(&format!(
        "<rect width=\"{WIDTH}\" height=\"{height}\" rx=\"10\" class=\"paper\"/>"
    ));
    put(&format!(
        "<text class=\"title\" x=\"{MARGIN}\" y=\"42\">{pod}</text>"
    ));
    put(&format!(
        "<text class=\"soft\" x=\"{MARGIN}\" y=\"64\">{busy:.1} ms in the runtime, {} steps in {} calls; \
         time between calls is cut out</text>",
        steps.len(),
        calls.calls.len()
    ));
    put(&grid(&axis, height));
    put(&bars(&calls, &axis));
    put("</svg>");
    svg
}

/// Where milliseconds lie.
struct Axis {
    per_ms: f64,
    tick: f64,
    end: f64,
}

impl Axis {
    fn over(busy: f64) -> Self {
        let room = WIDTH - 2.0 * MARGIN - NAMES - TIMES;
        let end = busy.max(1e-3);
        let rough = end / 6.0;
        let power = 10_f64.powf(rough.log10().floor());
        let tick = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|tick| *tick >= rough)
            .unwrap_or(rough);
        Self {
            per_ms: room / end,
            tick,
            end,
        }
    }

    fn x(&self, ms: f64) -> f64 {
        MARGIN + NAMES + ms * self.per_ms
    }
}

fn grid(axis: &Axis, height: f64) -> String {
    let mut grid = String::from("<g aria-hidden=\"true\">");
    let mut ms = 0.0;
    while ms <= axis.end + axis.tick * 1e-6 {
        let x = axis.x(ms);
        // Writing to a string does not fail, here and below.
        let _ = write!(
            grid,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{HEAD}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>\
             <text class=\"soft small ms\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            height - 24.0,
            HEAD - 6.0,
            number(ms, axis.tick)
        );
        ms += axis.tick;
    }
    grid.push_str("</g>");
    grid
}

fn number(ms: f64, tick: f64) -> String {
    if tick >= 1.0 {
        format!("{ms:.0} ms")
    } else {
        format!("{ms:.1} ms")
    }
}

fn bars(calls: &Calls<'_>, axis: &Axis) -> String {
    let mut text = String::new();
    let mut y = HEAD + 4.0;
    let mut placed = calls.placed().into_iter();
    for (place, call) in calls.calls.iter().enumerate() {
        let operation = call.first().map_or("", |step| step.operation());
        let class = class_of(operation);
        let _ = write!(
            text,
            "<g><text class=\"call {class}\" x=\"{MARGIN}\" y=\"{:.1}\">{}</text>\
             <text class=\"soft small ms\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.2} ms</text>",
            y + 19.0,
            escape(&call_name(operation)),
            WIDTH - MARGIN,
            y + 19.0,
            span(call)
        );
        if place > 0
            && let Some((_, begin)) = placed.as_slice().first()
        {
            let x = axis.x(*begin);
            let _ = write!(
                text,
                "<line class=\"cut\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{x:.1}\" y2=\"{:.1}\"/>",
                y + 4.0,
                y + GROUP - 4.0
            );
        }
        y += GROUP;
        for (step, begin) in placed.by_ref().take(call.len()) {
            text.push_str(&row(step, begin, class, y, axis));
            y += ROW;
        }
        text.push_str("</g>\n");
    }
    text
}

fn row(step: &Step, begin: f64, class: &str, y: f64, axis: &Axis) -> String {
    let name = step
        .name
        .split_once('.')
        .map_or(step.name.as_str(), |(_, name)| name);
    let took = step
        .took_ms
        .map_or("runs".to_owned(), |took| format!("{took:.2} ms"));
    let x = axis.x(begin);
    let wide = (step.took_ms.unwrap_or(axis.end - begin) * axis.per_ms).max(2.0);
    format!(
        "<g><title>{full}: from {begin:.2} ms, {took}</title>\
         <text class=\"name\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\
         <rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\" width=\"{wide:.1}\" height=\"{BAR}\" rx=\"3\"{}/>\
         <text class=\"ms small\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{took}</text></g>\n",
        MARGIN + 14.0,
        y + 16.0,
        escape(name),
        y + (ROW - BAR) / 2.0,
        if step.took_ms.is_none() {
            " opacity=\"0.4\""
        } else {
            ""
        },
        WIDTH - MARGIN,
        y + 16.0,
        full = escape(&step.name),
    )
}

/// The whole in words, for those who listen.
fn told(calls: &Calls<'_>, steps: &[Step]) -> String {
    let each = calls.calls.iter().map(|call| {
        let operation = call.first().map_or("", |step| step.operation());
        format!("{} took {:.2} ms", call_name(operation), span(call))
    });
    let slowest = steps
        .iter()
        .max_by(|a, b| a.took_ms.unwrap_or(0.0).total_cmp(&b.took_ms.unwrap_or(0.0)));
    let slowest = slowest.map_or(String::new(), |step| {
        format!(
            " The longest step is {} with {:.2} ms.",
            step.name,
            step.took_ms.unwrap_or(0.0)
        )
    });
    format!("{}.{slowest}", each.collect::<Vec<_>>().join("; "))
}

fn call_name(operation: &str) -> String {
    match operation {
        "run" => "RunPodSandbox".to_owned(),
        "create" => "CreateContainer".to_owned(),
        "start" => "StartContainer".to_owned(),
        other => other.to_owned(),
    }
}

fn class_of(operation: &str) -> &'static str {
    match operation {
        "run" => "run",
        "create" => "create",
        "start" => "start",
        _ => "other",
    }
}

fn escape(text: &str) -> String {
    crate::terminal::clean(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::step;
    use super::*;

    #[test]
    fn the_picture_tells_in_words_what_it_draws_and_trusts_no_name() {
        let steps = [
            step("run.shim", 0.0, Some(1.0)),
            step("run.network", 0.5, Some(1.5)),
            step("start.<exec>", 500.0, Some(2.0)),
            step("start.wait", 502.0, None),
        ];
        let picture = picture("default/a&b\u{1b}[1m", &steps);
        assert!(picture.contains("<title id=\"title\">The start of pod default/a&amp;b"));
        assert!(picture.contains("RunPodSandbox took 2.00 ms; StartContainer took 2.00 ms."));
        assert!(picture.contains("The longest step is start.&lt;exec&gt; with 2.00 ms."));
        assert!(!picture.contains('\u{1b}') && !picture.contains("<exec>"));
        assert_eq!(
            picture.matches("<g>").count(),
            picture.matches("</g>").count() - 1
        );
        insta::assert_snapshot!(picture);
    }
}
