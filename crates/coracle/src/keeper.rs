//! The role `keeper`: hands the shim's entry to the keeper, which knows no shim.

use std::ffi::OsString;

/// Runs the keeper with the arguments that the daemon gave.
pub(crate) fn run(args: Vec<OsString>) -> ! {
    coracle_keeper::run(args.into_iter(), coracle_shim::entry)
}
