//! What stands on a terminal, as SVG.

use std::fmt::Write;

use vt100::{Cell, Color, Screen};

const CELL: f64 = 8.4;
const LINE: f64 = 19.0;
const MARGIN: f64 = 18.0;
const HEAD: f64 = 40.0;

/// Plain rules, no variables: every viewer understands them.
const STYLE: &str = "\
text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:14px;white-space:pre}\
.b{font-weight:700}.t{font-size:13px}\
text{fill:#232a36}.paper{fill:#fbfcfe;stroke:#d9dee8}.bar{fill:#eef1f6}.d,.t{fill:#727c8e}.c1{fill:#c0392b}.c2{fill:#1b8a5a}.c3{fill:#a86a00}.c4{fill:#2563c9}.c5{fill:#8a4fc7}.c6{fill:#0b7f96}.c8{fill:#c3cad6}\
@media (prefers-color-scheme:dark){text{fill:#e4e9f0}.paper{fill:#11151c;stroke:#2b3340}.bar{fill:#1a202a}.d,.t{fill:#8c97a9}.c1{fill:#ff7b72}.c2{fill:#4fcf94}.c3{fill:#e5b45a}.c4{fill:#7ab2ff}.c5{fill:#c79bff}.c6{fill:#56cfe1}.c8{fill:#3d4757}}";

/// The picture, without the empty lines at the end.
pub(super) fn draw(screen: &Screen, title: &str, description: &str) -> String {
    let (rows, columns) = screen.size();
    let lines: Vec<Vec<Run>> = (0..rows).map(|row| runs(screen, row, columns)).collect();
    let used = lines
        .iter()
        .rposition(|line| !line.is_empty())
        .map_or(1, |last| last + 1);
    let width = f64::from(columns) * CELL + 2.0 * MARGIN;
    let height = HEAD + used as f64 * LINE + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" role=\"img\" aria-labelledby=\"title desc\">\n<title id=\"title\">{}</title>\n\
         <desc id=\"desc\">{}</desc>\n<style>{STYLE}</style>\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{:.0}\" height=\"{:.0}\" rx=\"9\" class=\"paper\"/>\n\
         <path d=\"M1 28V9.5A8.5 8.5 0 0 1 9.5 1H{:.1}A8.5 8.5 0 0 1 {:.1} 9.5V28Z\" class=\"bar\"/>\n\
         <text class=\"t\" x=\"{MARGIN}\" y=\"19\">$ {}</text>\n",
        escape(title),
        escape(description),
        width - 1.0,
        height - 1.0,
        width - 9.5,
        width - 1.0,
        escape(title),
    );
    for (row, line) in lines.iter().take(used).enumerate() {
        let y = HEAD + row as f64 * LINE + 14.0;
        for run in line {
            let class = if run.class.is_empty() {
                String::new()
            } else {
                format!(" class=\"{}\"", run.class)
            };
            // Writing to a string does not fail. The length holds the columns whatever the reader's font is.
            let _ = writeln!(
                svg,
                "<text{class} x=\"{:.1}\" y=\"{y:.1}\" textLength=\"{:.1}\">{}</text>",
                MARGIN + f64::from(run.column) * CELL,
                f64::from(run.width) * CELL,
                escape(&run.text)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// Text of one look.
struct Run {
    column: u16,
    width: u16,
    class: String,
    text: String,
}

fn runs(screen: &Screen, row: u16, columns: u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut gap = true;
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else {
            continue;
        };
        let text = cell.contents();
        if text.is_empty() || text == " " {
            gap = true;
            continue;
        }
        let class = class_of(cell);
        match runs.last_mut() {
            Some(run) if run.class == class && !gap => {
                run.text.push_str(text);
                run.width += 1;
            }
            // A single blank between words of one look stays in the text.
            Some(run) if run.class == class && column == run.column + run.width + 1 => {
                run.text.push(' ');
                run.text.push_str(text);
                run.width += 2;
            }
            _ => runs.push(Run {
                column,
                width: 1,
                class,
                text: text.to_owned(),
            }),
        }
        gap = false;
    }
    runs
}

fn class_of(cell: &Cell) -> String {
    let mut classes = Vec::new();
    if cell.bold() {
        classes.push("b".to_owned());
    }
    match cell.fgcolor() {
        Color::Idx(0) => classes.push("c8".to_owned()),
        Color::Idx(colour @ (1..=6 | 8)) => classes.push(format!("c{colour}")),
        Color::Idx(colour @ 9..=14) => classes.push(format!("c{}", colour - 8)),
        _ if cell.dim() => classes.push("d".to_owned()),
        _ => {}
    }
    classes.join(" ")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
