//! The role `keeper`: hands the shim's entry to the keeper, which knows no shim.

use std::ffi::OsString;

use coracle_keeper::ShimStart;
use tracing_subscriber::filter::LevelFilter;

/// Runs the keeper with the arguments that the daemon gave.
pub(crate) fn run(args: Vec<OsString>) -> ! {
    coracle_keeper::run(args.into_iter(), shim)
}

/// A shim's standard error is the keeper's log.
fn shim(start: ShimStart) -> i32 {
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::WARN)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    coracle_shim::entry(start)
}
