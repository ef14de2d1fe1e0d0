//! HTTP clients by what they trust and show, with limits on time; redirects are followed by hand.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::redirect;

use super::config::Proxies;

/// Connections kept open to one host, and for how long.
const IDLE_CONNECTIONS: usize = 8;
const IDLE: Duration = Duration::from_secs(30);
/// Clients that are kept; certificates that are renewed make new ones.
const MOST_CLIENTS: usize = 64;
/// What is never asked through a proxy, whatever is configured.
const ALWAYS_DIRECT: &str = "localhost,127.0.0.0/8,::1";

/// A client's certificate and its key, as PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Identity(pub(crate) Vec<u8>);

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity")
    }
}

/// Whom a TLS client believes and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Trust {
    /// PEM files beside the system's authorities.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Shown to the host that asks for it.
    pub(crate) identity: Option<Identity>,
    /// Believe anybody.
    pub(crate) skip_verify: bool,
    /// Instead of the usual time for a connection.
    pub(crate) dial_timeout: Option<Duration>,
}

impl Trust {
    /// For a host that one was redirected to: it is believed by the same rules and shown nothing.
    pub(crate) fn abroad(&self) -> Self {
        Self {
            identity: None,
            ..self.clone()
        }
    }
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
    proxies: Proxies,
    made: Mutex<HashMap<(Trust, Scheme), reqwest::Client>>,
}

/// Whether TLS is wanted: a client for plain HTTP needs no authorities on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Clients {
    pub(crate) fn new(patience: Patience, proxies: Proxies) -> Self {
        // Another part of the program may have chosen a provider already; then that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            patience,
            proxies,
            made: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn get(&self, trust: &Trust, scheme: Scheme) -> Result<reqwest::Client, TransportError> {
        let key = (trust.clone(), scheme);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = made.get(&key) {
            return Ok(client.clone());
        }
        if made.len() >= MOST_CLIENTS {
            made.clear();
        }
        let client = self.build(trust, scheme)?;
        made.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, trust: &Trust, scheme: Scheme) -> Result<reqwest::Client, TransportError> {
        let failed = |error: reqwest::Error| TransportError {
            reason: super::error::causes(&error.without_url()),
        };
        let mut authorities = Vec::new();
        for pem in &trust.authorities {
            authorities.extend(reqwest::Certificate::from_pem_bundle(pem).map_err(failed)?);
        }
        let mut builder = self.bare(trust)?;
        if let Some(identity) = &trust.identity {
            // The parser's words are about the form only, never about the key.
            let identity = reqwest::Identity::from_pem(&identity.0).map_err(failed)?;
            builder = builder.identity(identity);
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
            (Err(_), Scheme::Http) => {
                let builder = self.bare(trust)?.tls_certs_only(authorities);
                builder.build().map_err(failed)
            }
        }
    }

    /// All but TLS. Proxies come from the configuration, never from this process's environment.
    fn bare(&self, trust: &Trust) -> Result<reqwest::ClientBuilder, TransportError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("coracle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(trust.dial_timeout.unwrap_or(self.patience.connect))
            .read_timeout(self.patience.stall)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE)
            .no_proxy()
            .referer(false)
            .redirect(redirect::Policy::none());
        let made = [
            self.proxies
                .http
                .as_ref()
                .map(|url| reqwest::Proxy::http(url.as_str())),
            self.proxies
                .https
                .as_ref()
                .map(|url| reqwest::Proxy::https(url.as_str())),
        ];
        for proxy in made.into_iter().flatten() {
            let proxy = proxy.map_err(|_| TransportError {
                reason: "a proxy is no URL".to_owned(),
            })?;
            let direct = format!("{ALWAYS_DIRECT},{}", self.proxies.except);
            builder = builder.proxy(proxy.no_proxy(reqwest::NoProxy::from_string(&direct)));
        }
        Ok(builder)
    }
}
