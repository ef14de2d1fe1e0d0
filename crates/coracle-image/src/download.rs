//! A blob's bytes from the network into a channel, picked up again where a connection broke.

use std::collections::BTreeSet;
use std::time::Duration;

use backon::BackoffBuilder;
use bytes::{Buf, Bytes};
use coracle_types::Digest;
use reqwest::StatusCode;
use tokio::sync::mpsc;

use crate::progress::LayerState;
use crate::registry::error::RegistryError;
use crate::registry::{Session, broken_body, wait_for};

/// Progress that makes a broken connection count as a first one again.
const PROGRESS: u64 = 1 << 20;

/// A blob on its way.
pub(crate) struct Feed<'a> {
    session: &'a Session,
    digest: &'a Digest,
    size: u64,
    state: &'a LayerState,
    offset: u64,
    /// Hosts that gave a part of it.
    pub(crate) hosts: BTreeSet<String>,
}

impl<'a> Feed<'a> {
    pub(crate) fn new(session: &'a Session, digest: &'a Digest, size: u64, state: &'a LayerState) -> Self {
        Self {
            session,
            digest,
            size,
            state,
            offset: 0,
            hosts: BTreeSet::new(),
        }
    }

    /// Sends the blob's `size` bytes, or fewer when the receiver goes away. Opening is tried again by
    /// the session; what is tried again here is a connection that broke in the middle.
    pub(crate) async fn run(&mut self, chunks: mpsc::Sender<Bytes>) -> Result<(), RegistryError> {
        let mut waits = self.session.retries().backoff().build();
        let mut settled = 0;
        loop {
            let Err(error) = self.stream(&chunks).await else {
                return Ok(());
            };
            if !error.in_body || !error.error.is_transient() {
                return Err(error.error);
            }
            if self.offset >= settled + PROGRESS {
                settled = self.offset;
                waits = self.session.retries().backoff().build();
            }
            let wait: Option<Duration> = wait_for(&error.error, waits.next());
            let Some(wait) = wait else {
                return Err(error.error);
            };
            tracing::debug!(error = %error.error, offset = self.offset, ?wait, "a blob broke off and is resumed");
            tokio::time::sleep(wait).await;
        }
    }

    async fn stream(&mut self, chunks: &mpsc::Sender<Bytes>) -> Result<(), Broken> {
        let opened = self.session.blob(self.digest, self.offset).await;
        let (endpoint, mut response) = opened.map_err(|error| Broken {
            error,
            in_body: false,
        })?;
        let host = endpoint.name().to_owned();
        self.hosts.insert(host.clone());
        let mut skip = self.first_byte(&host, &response)?;
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(self.broken(&host, broken_body(&host, error))),
            };
            let mut chunk = chunk;
            if skip > 0 {
                let skipped = skip.min(chunk.len() as u64);
                chunk.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
                skip -= skipped;
            }
            if chunk.is_empty() {
                continue;
            }
            if self.offset + chunk.len() as u64 > self.size {
                let error = RegistryError::TooLarge {
                    host: host.clone(),
                    subject: format!("blob {}", self.digest),
                    limit: self.size,
                };
                return Err(self.broken(&host, error));
            }
            self.offset += chunk.len() as u64;
            if chunks.send(chunk).await.is_err() {
                return Ok(());
            }
            self.state.set_done(self.offset);
        }
        if self.offset < self.size {
            let error = RegistryError::Cut {
                host: host.clone(),
                subject: format!("blob {}", self.digest),
                received: self.offset,
                size: self.size,
            };
            return Err(self.broken(&host, error));
        }
        Ok(())
    }

    /// How many bytes come that are here already: a host may answer a range with the whole.
    fn first_byte(&self, host: &str, response: &reqwest::Response) -> Result<u64, Broken> {
        if self.offset == 0 {
            return Ok(0);
        }
        if response.status() == StatusCode::OK {
            return Ok(self.offset);
        }
        let range = response.headers().get("content-range");
        let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
        if range.starts_with(&format!("bytes {}-", self.offset)) {
            Ok(0)
        } else {
            Err(Broken {
                error: RegistryError::Protocol {
                    host: host.to_owned(),
                    reason: format!("asked for bytes from {} on, it sent another part", self.offset),
                },
                in_body: true,
            })
        }
    }

    /// A mirror that breaks off is not asked for the rest.
    fn broken(&self, host: &str, error: RegistryError) -> Broken {
        self.session.avoid(host);
        Broken { error, in_body: true }
    }
}

struct Broken {
    error: RegistryError,
    in_body: bool,
}
