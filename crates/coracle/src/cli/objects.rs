//! What the commands on one or several pods, containers and images take.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

/// Whose log to show.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// Container, or pod with one container: id, its beginning, or name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) object: String,
    /// Go on as it grows, until the container has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only the last lines
    #[arg(long, value_name = "LINES")]
    pub(crate) tail: Option<usize>,
    /// With the time of each line
    #[arg(long, short)]
    pub(crate) timestamps: bool,
}

/// A command to run in a container.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExecArgs {
    /// Container, or pod with one container: id, its beginning, or name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) object: String,
    /// Program and arguments
    #[arg(last = true, required = true)]
    pub(crate) command: Vec<String>,
    /// Kill it after so many seconds; 0 is never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) timeout: u32,
}

/// What to stop.
#[derive(Debug, Clone, Args)]
pub(crate) struct StopArgs {
    /// Pods or containers: ids, their beginnings, or names
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) objects: Vec<String>,
    /// Seconds between the stop signal and KILL: those of the pod's manifest, else 10
    #[arg(long, short, value_name = "SECONDS")]
    pub(crate) timeout: Option<u32>,
}

/// What to act on.
#[derive(Debug, Clone, Args)]
pub(crate) struct ObjectArgs {
    /// Pods, containers or images: ids, their beginnings, or names
    #[arg(required = true, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) objects: Vec<String>,
}

/// What to look at.
#[derive(Debug, Clone, Args)]
pub(crate) struct OneArg {
    /// Id, its beginning, or name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) object: String,
}
