//! How registries are found, asked and paid with time: what the node's configuration decides.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use backon::ExponentialBuilder;
use coracle_types::image::Credentials;
use url::Url;

use super::error::RegistryError;

/// The longest `Retry-After` that is honoured; a longer one ends the pull.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// How registries are found and asked.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Directories in containerd's `certs.d` form; the first that knows a registry counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Files in the form of containers-registries.conf(5), version 2, each with its `.d`; what comes
    /// later wins. A file that is not there says nothing.
    pub registries_conf: Vec<PathBuf>,
    /// By registry, with or without a path below it; used where a pull brings none.
    pub credentials: BTreeMap<String, Credentials>,
    /// A file in Docker's form (`auths`), read at each pull; weaker than `credentials`.
    pub auth_file: Option<PathBuf>,
    /// Through whom registries are reached.
    pub proxies: Proxies,
    /// How failures that may pass are met.
    pub retries: RetryPolicy,
    /// How much is fetched at a time.
    pub downloads: Downloads,
}

/// How much is fetched at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Downloads {
    /// Layers that one pull downloads and unpacks at a time.
    pub layers: usize,
    /// Connections that bring blobs, of all pulls together.
    pub connections: usize,
    /// A layer that has more bytes than this to come, and comes slower than it is unpacked, is fetched
    /// in parallel ranges.
    pub split_above: u64,
    /// How many ranges of one layer at a time; 1 for none.
    pub parts: usize,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            layers: 3,
            connections: 12,
            split_above: 32 << 20,
            parts: 4,
        }
    }
}

/// Proxies by the scheme of what is asked for; this machine itself is never asked through one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For registries that are asked by plain HTTP.
    pub http: Option<Url>,
    /// For all others.
    pub https: Option<Url>,
    /// Hosts, domains, addresses and networks that are asked directly, with commas (`NO_PROXY`).
    pub except: String,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |url: &Option<Url>| url.as_ref().map(super::display_host);
        f.debug_struct("Proxies")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("except", &self.except)
            .finish()
    }
}

/// How failures that may pass are met.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub attempts: usize,
    /// Wait before the second; it doubles, with jitter.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// A connection must be made in this time.
    pub connect_timeout: Duration,
    /// No byte for this long ends an attempt.
    pub stall_timeout: Duration,
    /// How long a host that cannot be reached is left alone while another can be asked; it doubles with
    /// each failed look, up to ten times this.
    pub host_pause: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            host_pause: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    pub(crate) fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(self.first_wait)
            .with_max_delay(self.longest_wait)
            .with_max_times(self.attempts.saturating_sub(1))
    }
}

/// The wait before trying again: what the host asked for, else the back-off's; `None` gives up.
pub(crate) fn wait_for(error: &RegistryError, backoff: Option<Duration>) -> Option<Duration> {
    match (backoff, error.retry_after()) {
        (None, _) => None,
        (Some(_), Some(asked)) if asked > MAX_RETRY_AFTER => None,
        (Some(backoff), Some(asked)) => Some(backoff.max(asked)),
        (Some(backoff), None) => Some(backoff),
    }
}
