//! What `config` and `log-level` take.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

/// What to do with the configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What can be done with the configuration.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the configuration in force and whence each value comes
    Show(ShowArgs),
    /// Look for mistakes, all at once; exit status 78 when there are any
    Check(CheckArgs),
    /// Print every key with its default and what it does, as a file that loads as it stands
    Default,
    /// Print the JSON Schema, for editors
    Schema,
    /// Have the daemon read its configuration again; what is wrong changes nothing
    Reload,
}

/// Which configuration to show.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ShowArgs {
    /// What a daemon would go by that starts now, instead of what the running one does
    #[arg(long)]
    pub(crate) files: bool,
    /// Only what is not a default
    #[arg(long, short)]
    pub(crate) changed: bool,
}

/// Which configuration to check.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CheckArgs {
    /// Configuration file, with the fragments in config.d beside it [default: /etc/coracle/config.toml]
    pub(crate) file: Option<PathBuf>,
}

/// What to log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogLevelArgs {
    /// error, warn, info, debug, trace, off, or a filter such as info,coracle_engine=debug; without it the
    /// level in force is shown
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) filter: Option<String>,
}
