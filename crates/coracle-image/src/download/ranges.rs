//! The rest of a blob over several connections: pieces are fetched side by side and sent in their order.
//!
//! Memory is bounded by permits that all downloads share: a piece has one from before it is asked for
//! until the last of its bytes is sent. They are taken in the order of the pieces, so that the piece that
//! is next to be sent always has one and nothing waits in a circle. The first piece under way goes by
//! the download's own connection; others only while the node's limit leaves one.

use backon::BackoffBuilder;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use reqwest::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Broken, Feed, PROGRESS, first_byte};
use crate::registry::config::wait_for;
use crate::registry::error::RegistryError;
use crate::registry::{Body, PIECE, Session, Span, Turn};

/// What goes into the channel at once, so that what waits there is little.
const CHUNK: usize = 128 << 10;

/// How it ended.
pub(super) enum Ended {
    /// All is sent, or nobody wants more.
    Whole,
    /// The host answers ranges with the whole.
    Refused,
}

struct Piece {
    bytes: Bytes,
    host: String,
    /// Goes with the piece until it is sent.
    memory: OwnedSemaphorePermit,
}

enum Fault {
    Registry(RegistryError),
    NoRanges,
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Self::Registry(error)
    }
}

impl Feed<'_> {
    /// Sends what is left. The download has the permit of one connection already.
    pub(super) async fn ranges(&mut self, chunks: &mpsc::Sender<Bytes>) -> Result<Ended, RegistryError> {
        tracing::debug!(layer = %self.digest, offset = self.offset, "the rest comes in parallel ranges");
        let (ready, mut sent) = mpsc::channel(1);
        let (session, digest, from, size) = (self.session, self.digest, self.offset, self.size);
        let fetching = fetch_all(session, digest, from..size, ready);
        let sending = async move {
            while let Some(piece) = sent.recv().await {
                let Piece {
                    mut bytes,
                    host,
                    memory,
                } = piece;
                self.hosts.insert(host);
                while !bytes.is_empty() {
                    let chunk = bytes.split_to(bytes.len().min(CHUNK));
                    self.offset += chunk.len() as u64;
                    if chunks.send(chunk).await.is_err() {
                        return;
                    }
                    self.state.set_done(self.offset);
                }
                drop(memory);
            }
        };
        // Each ends with the other: a receiver without pieces, pieces without a receiver.
        let (fetched, ()) = futures::join!(fetching, sending);
        match fetched {
            Ok(()) => Ok(Ended::Whole),
            Err(Fault::NoRanges) => Ok(Ended::Refused),
            Err(Fault::Registry(error)) => Err(error),
        }
    }
}

/// Fetches all pieces, so many at a time as connections and memory allow, into `ready` in their order.
async fn fetch_all(
    session: &Session,
    digest: &coracle_types::Digest,
    mut rest: std::ops::Range<u64>,
    ready: mpsc::Sender<Piece>,
) -> Result<(), Fault> {
    let slots = session.slots();
    let mut under_way = FuturesOrdered::new();
    // The connection of a piece that is done goes to the next one.
    let mut idle: Option<Turn> = None;
    loop {
        while !rest.is_empty() && under_way.len() < session.downloads().parts {
            let connection = match (under_way.is_empty(), idle.take()) {
                (_, Some(turn)) => Some(turn),
                (true, None) => None,
                (false, None) => match session.turn_now() {
                    Some(turn) => Some(turn),
                    None => break,
                },
            };
            let memory = match slots.pieces.clone().try_acquire_owned() {
                Ok(permit) => permit,
                Err(_) if !under_way.is_empty() => {
                    idle = connection;
                    break;
                }
                // Those that have all of it are being sent.
                Err(_) => match slots.pieces.clone().acquire_owned().await {
                    Ok(permit) => permit,
                    Err(_) => return Ok(()),
                },
            };
            let length = PIECE.min(rest.end - rest.start);
            let from = rest.start;
            rest.start += length;
            under_way.push_back(async move {
                let fetched = fetch(session, digest, from, length).await;
                (fetched, memory, connection)
            });
        }
        let Some((fetched, memory, connection)) = under_way.next().await else {
            return Ok(());
        };
        idle = connection.or(idle);
        let (bytes, host) = fetched?;
        let piece = Piece { bytes, host, memory };
        if ready.send(piece).await.is_err() {
            return Ok(());
        }
    }
}

/// One piece, tried again from where it broke off.
async fn fetch(
    session: &Session,
    digest: &coracle_types::Digest,
    from: u64,
    length: u64,
) -> Result<(Bytes, String), Fault> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or_default());
    let mut waits = session.retries().backoff().build();
    let mut settled = 0;
    loop {
        let done = bytes.len() as u64;
        let span = Span {
            from: from + done,
            length: Some(length - done),
        };
        // Opening is tried again by the session itself.
        let (endpoint, response) = session.blob(digest, span).await?;
        let host = endpoint.name().to_owned();
        if response.status() == StatusCode::OK {
            return Err(Fault::NoRanges);
        }
        first_byte(&host, &response, span).map_err(|Broken { error, .. }| error)?;
        let mut body = Body::new(response, &host, session.retries().stall_timeout);
        let error = loop {
            match body.chunk().await {
                Ok(Some((chunk, _))) => {
                    // More than was asked for is left where it is.
                    let missing = usize::try_from(length).unwrap_or(usize::MAX) - bytes.len();
                    bytes.extend_from_slice(&chunk[..chunk.len().min(missing)]);
                    if bytes.len() as u64 == length {
                        return Ok((bytes.freeze(), host));
                    }
                }
                Ok(None) => {
                    break RegistryError::Cut {
                        host: host.clone(),
                        subject: format!("blob {digest}"),
                        received: from + bytes.len() as u64,
                        size: from + length,
                    };
                }
                Err(error) => break error,
            }
        };
        session.broke_off(&host, &error);
        if bytes.len() as u64 >= settled + PROGRESS {
            settled = bytes.len() as u64;
            waits = session.retries().backoff().build();
        }
        let Some(wait) = wait_for(&error, waits.next()) else {
            return Err(error.into());
        };
        tracing::debug!(%error, from, ?wait, "a piece of a blob broke off and is resumed");
        tokio::time::sleep(wait).await;
    }
}
