//! People's commands: each speaks CRI, so it works on any runtime's socket.

mod archive;
mod audit;
mod config;
mod doctor;
mod engine;
mod events;
mod exec;
mod explain;
mod filter;
mod find;
mod generate;
mod images;
mod inspect;
mod lists;
mod logs;
mod ops;
mod play;
mod progress;
mod prune;
mod push;
mod reach;
mod remove;
mod run;
mod short_names;
mod signals;
mod top;
mod tree;
mod watch;

use std::process::ExitCode;

use crate::cli::{Command, Global};
use crate::is_closed_pipe;
use crate::terminal::{Screen, Status, complain, status_of};

/// Runs a command against the runtime on the socket.
pub(crate) fn run(command: Command, global: Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(dispatch(command, global));
    // A thread that reads standard input may wait for ever, and nothing that counts is left to it.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, global: Global) -> anyhow::Result<ExitCode> {
    let screen = Screen::standard(&global);
    match command {
        Command::Run(args) => return Ok(not_run(run::run(args, &global, &screen).await)),
        Command::Generate(args) => return generate::run(&args),
        Command::Doctor(args) => return doctor::run(&args, &global, &screen).await,
        Command::Config(args) => return config::run(args.command, &global, &screen).await,
        _ => {}
    }
    let client = match reach::connect(&global.socket).await {
        Err(error) if matches!(command, Command::Exec(_)) => return Ok(not_run(Err(error))),
        other => other?,
    };
    match command {
        Command::Ps(args) => lists::containers(&client, &args, &screen).await?,
        Command::Pods(args) => lists::pods(&client, &args, &screen).await?,
        Command::Images(args) => images::list(&client, &args, &screen).await?,
        Command::Pull(args) => images::pull(&client, &args, &screen).await?,
        Command::Push(args) => push::run(&client, &args, &screen).await?,
        Command::Import(args) => images::import(&client, &args.path, &screen).await?,
        Command::Load(args) => archive::load(&client, &args, &screen).await?,
        Command::Save(args) => archive::save(&client, &args, &screen).await?,
        Command::Prune(args) => prune::run(&client, &args, &screen).await?,
        Command::Logs(args) => logs::show(&client, &args, &screen).await?,
        Command::Exec(args) => return Ok(not_run(exec::run(&client, &args, &screen).await)),
        Command::Stop(args) => return remove::stop(&client, &args, &screen).await,
        Command::Rm(args) => return remove::remove(&client, &args, &screen).await,
        Command::Inspect(args) => inspect::show(&client, &args.object, &screen).await?,
        Command::Explain(args) => explain::show(&client, &args, &screen).await?,
        Command::Top(args) => top::show(&client, &args, &screen).await?,
        Command::Events(args) => events::show(&client, &args, &screen).await?,
        Command::Ops(args) => ops::list(&client, &args, &screen).await?,
        Command::LogLevel(args) => config::log_level(&client, &args, &screen).await?,
        Command::Audit => return audit::show(&client, &screen).await,
        Command::Run(_)
        | Command::Doctor(_)
        | Command::Generate(_)
        | Command::Config(_)
        | Command::Serve(_)
        | Command::Keeper(_)
        | Command::DemoPage(_) => {
            anyhow::bail!("this command is not one for a running daemon")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the exit code is the command's inside, a failure of our own must not look like one of its.
fn not_run(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        // Who reads no more has read enough.
        if is_closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        complain(&error);
        match status_of(&error) {
            Status::Usage => Status::Usage.into(),
            _ => Status::NotRun.into(),
        }
    })
}

#[cfg(test)]
mod tests;
