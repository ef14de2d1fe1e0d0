//! Blobs and manifests to a registry (OCI distribution specification, "Pushing").

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use backon::Retryable as _;
use bytes::Bytes;
use coracle_types::Digest;
use futures::{Stream, stream};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use url::Url;

use super::answer::{busy, content_digest, error_code, header_text, unreachable};
use super::auth::{self, Challenge};
use super::config::wait_for;
use super::endpoint::{Ask, Endpoint};
use super::error::RegistryError;
use super::hosts::Role;
use super::session::{Session, Span};
use crate::progress::LayerState;

/// Bytes of a blob that go in one request; a larger blob goes in several.
const CHUNK: u64 = 64 << 20;
/// Bytes that are read at a time.
const READ: usize = 256 << 10;

/// A registry that takes one repository's blobs and manifests. No mirror ever does.
pub(crate) struct Uploader<'a> {
    session: &'a Session,
    endpoint: &'a Endpoint,
    /// What the last challenge was answered with; another than that for pulls, since it may write.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A blob in a file.
pub(crate) struct Parcel<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    pub(crate) file: &'a Arc<File>,
    pub(crate) state: &'a LayerState,
}

impl Session {
    /// The registry itself, to be written to.
    pub(crate) fn uploader(&self) -> Result<Uploader<'_>, RegistryError> {
        let mut endpoints = self.endpoints.iter();
        let endpoint = endpoints
            .find(|endpoint| endpoint.host.role == Role::Server && endpoint.host.capabilities.push)
            .ok_or_else(|| RegistryError::NoHost {
                registry: self.registry.clone(),
                capability: "push",
            })?;
        Ok(Uploader {
            session: self,
            endpoint,
            authorization: Mutex::new(endpoint.secret.at_once()),
        })
    }
}

impl Uploader<'_> {
    /// Whether the repository has a blob. A registry that does not say has it not: the upload tells why.
    pub(crate) async fn has(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("blobs/{digest}");
        let head = || async {
            let ask = Ask {
                method: Method::HEAD,
                path: &path,
                manifest: false,
                span: Span::WHOLE,
            };
            self.endpoint.send(&ask).await
        };
        match self.again(head).await {
            Ok(_) => Ok(true),
            Err(RegistryError::NotFound { .. } | RegistryError::Denied { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Has the registry take a blob from another of its repositories; false when it would not.
    pub(crate) async fn mount(&self, digest: &Digest, from: &str) -> Result<bool, RegistryError> {
        let mut url = self.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", digest.as_str())
            .append_pair("from", from);
        let post = || {
            self.send(&url, Some(from), |client| {
                client
                    .request(Method::POST, url.clone())
                    .header(CONTENT_LENGTH, 0)
            })
        };
        match self.again(post).await {
            Ok(response) if response.status() == StatusCode::CREATED => Ok(true),
            Ok(response) => {
                // An upload was begun in its place; it is ended so that nothing waits at the registry.
                if let Ok(place) = self.location(&url, &response) {
                    let _ = self
                        .send(&place, None, |client| {
                            client.request(Method::DELETE, place.clone())
                        })
                        .await;
                }
                Ok(false)
            }
            Err(error) if error.is_transient() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Sends a blob; one that broke off is sent anew.
    pub(crate) async fn blob(&self, parcel: &Parcel<'_>) -> Result<(), RegistryError> {
        self.again(|| self.upload(parcel)).await
    }

    async fn upload(&self, parcel: &Parcel<'_>) -> Result<(), RegistryError> {
        parcel.state.set_done(0);
        let begin = self.url("blobs/uploads/");
        let response = self
            .send(&begin, None, |client| {
                client
                    .request(Method::POST, begin.clone())
                    .header(CONTENT_LENGTH, 0)
            })
            .await?;
        let mut place = self.location(&begin, &response)?;
        let mut sent = 0;
        while parcel.size - sent > CHUNK {
            let end = sent + CHUNK;
            let patch = |client: &reqwest::Client| {
                client
                    .request(Method::PATCH, place.clone())
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, CHUNK)
                    .header(CONTENT_RANGE, format!("{sent}-{}", end - 1))
                    .body(body(parcel, sent, end))
            };
            let response = self.send(&place, None, patch).await?;
            place = self.location(&place, &response)?;
            sent = end;
        }
        let mut last = place.clone();
        last.query_pairs_mut()
            .append_pair("digest", parcel.digest.as_str());
        let put = |client: &reqwest::Client| {
            client
                .request(Method::PUT, last.clone())
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, parcel.size - sent)
                .body(body(parcel, sent, parcel.size))
        };
        self.send(&last, None, put).await?;
        parcel.state.set_done(parcel.size);
        Ok(())
    }

    /// Sends a small blob that is in memory.
    pub(crate) async fn small_blob(&self, digest: &Digest, bytes: &Bytes) -> Result<(), RegistryError> {
        let begin = self.url("blobs/uploads/");
        let upload = || async {
            let post = |client: &reqwest::Client| {
                client
                    .request(Method::POST, begin.clone())
                    .header(CONTENT_LENGTH, 0)
            };
            let response = self.send(&begin, None, post).await?;
            let mut place = self.location(&begin, &response)?;
            place.query_pairs_mut().append_pair("digest", digest.as_str());
            let put = |client: &reqwest::Client| {
                client
                    .request(Method::PUT, place.clone())
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .body(bytes.clone())
            };
            self.send(&place, None, put).await.map(drop)
        };
        self.again(upload).await
    }

    /// Sends a manifest under a tag or its digest, and sees to it that it is known by `digest`.
    pub(crate) async fn manifest(
        &self,
        name: &str,
        (digest, bytes): (&Digest, &Bytes),
        media_type: &str,
    ) -> Result<(), RegistryError> {
        let url = self.url(&format!("manifests/{name}"));
        let put = || {
            self.send(&url, None, |client| {
                client
                    .request(Method::PUT, url.clone())
                    .header(CONTENT_TYPE, media_type)
                    .body(bytes.clone())
            })
        };
        let response = self.again(put).await?;
        match content_digest(&response) {
            Some(found) if found != *digest => Err(RegistryError::WrongDigest {
                host: self.endpoint.name.clone(),
                expected: digest.clone(),
                found,
            }),
            _ => Ok(()),
        }
    }

    async fn again<T, F: Future<Output = Result<T, RegistryError>>>(
        &self,
        ask: impl FnMut() -> F,
    ) -> Result<T, RegistryError> {
        ask.retry(self.session.retries.backoff())
            .when(RegistryError::is_transient)
            .adjust(wait_for)
            .notify(|error, wait| tracing::debug!(%error, ?wait, "the registry is asked again"))
            .await
    }

    fn url(&self, path: &str) -> Url {
        self.endpoint.url(path)
    }

    /// Where an upload goes on.
    fn location(&self, asked: &Url, response: &Response) -> Result<Url, RegistryError> {
        let text = header_text(response, LOCATION.as_str());
        let place = asked
            .join(&text)
            .ok()
            .filter(|url| !text.is_empty() && url.scheme() == asked.scheme());
        place.ok_or_else(|| RegistryError::Protocol {
            host: self.endpoint.name.clone(),
            reason: "it says not where an upload goes on (Location)".to_owned(),
        })
    }

    /// One request, its challenge answered at most once. Credentials go to the registry only.
    async fn send(
        &self,
        url: &Url,
        from: Option<&str>,
        build: impl Fn(&reqwest::Client) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let own = url.origin() == self.url("").origin();
        let mut answered = false;
        loop {
            let authorization = {
                let standing = self.authorization.lock().unwrap_or_else(PoisonError::into_inner);
                standing.clone().filter(|_| own)
            };
            let mut request = if own {
                build(&self.endpoint.client).headers(self.endpoint.host.headers.clone())
            } else {
                build(&self.endpoint.abroad)
            };
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response = request
                .send()
                .await
                .map_err(|error| unreachable(&self.endpoint.name, error))?;
            if response.status() != StatusCode::UNAUTHORIZED || !own || answered {
                return self.judge(url, response, authorization.is_some()).await;
            }
            answered = true;
            let value = self.answer(&response, url, from).await?;
            *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        }
    }

    async fn answer(
        &self,
        challenged: &Response,
        url: &Url,
        from: Option<&str>,
    ) -> Result<HeaderValue, RegistryError> {
        let endpoint = self.endpoint;
        let denied = |reason: String| RegistryError::Denied {
            host: endpoint.name.clone(),
            subject: self.endpoint.repository.clone(),
            reason,
        };
        let repository = &self.endpoint.repository;
        match Challenge::read(challenged.headers(), url, repository).map_err(denied)? {
            Challenge::Basic => auth::basic_answer(&endpoint.secret)
                .ok_or_else(|| denied("it wants a user and password, and none were given".to_owned())),
            Challenge::Bearer(bearer) => {
                let bearer = bearer.for_pushing(from);
                let token = endpoint.ask_for_token(&bearer, denied).await?;
                Ok(token.header)
            }
        }
    }

    async fn judge(
        &self,
        url: &Url,
        response: Response,
        authenticated: bool,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let host = self.endpoint.name.clone();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(busy(&host, &response, String::new()));
        }
        let code = error_code(response, authenticated).await;
        // The end of the path: what goes before is the repository, which the error names anyway.
        let path = url
            .path()
            .split(&format!("/{}/", self.endpoint.repository))
            .last()
            .unwrap_or_default();
        let subject = format!("{}/{}", self.endpoint.repository, path.trim_start_matches('/'));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => RegistryError::Denied {
                host,
                subject,
                reason: format!("status {}{code}", status.as_u16()),
            },
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, subject, code },
            _ => RegistryError::Status {
                host,
                status: status.as_u16(),
                code,
                subject,
            },
        })
    }
}

/// A part of a file as a request's body, counted as it goes.
fn body(parcel: &Parcel<'_>, from: u64, end: u64) -> reqwest::Body {
    reqwest::Body::wrap_stream(pieces(Arc::clone(parcel.file), from, end, parcel.state.counter()))
}

fn pieces(
    file: Arc<File>,
    from: u64,
    end: u64,
    count: impl Fn(u64) + Send + Clone + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(from, move |offset| {
        let (file, count) = (Arc::clone(&file), count.clone());
        async move {
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX).min(READ);
            if left == 0 {
                return None;
            }
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; left];
                file.read_exact_at(&mut piece, offset)
                    .map(|()| Bytes::from(piece))
            });
            let piece = read.await.unwrap_or_else(|gone| Err(io::Error::other(gone)));
            let next = offset + left as u64;
            count(next);
            Some((piece, next))
        }
    })
}
