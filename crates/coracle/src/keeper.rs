//! The role `keeper`: hands the shim's entry to the keeper, which knows no shim.

use std::ffi::OsString;

use coracle_keeper::ShimStart;

/// Runs the keeper with the arguments that the daemon gave.
pub(crate) fn run(args: Vec<OsString>) -> ! {
    coracle_keeper::run(args.into_iter(), shim)
}

/// A shim logs for itself: the keeper does not.
fn shim(start: ShimStart) -> i32 {
    crate::logging::begin_for_shim(start.pod.as_str(), &start.log);
    coracle_shim::entry(start, crate::logging::set_shim_filter)
}
