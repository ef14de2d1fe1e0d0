//! What can go wrong with pod networks, by operation and subject.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use coracle_types::pod::Protocol;
use coracle_types::{Kind, Kinded};

/// The node has no network to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkNotReady {
    /// No configuration was found.
    #[error("no CNI network is configured in {}: install a network plugin, or allow the default network", dir.display())]
    NoConfiguration {
        /// The directory that was searched.
        dir: PathBuf,
    },
    /// Configurations were found, none of them usable.
    #[error("no usable CNI network in {}: {problems}", dir.display())]
    NoneValid {
        /// The directory that was searched.
        dir: PathBuf,
        /// Each file with what is wrong with it.
        problems: String,
    },
    /// The network names a plugin that is not installed.
    #[error("CNI network {network:?} needs plugin {plugin:?}, which is in none of {searched}")]
    PluginMissing {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// The directories, comma separated.
        searched: String,
    },
    /// A plugin answered STATUS with an error.
    #[error("CNI network {network:?} is not ready: plugin {plugin:?}: {reason}")]
    PluginNotReady {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// What it said.
        reason: String,
    },
}

impl Kinded for NetworkNotReady {
    fn kind(&self) -> Kind {
        Kind::FailedPrecondition
    }
}

/// A failed operation on pod networks.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request's own words are wrong.
    #[error("pod network's {field} {value:?} {problem}")]
    InvalidPod {
        /// Which field.
        field: &'static str,
        /// Its value, cut after 80 characters.
        value: String,
        /// What is wrong with it, and how to right it.
        problem: &'static str,
    },
    /// There is no network.
    #[error(transparent)]
    NotReady(#[from] NetworkNotReady),
    /// The pod is attached already.
    #[error("pod {pod} is attached to network {network:?} already: detach it first")]
    AlreadyAttached {
        /// The pod.
        pod: String,
        /// The network.
        network: String,
    },
    /// The pod is not attached.
    #[error("pod {pod} is not attached to a network")]
    NotAttached {
        /// The pod.
        pod: String,
    },
    /// Making, pinning or removing a network namespace failed.
    #[error("{operation} network namespace {}", path.display())]
    Netns {
        /// What was tried.
        operation: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// One plugin of the network failed.
    #[error("network {network:?}: {command} by plugin {plugin:?}")]
    Plugin {
        /// The network.
        network: String,
        /// The plugin's type.
        plugin: String,
        /// The CNI command.
        command: &'static str,
        /// Why.
        #[source]
        source: Box<PluginError>,
    },
    /// A file of this crate's own could not be read or written.
    #[error("{operation} {}", path.display())]
    State {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something about this instance's own objects.
    #[error("{operation} {subject}")]
    Instance {
        /// What was tried.
        operation: &'static str,
        /// The link, table or socket.
        subject: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// A task of this crate ended without an answer, which only a panic or the end of the runtime does.
    #[error("{operation} ended without an answer")]
    Lost {
        /// What was under way.
        operation: &'static str,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::InvalidPod { .. } => Kind::InvalidArgument,
            Self::NotReady(not_ready) => not_ready.kind(),
            Self::AlreadyAttached { .. } => Kind::AlreadyExists,
            Self::NotAttached { .. } => Kind::NotFound,
            Self::Plugin { source, .. } => source.kind(),
            Self::State { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                Kind::FailedPrecondition
            }
            Self::Netns { source, .. } | Self::State { source, .. }
                if Kind::of_exhaustion(source).is_some() =>
            {
                Kind::ResourceExhausted
            }
            Self::Netns { .. } | Self::State { .. } | Self::Instance { .. } | Self::Lost { .. } => {
                Kind::Internal
            }
        }
    }
}

/// The kernel's answer to a netlink message.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("netlink socket: {operation}")]
    Socket {
        /// The system call.
        operation: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the message.
    #[error("{}{}", errno, if hint.is_empty() { String::new() } else { format!(": {hint}") })]
    Refused {
        /// The error.
        errno: rustix::io::Errno,
        /// The kernel's own words, where it has any.
        hint: String,
    },
    /// The kernel's answer could not be read.
    #[error("netlink answer is malformed: {problem}")]
    Malformed {
        /// In what way.
        problem: String,
    },
}

impl NetlinkError {
    /// Whether the kernel answered with this error.
    pub(crate) fn is(&self, wanted: rustix::io::Errno) -> bool {
        matches!(self, Self::Refused { errno, .. } if *errno == wanted)
    }
}

/// Why a plugin, in process or a program, did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// There is no such program.
    #[error("no such program in {searched}")]
    NoProgram {
        /// The directories, comma separated.
        searched: String,
    },
    /// The program could not be run.
    #[error("{operation} {}", program.display())]
    Run {
        /// What was tried.
        operation: &'static str,
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program did not end in time and was killed.
    #[error("did not end within {after:?} and was killed{}", said(stderr))]
    Deadline {
        /// The time it had.
        after: Duration,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The program wrote more than a result can be.
    #[error("wrote more than {limit} bytes and was killed")]
    TooMuchOutput {
        /// The limit in bytes.
        limit: usize,
    },
    /// The program ended well but what it wrote is no CNI result.
    #[error("its result is not one: {problem}; it wrote {output:?}")]
    Garbage {
        /// What is wrong.
        problem: String,
        /// The beginning of its output.
        output: String,
    },
    /// The program answered with a CNI error.
    #[error("{message}{} (CNI error {code})", if details.is_empty() { String::new() } else { format!(": {details}") })]
    Reported {
        /// CNI's error code.
        code: u64,
        /// Its message.
        message: String,
        /// Its details.
        details: String,
    },
    /// The program failed without a CNI error.
    #[error("{status}{}", said(stderr))]
    Died {
        /// Exit code or signal, in words.
        status: String,
        /// The end of what it wrote to stderr.
        stderr: String,
    },
    /// The configuration asks for what cannot be.
    #[error("configuration field {field}: {problem}")]
    Config {
        /// The field.
        field: String,
        /// What is wrong and how to right it.
        problem: String,
    },
    /// No address is left.
    #[error("no address is left in {ranges}: remove pods or widen the range in the network's configuration")]
    Exhausted {
        /// The ranges.
        ranges: String,
    },
    /// The pod has an address already.
    #[error("{address} is reserved for this pod already")]
    Duplicate {
        /// The address.
        address: IpAddr,
    },
    /// Another pod has this port of the host.
    #[error("host port {port}/{protocol}{} is in use by {holder}: choose another port, or end that one", address.map(|a| format!(" on {a}")).unwrap_or_default())]
    PortInUse {
        /// Transport protocol.
        protocol: Protocol,
        /// The port.
        port: u16,
        /// The host's address; `None` is all.
        address: Option<IpAddr>,
        /// Who holds it: a pod, or a process of the node.
        holder: String,
    },
    /// CHECK found something missing.
    #[error("{missing} is not there")]
    Missing {
        /// What.
        missing: String,
    },
    /// The kernel refused a link, address, route or rule.
    #[error("{operation} {subject}")]
    Netlink {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The kernel's answer.
        #[source]
        source: NetlinkError,
    },
    /// A file could not be read or written.
    #[error("{operation} {}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; it said {stderr:?}")
    }
}

impl Kinded for PluginError {
    fn kind(&self) -> Kind {
        match self {
            Self::Deadline { .. } => Kind::DeadlineExceeded,
            Self::Config { .. } | Self::NoProgram { .. } | Self::Missing { .. } => Kind::FailedPrecondition,
            Self::Exhausted { .. } => Kind::ResourceExhausted,
            Self::Duplicate { .. } => Kind::AlreadyExists,
            Self::PortInUse { .. } => Kind::FailedPrecondition,
            // CNI's own meaning of 11: try again later.
            Self::Reported { code: 11, .. } => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }
}
