//! A registry in memory that serves what it is given and fails where it is told to: slow, cut, wrong
//! digest, 401, 429, 500, silent. It counts what it is asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, RANGE};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;

use crate::image::Image;

mod answer;

use answer::Body;

/// What goes wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// This status instead, with an empty list of errors; 429 asks to come back after 1 s.
    Status(u16),
    /// Nothing is sent for so long, then the right answer.
    Delay(Duration),
    /// The body comes in pieces of this many bytes, 10 ms apart.
    Slow(usize),
    /// The connection ends after this many bytes of the body, though more were promised.
    Cut(usize),
    /// The connection ends at this byte of the whole, from wherever a part of it was asked for.
    End(usize),
    /// One byte of the body is another one; length and headers are right.
    Corrupt,
    /// The connection stays open and nothing ever comes.
    Silent,
    /// The connection stays open and nothing more comes after this many bytes of the body.
    Stall(usize),
    /// The whole, with status 200, though a part was asked for.
    Whole,
    /// Status 429, and the request to come back after this many seconds.
    Busy(u32),
    /// Status 401 and the way to a token, whatever token was shown.
    Challenge,
    /// Another place is named, with status 307.
    Redirect(String),
    /// This body and type instead of the right ones, with status 200.
    Replace {
        /// What the Content-Type header says.
        content_type: String,
        /// What is sent.
        body: Bytes,
    },
}

/// Trouble with some requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Requests whose path contains this.
    pub path: String,
    /// How often, counted down; `u32::MAX` for always.
    pub times: u32,
    /// What goes wrong.
    pub trouble: Trouble,
}

/// What the registry asks of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Nothing.
    None,
    /// [`super::USER`] and [`super::PASSWORD`] with every request.
    Basic,
    /// A bearer token, got at `/token` for user and password.
    Bearer,
}

/// A request that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// GET, HEAD ...
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The Authorization header.
    pub authorization: Option<String>,
    /// The Range header.
    pub range: Option<String>,
}

#[derive(Debug)]
struct State {
    authority: String,
    login: Login,
    /// By repository and tag or digest.
    manifests: HashMap<(String, String), (String, Bytes)>,
    /// By digest.
    blobs: HashMap<String, Bytes>,
    faults: Vec<Fault>,
    asked: Vec<Asked>,
}

/// A running registry; ends when dropped.
#[derive(Debug)]
pub struct FaultyRegistry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    server: JoinHandle<()>,
}

impl FaultyRegistry {
    /// Serves on a socket that is listening already, so that it can lie in a node's network
    /// ([`crate::node::Node::listen`]).
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn start(listener: std::net::TcpListener) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let state = Arc::new(Mutex::new(State {
            authority: address.to_string(),
            login: Login::None,
            manifests: HashMap::new(),
            blobs: HashMap::new(),
            faults: Vec::new(),
            asked: Vec::new(),
        }));
        let shared = state.clone();
        let server = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                let service = service_fn(move |request| respond(state.clone(), request));
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that hangs up is no failure of the registry.
                connections.spawn(async move { drop(connection.await) });
            }
        });
        Ok(Self {
            address,
            state,
            server,
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Puts an image in; gives the reference to pull it by.
    pub fn add(&self, image: &Image, repository: &str, tag: &str) -> String {
        let mut state = self.state();
        for blob in image.blobs() {
            state.blobs.insert(blob.digest.to_string(), blob.content.clone());
        }
        let manifest = (image.manifest_type().to_owned(), image.manifest().clone());
        for name in [tag, image.digest().as_str()] {
            state
                .manifests
                .insert((repository.to_owned(), name.to_owned()), manifest.clone());
        }
        format!("{}/{repository}:{tag}", self.address)
    }

    /// Puts any bytes in as a manifest, also those that no builder would make.
    pub fn add_manifest(&self, repository: &str, name: &str, content_type: &str, content: impl Into<Bytes>) {
        let manifest = (content_type.to_owned(), content.into());
        self.state()
            .manifests
            .insert((repository.to_owned(), name.to_owned()), manifest);
    }

    /// Puts any bytes in as the blob of a digest, also wrong ones.
    pub fn add_blob(&self, digest: &str, content: impl Into<Bytes>) {
        self.state().blobs.insert(digest.to_owned(), content.into());
    }

    /// From now on; the first fault that fits a request happens to it.
    pub fn fail(&self, path: &str, times: u32, trouble: Trouble) {
        self.state().faults.push(Fault {
            path: path.to_owned(),
            times,
            trouble,
        });
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// What it asks of clients from now on.
    pub fn require(&self, login: Login) {
        self.state().login = login;
    }

    /// What it was asked so far, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    /// How many requests had this in their path.
    #[must_use]
    pub fn count(&self, part: &str) -> usize {
        self.state()
            .asked
            .iter()
            .filter(|asked| asked.path.contains(part))
            .count()
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// The way to a token (RFC 6750, section 3).
fn challenge(authority: &str) -> String {
    format!("Bearer realm=\"http://{authority}/token\",service=\"testkit\"")
}

/// A panic of a test elsewhere does not make what is counted here wrong.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn respond(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let text = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let asked = Asked {
        method: request.method().to_string(),
        path: request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        authorization: text(AUTHORIZATION),
        range: text(RANGE),
    };
    let (right, trouble, authority) = {
        let mut state = lock(&state);
        state.asked.push(asked.clone());
        let trouble = state
            .faults
            .iter_mut()
            .find(|fault| fault.times > 0 && asked.path.contains(&fault.path));
        let trouble = trouble.map(|fault| {
            if fault.times != u32::MAX {
                fault.times -= 1;
            }
            fault.trouble.clone()
        });
        let trouble = trouble.map(|trouble| match trouble {
            Trouble::End(at) => Trouble::Cut(at.saturating_sub(answer::begin(&asked))),
            other => other,
        });
        let known = match trouble {
            Some(Trouble::Whole) => Asked { range: None, ..asked },
            _ => asked,
        };
        (answer::right(&state, &known), trouble, state.authority.clone())
    };
    Ok(answer::troubled(right, trouble, &authority).await)
}

#[cfg(test)]
mod tests;
