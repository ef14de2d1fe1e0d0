//! People's commands: each speaks CRI, so it works on any runtime's socket.

mod engine;
mod exec;
mod explain;
mod find;
mod images;
mod inspect;
mod lists;
mod logs;
mod progress;
mod remove;
mod run;

use std::process::ExitCode;

use coracle_proto::client::{Client, ClientError};
use coracle_types::{Kind, Kinded};

use crate::cli::{Command, Global};
use crate::terminal;

/// Runs a command against the runtime on the socket.
pub(crate) fn run(command: Command, global: Global) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(dispatch(command, global))
}

async fn dispatch(command: Command, global: Global) -> anyhow::Result<ExitCode> {
    if let Command::Run(args) = command {
        return run::run(args, &global).await;
    }
    let client = connect(&global).await?;
    let output = global.output;
    match command {
        Command::Ps(args) => lists::containers(&client, &args, output).await?,
        Command::Pods(args) => lists::pods(&client, &args, output).await?,
        Command::Images => images::list(&client, output).await?,
        Command::Pull(args) => images::pull(&client, &args, output).await?,
        Command::Import(args) => images::import(&client, &args, output).await?,
        Command::Logs(args) => logs::show(&client, &args).await?,
        Command::Exec(args) => return exec::run(&client, &args, output).await,
        Command::Stop(args) => remove::stop(&client, &args).await?,
        Command::Rm(args) => remove::remove(&client, &args).await?,
        Command::Inspect(args) => inspect::show(&client, &args.object).await?,
        Command::Explain(args) => explain::show(&client, &args.object, output).await?,
        Command::Audit => return explain::audit(&client, output).await,
        Command::Run(_) | Command::Serve(_) | Command::Keeper(_) | Command::DemoPage(_) => {
            anyhow::bail!("this command is not one for a running daemon")
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection, or an error that says how to get one.
async fn connect(global: &Global) -> anyhow::Result<Client> {
    match Client::connect(&global.socket).await {
        Ok(client) => Ok(client),
        Err(error) => {
            terminal::remark("start the daemon with `coracle serve`, or name another socket with --socket");
            Err(error.into())
        }
    }
}

/// A call that another runtime may not know: the error says so.
fn needs_coracle(error: ClientError) -> anyhow::Error {
    if error.kind() == Kind::Unimplemented {
        anyhow::Error::new(error).context("the runtime on this socket does not offer this; coracle does")
    } else {
        error.into()
    }
}
