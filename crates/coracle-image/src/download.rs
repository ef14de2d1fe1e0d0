//! A blob's bytes from the network into a channel, picked up again where a connection broke, and over
//! several connections where one alone is what the unpacker waits for.

mod ranges;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use backon::BackoffBuilder;
use bytes::{Buf, Bytes};
use coracle_types::Digest;
use reqwest::StatusCode;
use tokio::sync::mpsc;

use crate::progress::LayerState;
use crate::registry::config::wait_for;
use crate::registry::error::RegistryError;
use crate::registry::{Body, Session, Span};

/// Progress that makes a broken connection count as a first one again.
const PROGRESS: u64 = 1 << 20;
/// Bytes of one connection after which it is asked whether it or the unpacker is slower.
const SAMPLE: u64 = 4 << 20;
/// Part of the time that must have gone by waiting for the network.
const MOSTLY: f64 = 0.6;

/// A blob on its way.
pub(crate) struct Feed<'a> {
    session: &'a Session,
    digest: &'a Digest,
    size: u64,
    state: &'a LayerState,
    offset: u64,
    /// Whether ranges may still be tried.
    split: bool,
    /// Hosts that gave a part of it.
    pub(crate) hosts: BTreeSet<String>,
}

/// How a connection ended that did not break.
enum Ended {
    /// All is sent, or nobody wants more.
    Whole,
    /// There is much to come, and it comes slower than it is unpacked.
    Slow,
}

impl<'a> Feed<'a> {
    pub(crate) fn new(session: &'a Session, digest: &'a Digest, size: u64, state: &'a LayerState) -> Self {
        Self {
            session,
            digest,
            size,
            state,
            offset: 0,
            split: session.downloads().parts > 1,
            hosts: BTreeSet::new(),
        }
    }

    /// Sends the blob's `size` bytes, or fewer when the receiver goes away. Opening is tried again by
    /// the session; what is tried again here is a connection that broke in the middle.
    pub(crate) async fn run(&mut self, chunks: mpsc::Sender<Bytes>) -> Result<(), RegistryError> {
        let Some(_turn) = self.session.turn().await else {
            return Ok(());
        };
        let mut waits = self.session.retries().backoff().build();
        let mut settled = 0;
        loop {
            let error = match self.stream(&chunks).await {
                Ok(Ended::Whole) => return Ok(()),
                Ok(Ended::Slow) => match self.ranges(&chunks).await? {
                    ranges::Ended::Whole => return Ok(()),
                    // The host knows no ranges after all: the rest comes as it came before.
                    ranges::Ended::Refused => {
                        self.split = false;
                        continue;
                    }
                },
                Err(error) => error,
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

    async fn stream(&mut self, chunks: &mpsc::Sender<Bytes>) -> Result<Ended, Broken> {
        let rest = Span {
            from: self.offset,
            length: None,
        };
        let opened = self.session.blob(self.digest, rest).await;
        let (endpoint, response) = opened.map_err(|error| Broken {
            error,
            in_body: false,
        })?;
        let host = endpoint.name().to_owned();
        self.hosts.insert(host.clone());
        let mut skip = first_byte(&host, &response, rest)?;
        let mut body = Body::new(response, &host, self.session.retries().stall_timeout);
        let mut sample = Sample::new(self.offset);
        loop {
            let (mut chunk, waited) = match body.chunk().await {
                Ok(Some(came)) => came,
                Ok(None) => break,
                Err(error) => return Err(self.broken(&host, error)),
            };
            sample.waited += waited;
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
                return Ok(Ended::Whole);
            }
            self.state.set_done(self.offset);
            let much = self.size - self.offset > self.session.downloads().split_above;
            if self.split && much && sample.is_slow(self.offset) {
                return Ok(Ended::Slow);
            }
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
        Ok(Ended::Whole)
    }

    /// A mirror that breaks off is not asked for the rest.
    fn broken(&self, host: &str, error: RegistryError) -> Broken {
        self.session.broke_off(host, &error);
        Broken { error, in_body: true }
    }
}

/// Where the time goes: to the network, or to whoever takes the bytes.
struct Sample {
    began: Instant,
    waited: Duration,
    from: u64,
}

impl Sample {
    fn new(from: u64) -> Self {
        Self {
            began: Instant::now(),
            waited: Duration::ZERO,
            from,
        }
    }

    /// Once in a while: whether it went to the network.
    fn is_slow(&mut self, offset: u64) -> bool {
        if offset < self.from + SAMPLE {
            return false;
        }
        let slow = self.waited > self.began.elapsed().mul_f64(MOSTLY);
        *self = Self::new(offset);
        slow
    }
}

/// How many bytes come that are here already: a host may answer a range with the whole.
fn first_byte(host: &str, response: &reqwest::Response, span: Span) -> Result<u64, Broken> {
    if span == Span::WHOLE {
        return Ok(0);
    }
    if response.status() == StatusCode::OK {
        return Ok(span.from);
    }
    let range = response.headers().get("content-range");
    let range = range.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if range.starts_with(&format!("bytes {}-", span.from)) {
        Ok(0)
    } else {
        Err(Broken {
            error: RegistryError::Protocol {
                host: host.to_owned(),
                reason: format!("asked for bytes from {} on, it sent another part", span.from),
            },
            in_body: true,
        })
    }
}

struct Broken {
    error: RegistryError,
    in_body: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_slow_when_it_is_what_is_waited_for() {
        let after_a_second = |waited: u64| Sample {
            began: Instant::now() - Duration::from_secs(1),
            waited: Duration::from_millis(waited),
            from: 100,
        };
        assert!(after_a_second(900).is_slow(100 + SAMPLE));
        assert!(
            !after_a_second(300).is_slow(100 + SAMPLE),
            "the unpacker is slower"
        );
        let mut early = after_a_second(900);
        assert!(!early.is_slow(99 + SAMPLE), "too little has come to tell");
        assert!(early.is_slow(100 + SAMPLE));
        assert!(
            !early.is_slow(100 + 2 * SAMPLE),
            "each sample is judged by itself"
        );
    }
}
