//! The hosts of one pull, asked in turn, with their challenges answered.

mod referrers;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use backon::Retryable;
use bytes::Bytes;
use coracle_types::Digest;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Slots;
use super::answer::{content_digest, header_text, read_bounded, too_large};
use super::breaker::Breakers;
use super::config::{Downloads, RetryPolicy, wait_for};
use super::endpoint::{Ask, Endpoint};
use super::error::RegistryError;
use crate::manifest::MAX_DOCUMENT;

/// A tag or a digest of a manifest.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tag(String),
    Digest(Digest),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// A manifest or index as it came, verified against its digest where that was known.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    /// Who gave it.
    pub(crate) host: String,
}

/// Asks the hosts of one pull in turn.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) registry: String,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) retries: RetryPolicy,
    pub(super) downloads: Downloads,
    pub(super) slots: Arc<Slots>,
    pub(super) share: Arc<Semaphore>,
    pub(super) breakers: Arc<Breakers>,
}

/// The right to a connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _permits: [OwnedSemaphorePermit; 2],
}

/// Which bytes of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from: u64,
    /// To the end when it is not said.
    pub(crate) length: Option<u64>,
}

impl Span {
    pub(crate) const WHOLE: Self = Self {
        from: 0,
        length: None,
    };
}

/// What a host must be able to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Give content by digest.
    Pull,
    /// Turn a tag into a digest.
    Resolve,
}

impl Need {
    fn of(target: &Target) -> Self {
        match target {
            Target::Tag(_) => Self::Resolve,
            Target::Digest(_) => Self::Pull,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Resolve => "resolve",
        }
    }
}

impl Session {
    pub(crate) fn retries(&self) -> &RetryPolicy {
        &self.retries
    }

    pub(crate) fn downloads(&self) -> Downloads {
        self.downloads
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Waits for the right to one more connection that brings a blob; `None` when there are no more to come.
    pub(crate) async fn turn(&self) -> Option<Turn> {
        let of_registry = self.share.clone().acquire_owned().await.ok()?;
        let of_node = self.slots.connections.clone().acquire_owned().await.ok()?;
        Some(Turn {
            _permits: [of_registry, of_node],
        })
    }

    /// The same where it is to be had at once.
    pub(crate) fn turn_now(&self) -> Option<Turn> {
        let of_registry = self.share.clone().try_acquire_owned().ok()?;
        let of_node = self.slots.connections.clone().try_acquire_owned().ok()?;
        Some(Turn {
            _permits: [of_registry, of_node],
        })
    }

    /// What a tag or digest leads to now, by a request that registries do not count as a pull;
    /// `None` when it cannot be told so cheaply.
    pub(crate) async fn head(&self, target: &Target) -> Option<Digest> {
        let path = format!("manifests/{target}");
        let hosts: Vec<&Endpoint> = self.usable(Need::of(target)).collect();
        let (last, before) = hosts.split_last()?;
        let now = Instant::now();
        let mut before = before.iter();
        let endpoint = before.find(|endpoint| self.breakers.admit(endpoint.name(), now).is_ok());
        let endpoint = endpoint.unwrap_or(last);
        let asked = endpoint.send(&Ask::manifest(Method::HEAD, &path)).await;
        self.note(endpoint, asked.as_ref().err());
        let response = match asked {
            Ok(response) => response,
            Err(error) => {
                // A dead mirror costs its time-out once.
                if error.is_transient() {
                    self.avoid(endpoint.name());
                }
                return None;
            }
        };
        let digest: Digest = content_digest(&response)?;
        match target {
            Target::Digest(wanted) if *wanted != digest => None,
            _ => Some(digest),
        }
    }

    /// A manifest or index, at most 4 MiB, with its digest verified.
    pub(crate) async fn manifest(&self, target: &Target) -> Result<Fetched, RegistryError> {
        self.first_answer(Need::of(target), |endpoint| {
            self.fetch_manifest(endpoint, target).boxed()
        })
        .await
    }

    async fn fetch_manifest(&self, endpoint: &Endpoint, target: &Target) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{target}");
        let response = endpoint.send(&Ask::manifest(Method::GET, &path)).await?;
        let announced = content_digest(&response);
        let media_type = header_text(&response, CONTENT_TYPE.as_str());
        let bytes = read_bounded(response, MAX_DOCUMENT, &endpoint.name, &path).await?;
        let found = Digest::from_sha256(&Sha256::digest(&bytes).into());
        let expected = match target {
            Target::Digest(digest) => Some(digest.clone()),
            Target::Tag(_) => announced,
        };
        match expected {
            Some(expected) if expected != found => Err(RegistryError::WrongDigest {
                host: endpoint.name.clone(),
                expected,
                found,
            }),
            _ => Ok(Fetched {
                bytes,
                media_type,
                digest: found,
                host: endpoint.name.clone(),
            }),
        }
    }

    /// A small blob (a configuration), whole and verified, and the host that gave it.
    pub(crate) async fn small_blob(
        &self,
        digest: &Digest,
        size: u64,
    ) -> Result<(Bytes, String), RegistryError> {
        self.first_answer(Need::Pull, |endpoint| {
            self.fetch_blob(endpoint, digest, size).boxed()
        })
        .await
    }

    async fn fetch_blob(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        size: u64,
    ) -> Result<(Bytes, String), RegistryError> {
        let path = format!("blobs/{digest}");
        if size > MAX_DOCUMENT {
            return Err(too_large(&endpoint.name, &path, MAX_DOCUMENT));
        }
        let response = endpoint.send(&Ask::blob(&path, Span::WHOLE)).await?;
        let bytes = read_bounded(response, size, &endpoint.name, &path).await?;
        let found = Digest::from_sha256(&Sha256::digest(&bytes).into());
        if found == *digest {
            Ok((bytes, endpoint.name.clone()))
        } else if (bytes.len() as u64) < size {
            Err(RegistryError::Cut {
                host: endpoint.name.clone(),
                subject: path,
                received: bytes.len() as u64,
                size,
            })
        } else {
            Err(RegistryError::WrongDigest {
                host: endpoint.name.clone(),
                expected: digest.clone(),
                found,
            })
        }
    }

    /// Opens a blob; the caller verifies what comes, also that it is the part that was asked for.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        span: Span,
    ) -> Result<(&Endpoint, Response), RegistryError> {
        self.first_answer(Need::Pull, |endpoint| {
            self.open_blob(endpoint, digest, span).boxed()
        })
        .await
    }

    async fn open_blob<'a>(
        &self,
        endpoint: &'a Endpoint,
        digest: &Digest,
        span: Span,
    ) -> Result<(&'a Endpoint, Response), RegistryError> {
        let path = format!("blobs/{digest}");
        let response = endpoint.send(&Ask::blob(&path, span)).await?;
        Ok((endpoint, response))
    }

    /// Leaves a mirror out for the rest of this pull; false for the last host that is left.
    pub(crate) fn avoid(&self, name: &str) -> bool {
        let others = self.usable(Need::Pull).any(|endpoint| endpoint.name != name);
        if others {
            for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.name == name) {
                endpoint.avoided.store(true, Ordering::Relaxed);
            }
        }
        others
    }

    /// A host broke off in the middle of a body.
    pub(crate) fn broke_off(&self, name: &str, error: &RegistryError) {
        self.breakers
            .failed(name, error, self.retries.host_pause, Instant::now());
        self.avoid(name);
    }

    fn usable(&self, need: Need) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| {
            let capable = endpoint.host.capabilities;
            let able = match need {
                Need::Pull => capable.pull,
                Need::Resolve => capable.resolve,
            };
            able && !endpoint.avoided.load(Ordering::Relaxed)
        })
    }

    /// Remembers for all pulls how a host answered. Whatever it says, it is not dead.
    fn note(&self, endpoint: &Endpoint, error: Option<&RegistryError>) {
        match error {
            Some(error) if error.is_transient() => {
                let pause = self.retries.host_pause;
                self.breakers
                    .failed(endpoint.name(), error, pause, Instant::now());
            }
            _ => self.breakers.succeeded(endpoint.name()),
        }
    }

    async fn noted<'a, 'b, T>(
        &self,
        endpoint: &'a Endpoint,
        ask: &impl Fn(&'a Endpoint) -> BoxFuture<'b, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let answer = ask(endpoint).await;
        self.note(endpoint, answer.as_ref().err());
        answer
    }

    /// Asks one host after the other, but for those that are being left alone; only the last is asked
    /// in any case, and repeatedly.
    async fn first_answer<'a, 'b, T>(
        &'a self,
        need: Need,
        ask: impl Fn(&'a Endpoint) -> BoxFuture<'b, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let hosts: Vec<&Endpoint> = self.usable(need).collect();
        let Some((last, before)) = hosts.split_last() else {
            return Err(RegistryError::NoHost {
                registry: self.registry.clone(),
                capability: need.name(),
            });
        };
        let mut earlier = Vec::new();
        for endpoint in before {
            if let Err(reason) = self.breakers.admit(endpoint.name(), Instant::now()) {
                earlier.push(reason);
                continue;
            }
            match self.noted(endpoint, &ask).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    tracing::debug!(%error, "the next host is asked");
                    if error.is_transient() {
                        endpoint.avoided.store(true, Ordering::Relaxed);
                    }
                    earlier.push(error.to_string());
                }
            }
        }
        (|| self.noted(last, &ask))
            .retry(self.retries.backoff())
            .when(RegistryError::is_transient)
            .adjust(wait_for)
            .notify(|error, wait| tracing::debug!(%error, ?wait, "the registry is asked again"))
            .await
            .map_err(|error| {
                if earlier.is_empty() {
                    error
                } else {
                    RegistryError::All {
                        last: Box::new(error),
                        earlier,
                    }
                }
            })
    }
}
