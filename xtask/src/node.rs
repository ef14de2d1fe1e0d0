//! A command in a node of its own, which is gone afterwards.

use std::process::Command;

use anyhow::{Context, Result};
use coracle_testkit::node::Node;
use tokio::signal::unix::{SignalKind, signal};

use crate::{build, runtime};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Build the program and start `coracle serve` in the node first
    #[arg(long)]
    daemon: bool,
    /// The command and its arguments; a shell when left out
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Runs the command and leaves with its exit code.
pub(crate) fn run(options: &Options) -> Result<()> {
    let code = runtime()?.block_on(inside(options))?;
    std::process::exit(code);
}

async fn inside(options: &Options) -> Result<i32> {
    // From here on a Ctrl-C reaches the command, and this process stays to see its end.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    if options.daemon {
        build::release()?;
    }
    let node = Node::start()?;
    let daemon = options.daemon.then(|| node.daemon()).transpose()?;
    let program = coracle_testkit::node::daemon::program().ok();
    let (name, arguments) = match options.command.split_first() {
        Some((name, arguments)) => (name.clone(), arguments),
        None => (
            std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned()),
            &[][..],
        ),
    };
    let mut command: Command = node.command_at(&std::env::current_dir()?, &name);
    command.args(arguments);
    // `coracle ps` shall find the program that the node's daemon runs.
    if let Some(directory) = program.as_deref().and_then(|program| program.parent()) {
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{}:{path}", directory.display()));
    }
    let mut child = tokio::process::Command::from(command)
        .spawn()
        .with_context(|| format!("cannot run nsenter for {name}"))?;
    let code = loop {
        tokio::select! {
            status = child.wait() => break status?.code().unwrap_or(1),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => break 143,
        }
    };
    drop(daemon);
    drop(node);
    Ok(code)
}
