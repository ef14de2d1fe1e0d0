//! Arbitrary bytes for every parser of what images hold, by libFuzzer.
//!
//! `cargo xtask fuzz` builds this with the coverage of the workspace's own crates and runs it once for
//! each target: `CORACLE_FUZZ_TARGET` names one, `CORACLE_FUZZ_DIRECTORY` is a directory that targets
//! may write to. What each target expects of a parser, beyond that it neither panics nor hangs, stands
//! with it. `corpus/<target>/` holds inputs that are tried first.
#![no_main]

mod documents;
mod layers;
mod reference;

use std::sync::OnceLock;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("reference", reference::reference),
    ("manifest", documents::manifest),
    ("config", documents::config),
    ("policy", documents::policy),
    ("tar", layers::tar),
    ("whiteout", layers::whiteout),
];

static TARGET: OnceLock<Target> = OnceLock::new();

libfuzzer_sys::fuzz_target!(|input: &[u8]| TARGET.get_or_init(target)(input));

fn target() -> Target {
    let name = std::env::var("CORACLE_FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|(known, _)| *known == name);
    match found {
        Some((_, target)) => *target,
        None => panic!("CORACLE_FUZZ_TARGET is {name:?}, which is no target"),
    }
}
