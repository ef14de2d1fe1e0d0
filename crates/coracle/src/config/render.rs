//! The configuration for people: the commented default, and the table of the documentation.

use std::fmt::Write as _;

#[cfg(test)]
use super::keys::Key;
use super::keys::{Config, Effect};
use super::sources::{DEFAULT_FILE, Given};

/// Every key with its default, commented: as it stands it says nothing, and a line without its `#` does.
pub(crate) fn commented_default() -> String {
    let mut text = format!(
        "# Configuration of coracle: {DEFAULT_FILE}\n\
         #\n\
         # Every key is shown with its default; take the # away before one to set it. Fragments in config.d\n\
         # beside this file are read after it, in the order of their names; what comes later wins.\n\
         # Keys marked [live] count as soon as the daemon is told to read them (`coracle config reload`, SIGHUP);\n\
         # the others when it is started again. Pods run on in either case. `coracle config check` tells mistakes.\n"
    );
    let mut section = "";
    for (key, value) in Config::settle(&Given::default()).values() {
        let (of, name) = key.parts();
        if of != section {
            section = of;
            // Writing to a String cannot fail.
            let _ = write!(text, "\n[{section}]\n");
        }
        let live = match key.effect {
            Effect::Live => " [live]",
            Effect::Restart => "",
        };
        text.push('\n');
        let lines = key.doc.len();
        for (index, line) in key.doc.iter().enumerate() {
            let mark = if index + 1 == lines { live } else { "" };
            let _ = writeln!(text, "# {}{mark}", line.trim());
        }
        let _ = writeln!(text, "#{name} = {value}");
    }
    text
}

/// The keys as the documentation's table; a test holds the page equal to it.
#[cfg(test)]
pub(crate) fn table() -> String {
    let mut text = "| key | default | a change counts | what it does |\n|---|---|---|---|\n".to_owned();
    let defaults = Config::settle(&Given::default()).values();
    for (key, value) in defaults {
        let effect = match key.effect {
            Effect::Live => "live",
            Effect::Restart => "after a restart",
        };
        let values = values_of(key);
        let _ = writeln!(
            text,
            "| `{}` | `{value}` | {effect} | {} {values} |",
            key.name,
            key.sentence().replace('|', "\\|")
        );
    }
    text
}

#[cfg(test)]
fn values_of(key: &Key) -> String {
    let mut what = (key.what)();
    if let Some(first) = what.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    format!("{what}.")
}
