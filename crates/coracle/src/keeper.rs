//! The role `keeper`: hands the shim's entry to the keeper, which knows no shim.

use std::ffi::OsString;
use std::process::ExitCode;

use coracle_keeper::KeeperArgs;

/// Runs the keeper with the arguments that the daemon gave; returns only when they are wrong.
pub fn run(args: Vec<OsString>) -> ExitCode {
    match KeeperArgs::parse(args.into_iter()) {
        Ok(args) => coracle_keeper::run(args, coracle_shim::entry),
        Err(error) => {
            crate::terminal::complain(&error.into());
            ExitCode::FAILURE
        }
    }
}
