//! The hosts of one pull, asked in turn, with their challenges answered.

use std::sync::atomic::Ordering;

use backon::Retryable;
use bytes::Bytes;
use coracle_types::Digest;
use futures::FutureExt;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::answer::{busy, content_digest, error_code, header_text, read_bounded, too_large, unreachable};
use super::auth::{self, Challenge, Secret};
use super::error::RegistryError;
use super::hosts::Role;
use super::{Endpoint, RetryPolicy, wait_for};
use crate::manifest::{ACCEPTED, MAX_DOCUMENT};

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
}

/// Asks the hosts of one pull in turn.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) retries: RetryPolicy,
}

struct Ask<'a> {
    method: Method,
    /// `manifests/latest`, `blobs/sha256:...`.
    path: &'a str,
    manifest: bool,
    /// The first byte wanted.
    offset: u64,
}

impl Session {
    pub(crate) fn retries(&self) -> &RetryPolicy {
        &self.retries
    }

    /// What a tag or digest leads to now, by a request that registries do not count as a pull;
    /// `None` when it cannot be told so cheaply.
    pub(crate) async fn head(&self, target: &Target) -> Option<Digest> {
        let path = format!("manifests/{target}");
        let endpoint = self.usable(matches!(target, Target::Tag(_))).next()?;
        let ask = Ask {
            method: Method::HEAD,
            path: &path,
            manifest: true,
            offset: 0,
        };
        let response = match self.send(endpoint, &ask).await {
            Ok(response) => response,
            Err(error) => {
                // A dead mirror costs its time-out once.
                if error.is_transient() {
                    self.avoid(&endpoint.name);
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
        let resolve = matches!(target, Target::Tag(_));
        self.first_answer(resolve, |endpoint| self.fetch_manifest(endpoint, target).boxed())
            .await
    }

    async fn fetch_manifest(&self, endpoint: &Endpoint, target: &Target) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{target}");
        let ask = Ask {
            method: Method::GET,
            path: &path,
            manifest: true,
            offset: 0,
        };
        let response = self.send(endpoint, &ask).await?;
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
            }),
        }
    }

    /// A small blob (a configuration), whole and verified.
    pub(crate) async fn small_blob(&self, digest: &Digest, size: u64) -> Result<Bytes, RegistryError> {
        self.first_answer(false, |endpoint| self.fetch_blob(endpoint, digest, size).boxed())
            .await
    }

    async fn fetch_blob(
        &self,
        endpoint: &Endpoint,
        digest: &Digest,
        size: u64,
    ) -> Result<Bytes, RegistryError> {
        let path = format!("blobs/{digest}");
        if size > MAX_DOCUMENT {
            return Err(too_large(&endpoint.name, &path, MAX_DOCUMENT));
        }
        let response = self.send(endpoint, &Ask::blob(&path, 0)).await?;
        let bytes = read_bounded(response, size, &endpoint.name, &path).await?;
        let found = Digest::from_sha256(&Sha256::digest(&bytes).into());
        if found == *digest {
            Ok(bytes)
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

    /// Opens a blob at `offset`; the caller verifies what comes.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
    ) -> Result<(&Endpoint, Response), RegistryError> {
        self.first_answer(false, |endpoint| self.open_blob(endpoint, digest, offset).boxed())
            .await
    }

    async fn open_blob<'a>(
        &self,
        endpoint: &'a Endpoint,
        digest: &Digest,
        offset: u64,
    ) -> Result<(&'a Endpoint, Response), RegistryError> {
        let path = format!("blobs/{digest}");
        let response = self.send(endpoint, &Ask::blob(&path, offset)).await?;
        Ok((endpoint, response))
    }

    /// Leaves a mirror out for the rest of this pull; false for the last host that is left.
    pub(crate) fn avoid(&self, name: &str) -> bool {
        let mut others = false;
        for endpoint in self.usable(false) {
            if endpoint.name != name {
                others = true;
            }
        }
        if others {
            for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.name == name) {
                endpoint.avoided.store(true, Ordering::Relaxed);
            }
        }
        others
    }

    fn usable(&self, resolve: bool) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().filter(move |endpoint| {
            let capable = endpoint.host.capabilities;
            let able = if resolve { capable.resolve } else { capable.pull };
            able && !endpoint.avoided.load(Ordering::Relaxed)
        })
    }

    /// Asks one host after the other; only the last is asked repeatedly.
    async fn first_answer<'a, 'b, T>(
        &'a self,
        resolve: bool,
        ask: impl Fn(&'a Endpoint) -> BoxFuture<'b, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let hosts: Vec<&Endpoint> = self.usable(resolve).collect();
        let Some((last, before)) = hosts.split_last() else {
            return Err(RegistryError::NoHost {
                registry: self.registry.clone(),
                capability: if resolve { "resolve" } else { "pull" },
            });
        };
        let mut earlier = Vec::new();
        for endpoint in before {
            match ask(endpoint).await {
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
        (|| ask(last))
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

    /// One request, its challenge answered at most once; any answer but success is an error.
    async fn send(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let url = self.url(endpoint, ask.path);
        let mut answered = false;
        loop {
            let authorization = endpoint.authorization();
            let mut request = endpoint.client.request(ask.method.clone(), url.clone());
            if ask.manifest {
                request = request.header(ACCEPT, ACCEPTED.join(", "));
            }
            if ask.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.offset));
            }
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            let response = request
                .send()
                .await
                .map_err(|error| unreachable(&endpoint.name, error))?;
            // A host that was redirected to has no claim on the credentials (CVE-2020-15157).
            let own = response.url().origin() == url.origin();
            if response.status() != StatusCode::UNAUTHORIZED || !own || answered {
                return self.judge(endpoint, ask, response, authorization.is_some()).await;
            }
            // Another request of this pull may have refreshed the token meanwhile.
            let fresh = endpoint.authorization() != authorization;
            if !fresh {
                answered = true;
                let value = self.answer(endpoint, &response, &url, ask.path).await?;
                endpoint.set_authorization(value);
            }
        }
    }

    fn url(&self, endpoint: &Endpoint, path: &str) -> Url {
        let mut url = endpoint.host.base.clone();
        let root = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{root}/{}/{path}", self.repository));
        if endpoint.host.role == Role::Mirror {
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        url
    }

    /// Meets a challenge with the header to send.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        challenged: &Response,
        asked: &Url,
        subject: &str,
    ) -> Result<HeaderValue, RegistryError> {
        let denied = |reason: String| RegistryError::Denied {
            host: endpoint.name.clone(),
            subject: self.subject(subject),
            reason,
        };
        match Challenge::read(challenged.headers(), asked, &self.repository).map_err(denied)? {
            Challenge::Basic => auth::basic_answer(&endpoint.secret).ok_or_else(|| {
                denied(if endpoint.secret == Secret::None {
                    "it wants a user and password, and none were given".to_owned()
                } else {
                    "it wants a user and password, and only a token was given".to_owned()
                })
            }),
            Challenge::Bearer(bearer) => {
                if matches!(endpoint.secret, Secret::Token(_)) {
                    return Err(denied("it does not accept the registry token".to_owned()));
                }
                let host = bearer.host();
                let request = bearer.request(&endpoint.client, &endpoint.secret);
                let response = request.send().await.map_err(|error| unreachable(&host, error))?;
                let status = response.status();
                if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
                    return Err(busy(&host, &response, String::new()));
                }
                if !status.is_success() {
                    return Err(denied(format!(
                        "its token service {host} answered {}",
                        status.as_u16()
                    )));
                }
                let body = read_bounded(response, auth::MAX_TOKEN, &host, "a token").await?;
                auth::read_token(&body).map_err(|reason| RegistryError::Protocol {
                    host,
                    reason: reason.to_owned(),
                })
            }
        }
    }

    /// Lets success through and turns every other status into an error.
    async fn judge(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        response: Response,
        authenticated: bool,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        let wanted = if ask.offset > 0 {
            status == StatusCode::OK || status == StatusCode::PARTIAL_CONTENT
        } else {
            status == StatusCode::OK
        };
        if wanted {
            return Ok(response);
        }
        let host = endpoint.name.clone();
        if status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || status.is_server_error()
        {
            let hint = busy(&host, &response, String::new());
            let code = error_code(response, authenticated).await;
            return Err(match hint {
                RegistryError::Busy {
                    host,
                    status,
                    retry_after,
                    ..
                } => RegistryError::Busy {
                    host,
                    status,
                    code,
                    retry_after,
                },
                other => other,
            });
        }
        let code = error_code(response, authenticated).await;
        let subject = self.subject(ask.path);
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

    fn subject(&self, path: &str) -> String {
        format!("{}/{path}", self.repository)
    }
}

impl<'a> Ask<'a> {
    fn blob(path: &'a str, offset: u64) -> Self {
        Self {
            method: Method::GET,
            path,
            manifest: false,
            offset,
        }
    }
}
