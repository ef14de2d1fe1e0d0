//! What this front end needs of the process around the engine: configuration, log and measurements.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long calls under way may still take after the shutdown began, unless somebody says otherwise.
const DRAIN: Duration = Duration::from_secs(5);

/// The process that serves.
#[derive(Clone)]
pub struct Process {
    /// Its configuration and its log.
    pub control: Arc<dyn Control>,
    /// Who counts calls.
    pub meter: Arc<dyn Meter>,
    /// How long calls under way may still take after the shutdown began.
    pub drain: Duration,
}

impl Default for Process {
    /// A process that cannot be told anything and counts nothing.
    fn default() -> Self {
        Self {
            control: Arc::new(()),
            meter: Arc::new(()),
            drain: DRAIN,
        }
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

/// A key of the configuration as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// With its section: `log.level`.
    pub key: String,
    /// As TOML.
    pub value: String,
    /// `default`, `file:line`, `flag --root`, ...
    pub origin: String,
    /// Whether a change counts without a restart.
    pub live: bool,
    /// What the configuration says by now, where that needs a restart.
    pub pending: Option<String>,
}

/// A value that differs from before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// With its section.
    pub key: String,
    /// What was in force, as TOML.
    pub from: String,
    /// What the configuration says, as TOML.
    pub to: String,
}

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// In force now.
    pub applied: Vec<Change>,
    /// In force after a restart.
    pub needs_restart: Vec<Change>,
    /// The files that were read, in the order in which they count.
    pub files: Vec<String>,
}

/// Why something was refused, for people: what is wrong, where, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

/// The process's own affairs, as an operator handles them.
#[tonic::async_trait]
pub trait Control: Send + Sync + 'static {
    /// Reads the configuration again. What is wrong with it leaves the one in force.
    async fn reload(&self) -> Result<Reloaded, Refused>;
    /// The configuration in force.
    fn settings(&self) -> Vec<Setting>;
    /// Logs by this filter from now on, until the configuration is read again; gives the one before.
    fn set_log_level(&self, filter: &str) -> Result<String, Refused>;
}

#[tonic::async_trait]
impl Control for () {
    async fn reload(&self) -> Result<Reloaded, Refused> {
        Err(nothing_to_control())
    }

    fn settings(&self) -> Vec<Setting> {
        Vec::new()
    }

    fn set_log_level(&self, _: &str) -> Result<String, Refused> {
        Err(nothing_to_control())
    }
}

fn nothing_to_control() -> Refused {
    Refused(
        "this process was started by a command and ends with it: it has no configuration of its own"
            .to_owned(),
    )
}

/// Hears of every call that was answered, for histograms; it must neither block nor take long.
pub trait Meter: Send + Sync + 'static {
    /// `call` is the method's name, or `unknown` for one that nobody offers, so there are a few dozen of
    /// them; `code` is gRPC's (0 is OK), 1 when the client left before the answer.
    fn answered(&self, call: &str, code: i32, took: Duration);
}

impl Meter for () {
    fn answered(&self, _: &str, _: i32, _: Duration) {}
}
