//! A registry and its mirrors, asked for one repository's manifests and blobs.
//!
//! Written on reqwest since a general registry client reads manifests without a bound, hides
//! `Retry-After`, and knows neither mirrors below a path nor several hosts for one registry.

mod answer;
pub(crate) mod auth;
pub(crate) mod error;
pub(crate) mod hosts;
mod session;
pub(crate) mod transport;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use backon::ExponentialBuilder;
use coracle_types::image::Credentials;
use reqwest::header::HeaderValue;
use url::Url;

pub(crate) use self::answer::broken_body;
use self::auth::Secret;
use self::error::RegistryError;
use self::hosts::{Host, Role};
pub(crate) use self::session::{Fetched, Session, Target};
use self::transport::{Clients, Patience, Scheme};
use crate::reference::Reference;

/// The longest `Retry-After` that is honoured; a longer one ends the pull.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

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
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 4,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
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

/// All registries, as the node's configuration has them.
#[derive(Debug)]
pub(crate) struct Registries {
    clients: Clients,
    dirs: Vec<PathBuf>,
    retries: RetryPolicy,
}

impl Registries {
    pub(crate) fn new(dirs: Vec<PathBuf>, retries: RetryPolicy) -> Self {
        let patience = Patience {
            connect: retries.connect_timeout,
            stall: retries.stall_timeout,
        };
        Self {
            clients: Clients::new(patience),
            dirs,
            retries,
        }
    }

    /// The hosts of one pull. Credentials go to the registry itself, or where their
    /// `server_address` says; to no mirror else.
    pub(crate) async fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, RegistryError> {
        let dirs = self.dirs.clone();
        let registry = reference.registry().to_owned();
        let hosts = tokio::task::spawn_blocking(move || hosts::hosts_for(&dirs, &registry))
            .await
            .map_err(|_| RegistryError::NoHost {
                registry: reference.registry().to_owned(),
                capability: "pull",
            })??;
        let mut endpoints = Vec::with_capacity(hosts.len());
        for host in hosts {
            let scheme = if host.base.scheme() == "https" {
                Scheme::Https
            } else {
                Scheme::Http
            };
            let client = self.clients.get(&host.trust, scheme)?;
            let secret = match credentials {
                Some(credentials) if is_meant(credentials, &host, reference) => Secret::read(credentials)?,
                _ => Secret::None,
            };
            endpoints.push(Endpoint {
                name: display_host(&host.base),
                authorization: Mutex::new(secret.at_once()),
                client,
                secret,
                avoided: AtomicBool::new(false),
                host,
            });
        }
        Ok(Session {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            endpoints,
            retries: self.retries.clone(),
        })
    }
}

fn is_meant(credentials: &Credentials, host: &Host, reference: &Reference) -> bool {
    if credentials.server_address.is_empty() {
        return host.role == Role::Server;
    }
    let for_registry = auth::is_for(&credentials.server_address, reference.registry());
    (host.role == Role::Server && for_registry)
        || auth::is_for(&credentials.server_address, &display_host(&host.base))
}

/// Host and port of a URL, for errors: never path or query, which may hold secrets.
pub(crate) fn display_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// One host within one pull.
#[derive(Debug)]
pub(crate) struct Endpoint {
    name: String,
    host: Host,
    client: reqwest::Client,
    secret: Secret,
    /// What the last challenge was answered with.
    authorization: Mutex<Option<HeaderValue>>,
    /// A mirror that failed is not asked again in this pull.
    avoided: AtomicBool,
}

impl Endpoint {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn authorization(&self) -> Option<HeaderValue> {
        self.authorization
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_authorization(&self, value: HeaderValue) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }
}
