//! HTTP clients by what they trust, with limits on time and on where redirects may lead.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect;

/// Redirects that are followed in one request.
const MAX_REDIRECTS: usize = 10;
/// Connections kept open to one host, and for how long.
const IDLE_CONNECTIONS: usize = 4;
const IDLE: Duration = Duration::from_secs(30);

/// Whom a TLS client believes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// PEM files beside the system's authorities.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Believe anybody.
    pub(crate) skip_verify: bool,
}

/// A client that cannot be made.
#[derive(Debug, Clone, thiserror::Error)]
#[error("set up the HTTP client: {reason}")]
pub struct TransportError {
    /// What is wrong with its certificates.
    pub reason: String,
}

/// How long a host may keep silent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    /// Between any two bytes.
    pub(crate) stall: Duration,
}

/// The clients made so far; connections are shared by all pulls.
#[derive(Debug)]
pub(crate) struct Clients {
    patience: Patience,
    made: Mutex<HashMap<(Trust, Scheme), reqwest::Client>>,
}

/// Whether TLS is wanted: a client for plain HTTP needs no authorities on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Clients {
    pub(crate) fn new(patience: Patience) -> Self {
        // Another part of the program may have chosen a provider already; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            patience,
            made: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn get(&self, trust: &Trust, scheme: Scheme) -> Result<reqwest::Client, TransportError> {
        let key = (trust.clone(), scheme);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(trust, scheme)?;
        made.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, trust: &Trust, scheme: Scheme) -> Result<reqwest::Client, TransportError> {
        let failed = |error: reqwest::Error| TransportError {
            reason: super::error::causes(&error.without_url()),
        };
        // Proxies come from the configuration, never from the environment of the daemon.
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(self.patience.connect)
            .read_timeout(self.patience.stall)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE)
            .no_proxy()
            .referer(false)
            .redirect(redirect::Policy::custom(follow));
        let mut authorities = Vec::new();
        for pem in &trust.authorities {
            authorities.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?);
        }
        // A plain client meets TLS only by a redirect; then it needs the machine's authorities, but
        // their absence must not keep a plain registry from being used.
        if trust.skip_verify {
            builder = builder.tls_danger_accept_invalid_certs(true);
        } else {
            builder = builder.tls_certs_merge(authorities.clone());
        }
        match (builder.build(), scheme) {
            (Ok(client), _) => Ok(client),
            (Err(error), Scheme::Https) => Err(failed(error)),
            (Err(_), Scheme::Http) => reqwest::Client::builder()
                .connect_timeout(self.patience.connect)
                .read_timeout(self.patience.stall)
                .no_proxy()
                .referer(false)
                .tls_certs_only(authorities)
                .redirect(redirect::Policy::custom(follow))
                .build()
                .map_err(failed),
        }
    }
}

/// Follows redirects within bounds. reqwest drops `Authorization` and cookies itself when host, port
/// or scheme change (CVE-2020-15157); the tests hold it to that.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgrade = attempt
        .previous()
        .last()
        .is_some_and(|from| from.scheme() == "https")
        && attempt.url().scheme() != "https";
    if downgrade {
        attempt.error("the redirect leads from https to http")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("more than 10 redirects")
    } else {
        attempt.follow()
    }
}
