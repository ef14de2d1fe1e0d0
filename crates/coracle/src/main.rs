//! The program: one static binary, several roles.
//!
//! Owns the roles, the command line, the configuration file, the environment and the terminal; holds no
//! policy. `coracle serve` is the daemon; it starts `coracle keeper`, which forks the shims. The rest
//! are people's commands, which speak CRI to whatever runtime listens on the socket.

mod access;
mod cli;
mod commands;
mod config;
mod demo;
mod keeper;
mod logging;
mod metrics;
mod notify;
mod reload;
mod serve;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    // The keeper and the shims that it forks live long and are many: nothing is set up for them.
    if std::env::args_os().nth(1).is_some_and(|role| role == "keeper") {
        keeper::run(std::env::args_os().skip(2).collect());
    }
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(args, cli.global.socket),
        Command::DemoPage(args) => demo::run(args.port),
        Command::Keeper(args) => keeper::run(args.args),
        command => commands::run(command, cli.global),
    };
    match outcome {
        Ok(code) => code,
        // Who reads no more has read enough.
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(&error);
            terminal::status_of(&error).into()
        }
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::BrokenPipe;
    error.downcast_ref().is_some_and(closed)
}
