//! Commands that the project's texts tell people to type, so that a check can tell dead ones.

/// The commands in a Markdown text that begin with one of `programs`: in fenced blocks (a leading `$ `
/// or `# ` is a prompt) and in code spans. Comments and redirections are cut off.
#[must_use]
pub fn commands(markdown: &str, programs: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in markdown.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            let line = line.trim();
            let line = line
                .strip_prefix("$ ")
                .or_else(|| line.strip_prefix("# "))
                .unwrap_or(line);
            found.extend(command(line, programs));
        } else {
            // Every second part of a line split at backquotes is a code span.
            for span in line.split('`').skip(1).step_by(2) {
                found.extend(command(span, programs));
            }
        }
    }
    found
}

fn command(text: &str, programs: &[&str]) -> Option<String> {
    let text = text
        .split(" #")
        .next()?
        .split(['|', '>', '<', ';', '&'])
        .next()?
        .trim();
    let fits = programs
        .iter()
        .any(|program| text == *program || text.starts_with(&format!("{program} ")));
    fits.then(|| text.to_owned())
}

/// The relative targets of links and images in a Markdown text, without their fragments.
#[must_use]
pub fn relative_links(markdown: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in markdown.split("](").skip(1) {
        let target = part.split([')', ' ']).next().unwrap_or_default();
        let path = target.split('#').next().unwrap_or_default();
        if !path.is_empty() && !target.contains("://") && !target.starts_with("mailto:") {
            found.push(path.to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_blocks_and_spans() {
        let text = "Run `make test` or `cargo xtask node -- ls`, not `makeshift`.\n\n```sh\n$ make run   # a demo\n\
                    coracle ps -o json | jq\nls\n```\n";
        assert_eq!(
            commands(text, &["make", "cargo xtask", "coracle"]),
            [
                "make test",
                "cargo xtask node -- ls",
                "make run",
                "coracle ps -o json"
            ]
        );
    }

    #[test]
    fn only_relative_links_are_found() {
        let text = "[a](docs/a.md#top) [b](https://x.y/z) [c](#here) ![d](d.svg \"title\")";
        assert_eq!(relative_links(text), ["docs/a.md", "d.svg"]);
    }
}
