//! Bad input and bad days: each case has its code, words that name field, value and remedy, and nothing is
//! left behind. Each prints its row of the second table in docs/failures.md. Needs root.

#[path = "bad_days/clock.rs"]
mod clock;
#[path = "bad_days/commands.rs"]
mod commands;
#[path = "bad_days/files.rs"]
mod files;
#[path = "bad_days/hostile_containers.rs"]
mod hostile_containers;
#[path = "bad_days/hostile_pods.rs"]
mod hostile_pods;
#[path = "bad_days/images.rs"]
mod images;
#[path = "bad_days/node.rs"]
mod node;
#[path = "bad_days/plugins.rs"]
mod plugins;
#[path = "bad_days/requests.rs"]
mod requests;

use std::fmt::Debug;

use coracle_tests::checks::holds;
use tonic::{Code, Status};

/// Fails unless the call was refused with this code, in words that hold every part; prints the table's row.
#[allow(clippy::print_stdout, reason = "the table is what the test is read for")]
fn refused<T: Debug>(case: &str, answer: Result<T, Status>, code: Code, parts: &[&str]) -> String {
    let status = answer.expect_err(case);
    println!("| {case} | {:?} | {} |", status.code(), status.message());
    assert_eq!(status.code(), code, "{case}: {}", status.message());
    holds(status.message(), parts);
    status.message().to_owned()
}

/// As [`refused`], for what is a success with a remark.
#[allow(clippy::print_stdout, reason = "the table is what the test is read for")]
fn works(case: &str, what: &str) {
    println!("| {case} | OK | {what} |");
}
