//! Where the guest's packages come from: wherever this machine's own come from, as apt says.

use std::path::Path;

/// The release of the guest.
pub(super) const SUITE: &str = "bookworm";

/// Where apt keeps Debian's own sources, newest form first.
const FILES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// This machine's sources of the guest's release; nothing when it is another release, and mmdebstrap's
/// own default is to be taken.
pub(super) fn of_this_machine(backports: bool) -> Option<String> {
    FILES
        .iter()
        .filter_map(|path| std::fs::read_to_string(Path::new(path)).ok())
        .find_map(|text| chosen(&text, backports))
}

/// The text's parts that are of the release, with its backports if wanted.
fn chosen(text: &str, backports: bool) -> Option<String> {
    let of_release = |line: &str| line.split_whitespace().any(|word| word == SUITE);
    let mut lines = Vec::new();
    let mut found = false;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        lines.push(line.to_owned());
        if !of_release(line) {
            continue;
        }
        let newer = format!("{SUITE}-backports");
        if line.starts_with("Suites:") {
            found = true;
            if backports {
                lines.pop();
                lines.push(format!("{line} {newer}"));
            }
        } else if line.starts_with("deb ") {
            found = true;
            if backports {
                lines.push(line.replace(&format!(" {SUITE} "), &format!(" {newer} ")));
            }
        }
    }
    found.then(|| lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_sources_are_taken_and_get_backports() {
        let stanza =
            "# a comment\nTypes: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n";
        let plain = "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm bookworm-updates\n";
        assert_eq!(chosen(stanza, false).unwrap(), plain);
        assert!(
            chosen(stanza, true)
                .unwrap()
                .contains("bookworm-updates bookworm-backports\n")
        );
        let line = "deb http://mirror.test/debian bookworm main\n";
        assert_eq!(chosen(line, false).unwrap(), line);
        assert_eq!(
            chosen(line, true).unwrap(),
            format!("{line}deb http://mirror.test/debian bookworm-backports main\n")
        );
    }

    #[test]
    fn another_release_is_not_taken() {
        assert_eq!(chosen("deb http://mirror.test/debian trixie main\n", true), None);
    }
}
