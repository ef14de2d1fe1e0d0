//! A registry and its mirrors, asked for one repository's manifests and blobs.
//!
//! Written on reqwest since a general registry client reads manifests without a bound, hides
//! `Retry-After`, and knows neither mirrors below a path nor several hosts for one registry.

mod answer;
pub(crate) mod auth;
pub(crate) mod breaker;
pub(crate) mod config;
pub(crate) mod credentials;
mod endpoint;
pub(crate) mod error;
pub(crate) mod hosts;
mod session;
pub(crate) mod transport;
pub(crate) mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use coracle_types::image::Credentials;
use tokio::sync::Semaphore;
use url::Url;

pub(crate) use self::answer::Body;
use self::auth::Secret;
use self::breaker::{Breakers, HostPause};
use self::config::{Downloads, RegistryConfig};
use self::credentials::Book;
use self::endpoint::Endpoint;
use self::error::RegistryError;
use self::hosts::{Host, Role};
pub(crate) use self::session::{Fetched, Session, Span, Target, Turn};
use self::transport::{Clients, Patience, Scheme};
use crate::reference::Reference;

/// Bytes that are fetched at a time of a layer that comes in ranges.
pub(crate) const PIECE: u64 = 4 << 20;
/// Pieces of all pulls that may be in memory: 32 MiB.
const PIECES: usize = 8;

/// All registries, as the node's configuration has them.
#[derive(Debug)]
pub(crate) struct Registries {
    config: RegistryConfig,
    clients: Arc<Clients>,
    slots: Arc<Slots>,
    breakers: Arc<Breakers>,
}

/// What all downloads share.
#[derive(Debug)]
pub(crate) struct Slots {
    /// One for each connection that brings a blob.
    pub(crate) connections: Arc<Semaphore>,
    /// One for each piece in memory.
    pub(crate) pieces: Arc<Semaphore>,
    /// What one registry may have of the connections, by its name, while something is pulled from it.
    shares: Mutex<HashMap<String, Weak<Semaphore>>>,
    /// How many that are.
    share: usize,
}

impl Slots {
    fn new(downloads: Downloads) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(downloads.connections.max(1))),
            pieces: Arc::new(Semaphore::new(PIECES)),
            shares: Mutex::default(),
            share: (downloads.connections.max(1) * 3).div_ceil(4),
        }
    }

    /// One for each connection to a registry: a slow one must leave some to the others.
    fn share(&self, registry: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(registry).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.share));
        shares.insert(registry.to_owned(), Arc::downgrade(&share));
        share
    }
}

impl Registries {
    pub(crate) fn new(config: RegistryConfig) -> Self {
        Self {
            clients: Arc::new(clients(&config)),
            slots: Arc::new(Slots::new(config.downloads)),
            breakers: Arc::default(),
            config,
        }
    }

    /// The same with another configuration: what is known of hosts stays, connections and the count of
    /// downloads where they are not concerned.
    pub(crate) fn reconfigured(&self, config: RegistryConfig) -> Self {
        let (old, new) = (&self.config, &config);
        let same_clients = old.proxies == new.proxies
            && old.retries.connect_timeout == new.retries.connect_timeout
            && old.retries.stall_timeout == new.retries.stall_timeout;
        let same_slots = old.downloads.connections == new.downloads.connections;
        Self {
            clients: if same_clients {
                Arc::clone(&self.clients)
            } else {
                Arc::new(clients(new))
            },
            slots: if same_slots {
                Arc::clone(&self.slots)
            } else {
                Arc::new(Slots::new(new.downloads))
            },
            breakers: Arc::clone(&self.breakers),
            config,
        }
    }

    /// How much is fetched at a time.
    pub(crate) fn downloads(&self) -> Downloads {
        self.config.downloads
    }

    /// The hosts that are being left alone.
    pub(crate) fn paused(&self) -> Vec<HostPause> {
        self.breakers.paused(Instant::now())
    }

    /// The hosts of one pull. Credentials of the request go to the registry itself, or where their
    /// `server_address` says; to no mirror else. A host that gets none of them may have some in the
    /// node's configuration.
    pub(crate) async fn session(
        &self,
        reference: &Reference,
        credentials: Option<&Credentials>,
    ) -> Result<Session, RegistryError> {
        let (config, asked) = (self.config.clone(), reference.clone());
        let found = tokio::task::spawn_blocking(move || {
            let hosts = hosts::hosts_for(&config, &asked)?;
            let book = Book::open(&config.credentials, config.auth_file.as_deref())?;
            Ok::<_, RegistryError>((hosts, book))
        });
        let (hosts, book) = found.await.map_err(|_| RegistryError::NoHost {
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
            let secret = match credentials {
                Some(credentials) if is_meant(credentials, &host, reference) => Secret::read(credentials)?,
                _ => own_secret(&book, &host, reference),
            };
            let client = self.clients.get(&host.trust, scheme)?;
            let abroad = self.clients.get(&host.trust.abroad(), scheme)?;
            endpoints.push(Endpoint::new(host, secret, (client, abroad), reference));
        }
        Ok(Session {
            registry: reference.registry().to_owned(),
            endpoints,
            retries: self.config.retries.clone(),
            downloads: self.config.downloads,
            share: self.slots.share(reference.registry()),
            slots: Arc::clone(&self.slots),
            breakers: Arc::clone(&self.breakers),
        })
    }
}

fn clients(config: &RegistryConfig) -> Clients {
    let patience = Patience {
        connect: config.retries.connect_timeout,
        stall: config.retries.stall_timeout,
    };
    Clients::new(patience, config.proxies.clone())
}

fn is_meant(credentials: &Credentials, host: &Host, reference: &Reference) -> bool {
    if credentials.server_address.is_empty() {
        return host.role == Role::Server;
    }
    let for_registry = auth::is_for(&credentials.server_address, reference.registry());
    (host.role == Role::Server && for_registry)
        || auth::is_for(&credentials.server_address, &display_host(&host.base))
}

/// What the node has for a host by its own name; for the registry itself also by the reference's.
fn own_secret(book: &Book, host: &Host, reference: &Reference) -> Secret {
    let repository = host.repository.as_deref().unwrap_or(reference.repository());
    let found = book.find(&display_host(&host.base), repository).or_else(|| {
        let registry = || book.find(reference.registry(), reference.repository());
        (host.role == Role::Server).then(registry).flatten()
    });
    found.unwrap_or_default()
}

/// Host and port of a URL, for errors: never path or query, which may hold secrets.
pub(crate) fn display_host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn clients_and_slots_are_made_anew_when_what_they_are_made_of_changed() {
        let begun = Registries::new(RegistryConfig::default());
        let kept = |change: fn(&mut RegistryConfig)| {
            let mut config = RegistryConfig::default();
            change(&mut config);
            let after = begun.reconfigured(config);
            (
                Arc::ptr_eq(&begun.clients, &after.clients),
                Arc::ptr_eq(&begun.slots, &after.slots),
            )
        };
        assert_eq!(kept(|_| {}), (true, true));
        assert_eq!(kept(|config| config.retries.attempts += 1), (true, true));
        let longer = |config: &mut RegistryConfig| config.retries.connect_timeout += Duration::from_secs(1);
        assert_eq!(kept(longer), (false, true));
        assert_eq!(
            kept(|config| config.proxies.except = "a.example".to_owned()),
            (false, true)
        );
        assert_eq!(kept(|config| config.downloads.connections += 1), (true, false));
    }

    #[test]
    fn one_registry_has_a_part_of_the_connections_and_leaves_nothing_behind() {
        let slots = Slots::new(Downloads {
            connections: 4,
            ..Downloads::default()
        });
        let share = slots.share("a.example");
        assert_eq!(share.available_permits(), 3);
        let same = slots.share("a.example");
        assert!(Arc::ptr_eq(&share, &same));
        drop((share, same));
        let _other = slots.share("b.example");
        assert_eq!(slots.shares.lock().unwrap().len(), 1);
    }
}
