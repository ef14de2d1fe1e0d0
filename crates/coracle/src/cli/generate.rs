//! What `generate` takes: files for packages, made from the definition of the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

/// What to generate.
#[derive(Debug, Clone, Args)]
pub(crate) struct GenerateArgs {
    /// The kind of file.
    #[command(subcommand)]
    pub(crate) what: Generated,
}

/// Files that follow from the command line's definition.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Generated {
    /// Write a manual page for each command
    Man {
        /// Directory to write to; made when it is not there
        directory: PathBuf,
    },
    /// Print the completions of a shell
    Completions {
        /// Which shell
        #[arg(value_enum)]
        shell: Shell,
    },
}
