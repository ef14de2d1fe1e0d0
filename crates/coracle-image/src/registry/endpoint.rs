//! One host within one pull: requests with their redirects followed and their challenges answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::Url;

use super::answer::{busy, error_code, header_text, read_bounded, unreachable};
use super::auth::{self, Bearer, Challenge, Secret, Token};
use super::error::RegistryError;
use super::hosts::Host;
use super::session::Span;
use crate::manifest::ACCEPTED;
use crate::reference::Reference;

/// Redirects that are followed in one request.
const MAX_REDIRECTS: usize = 10;
/// Challenges that one request meets: its own answer, and those that others got meanwhile.
const MAX_CHALLENGES: usize = 3;
/// A token that ends so soon is renewed before it is used.
const ENDING: Duration = Duration::from_secs(5);

/// One host within one pull.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(super) name: String,
    pub(super) host: Host,
    /// The repository as this host calls it.
    pub(super) repository: String,
    /// A mirror that failed is not asked again in this pull.
    pub(super) avoided: AtomicBool,
    /// The registry that it stands in for, where it wants to know.
    told: Option<String>,
    pub(super) client: reqwest::Client,
    /// For where it redirects to: shows no certificate of ours.
    pub(super) abroad: reqwest::Client,
    pub(super) secret: Secret,
    standing: Mutex<Standing>,
    /// Whether it turned out to speak plain HTTP only, and may.
    plain: AtomicBool,
}

/// What the last challenge was answered with.
#[derive(Debug, Default)]
struct Standing {
    header: Option<HeaderValue>,
    /// Where the header came from and when it ends, if it says so.
    renewal: Option<(Bearer, Instant)>,
}

/// What is asked of a host.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// `manifests/latest`, `blobs/sha256:...`.
    pub(super) path: &'a str,
    pub(super) manifest: bool,
    pub(super) span: Span,
}

impl<'a> Ask<'a> {
    pub(super) fn manifest(method: Method, path: &'a str) -> Self {
        Self {
            method,
            path,
            manifest: true,
            span: Span::WHOLE,
        }
    }

    pub(super) fn blob(path: &'a str, span: Span) -> Self {
        Self {
            method: Method::GET,
            path,
            manifest: false,
            span,
        }
    }
}

impl Endpoint {
    pub(super) fn new(
        host: Host,
        secret: Secret,
        (client, abroad): (reqwest::Client, reqwest::Client),
        reference: &Reference,
    ) -> Self {
        let standing = Standing {
            header: secret.at_once(),
            renewal: None,
        };
        Self {
            name: super::display_host(&host.base),
            repository: host
                .repository
                .clone()
                .unwrap_or_else(|| reference.repository().to_owned()),
            told: host.told.then(|| reference.registry().to_owned()),
            standing: Mutex::new(standing),
            client,
            abroad,
            secret,
            avoided: AtomicBool::new(false),
            plain: AtomicBool::new(false),
            host,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, its challenge answered at most once; any answer but success is an error.
    pub(super) async fn send(&self, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let (mut answered, mut challenges) = (false, 0);
        loop {
            let authorization = self.authorization(ask.path).await?;
            let (response, own) = self.exchange(ask, authorization.as_ref()).await?;
            // A host that was redirected to has no claim on the credentials (CVE-2020-15157).
            if response.status() != StatusCode::UNAUTHORIZED
                || !own
                || answered
                || challenges == MAX_CHALLENGES
            {
                return self.judge(ask, response, authorization.is_some()).await;
            }
            // Another request of this pull may have renewed the token meanwhile.
            let mine = self.standing().header == authorization;
            if mine {
                answered = true;
                self.answer(&response, ask.path).await?;
            }
            challenges += 1;
        }
    }

    /// What to show; renewed where it is known to end.
    async fn authorization(&self, subject: &str) -> Result<Option<HeaderValue>, RegistryError> {
        let ending = {
            let standing = self.standing();
            match &standing.renewal {
                Some((bearer, end)) if Instant::now() + ENDING >= *end => bearer.clone(),
                _ => return Ok(standing.header.clone()),
            }
        };
        self.token(ending, subject).await?;
        Ok(self.standing().header.clone())
    }

    /// The request at the host and wherever it redirects to; whether the answer is the host's own.
    async fn exchange(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Response, bool), RegistryError> {
        let broken = |reason: &str| RegistryError::Protocol {
            host: self.name.clone(),
            reason: reason.to_owned(),
        };
        let (mut at, mut response) = self.first(ask, authorization).await?;
        let (origin, mut own) = (at.origin(), true);
        for _ in 0..MAX_REDIRECTS {
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((response, own));
            }
            let location = header_text(&response, LOCATION.as_str());
            if location.is_empty() {
                return Err(broken("it redirects and does not say where to"));
            }
            let mut next = at
                .join(&location)
                .map_err(|_| broken("its redirect leads nowhere"))?;
            match (at.scheme(), next.scheme()) {
                ("http", "http") | (_, "https") => {}
                ("https", "http") => return Err(broken("the redirect leads from https to http")),
                _ => return Err(broken("the redirect leads to no http or https URL")),
            }
            // A name and password of the URL itself would be made into a header.
            let bare = next.set_username("").and_then(|()| next.set_password(None));
            bare.map_err(|()| broken("its redirect leads nowhere"))?;
            // Once it left, nothing is shown any more, also not when it comes back.
            own = own && next.origin() == origin;
            at = next;
            let sent = if own {
                self.request(&self.client, at.clone(), ask, authorization)
            } else {
                ask.on(self.abroad.request(ask.method.clone(), at.clone()))
            };
            response = sent
                .send()
                .await
                .map_err(|error| unreachable(&self.name, error))?;
        }
        if response.status().is_redirection() {
            return Err(broken("more than 10 redirects"));
        }
        Ok((response, own))
    }

    /// The request itself, by plain HTTP where that is allowed and TLS is not spoken.
    async fn first(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Url, Response), RegistryError> {
        let url = self.url(ask.path);
        let sent = self
            .request(&self.client, url.clone(), ask, authorization)
            .send()
            .await;
        let error = match sent {
            Ok(response) => return Ok((url, response)),
            Err(error) => error,
        };
        let may = self.host.plain_fallback && error.is_connect() && !self.plain.load(Ordering::Relaxed);
        if !may {
            return Err(unreachable(&self.name, error));
        }
        self.plain.store(true, Ordering::Relaxed);
        let url = self.url(ask.path);
        let sent = self
            .request(&self.client, url.clone(), ask, authorization)
            .send()
            .await;
        sent.map(|response| (url, response)).map_err(|again| {
            self.plain.store(false, Ordering::Relaxed);
            // A host that is away is away both ways; one that wants TLS says so by the first error.
            unreachable(&self.name, if again.is_connect() { error } else { again })
        })
    }

    fn request(
        &self,
        client: &reqwest::Client,
        url: Url,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> reqwest::RequestBuilder {
        let request = client
            .request(ask.method.clone(), url)
            .headers(self.host.headers.clone());
        let request = ask.on(request);
        match authorization {
            Some(value) => request.header(AUTHORIZATION, value.clone()),
            None => request,
        }
    }

    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.host.base.clone();
        if self.plain.load(Ordering::Relaxed) {
            // From one to the other of the two web schemes, which URLs allow.
            let _ = url.set_scheme("http");
        }
        let root = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{root}/{}/{path}", self.repository));
        if let Some(registry) = &self.told {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        url
    }

    /// Meets a challenge with a header that is sent from now on.
    async fn answer(&self, challenged: &Response, subject: &str) -> Result<(), RegistryError> {
        let denied = |reason: String| self.denied(subject, reason);
        let asked = self.url(subject);
        match Challenge::read(challenged.headers(), &asked, &self.repository).map_err(denied)? {
            Challenge::Basic => {
                let header = auth::basic_answer(&self.secret).ok_or_else(|| {
                    denied(if self.secret == Secret::None {
                        "it wants a user and password, and none were given".to_owned()
                    } else {
                        "it wants a user and password, and only a token was given".to_owned()
                    })
                })?;
                let mut standing = self.standing();
                standing.header = Some(header);
                standing.renewal = None;
                Ok(())
            }
            Challenge::Bearer(_) if matches!(self.secret, Secret::Token(_)) => {
                Err(denied("it does not accept the registry token".to_owned()))
            }
            Challenge::Bearer(bearer) => self.token(bearer, subject).await,
        }
    }

    /// Gets a token that is shown from now on.
    async fn token(&self, bearer: Bearer, subject: &str) -> Result<(), RegistryError> {
        let denied = |reason| self.denied(subject, reason);
        let token = self.ask_for_token(&bearer, denied).await?;
        // A life that is over when it begins would have each request ask twice; its end is seen by 401.
        let life = token.life.filter(|life| *life > 2 * ENDING);
        let mut standing = self.standing();
        standing.header = Some(token.header);
        standing.renewal = life.map(|life| (bearer, Instant::now() + life));
        Ok(())
    }

    /// Asks the token service that a challenge named. Only where it is this host itself does it see the
    /// certificate that is meant for the host. `denied` makes the error of a service that refuses.
    pub(super) async fn ask_for_token(
        &self,
        bearer: &Bearer,
        denied: impl Fn(String) -> RegistryError,
    ) -> Result<Token, RegistryError> {
        let host = bearer.host();
        let client = if bearer.is_of(&self.host.base) {
            &self.client
        } else {
            &self.abroad
        };
        let response = bearer.request(client, &self.secret).send().await;
        let response = response.map_err(|error| unreachable(&host, error))?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() {
            return Err(busy(&host, &response, String::new()));
        }
        if !status.is_success() {
            let reason = format!("its token service {host} answered {}", status.as_u16());
            return Err(denied(reason));
        }
        let body = read_bounded(response, auth::MAX_TOKEN, &host, "a token").await?;
        auth::read_token(&body).map_err(|reason| RegistryError::Protocol {
            host,
            reason: reason.to_owned(),
        })
    }

    fn denied(&self, subject: &str, reason: String) -> RegistryError {
        RegistryError::Denied {
            host: self.name.clone(),
            subject: self.subject(subject),
            reason,
        }
    }

    /// Lets success through and turns every other status into an error.
    async fn judge(
        &self,
        ask: &Ask<'_>,
        response: Response,
        authenticated: bool,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        let part = ask.span != Span::WHOLE && status == StatusCode::PARTIAL_CONTENT;
        if status == StatusCode::OK || part {
            return Ok(response);
        }
        let host = self.name.clone();
        if status == StatusCode::TOO_MANY_REQUESTS
            || status == StatusCode::REQUEST_TIMEOUT
            || status.is_server_error()
        {
            let hint = busy(&host, &response, String::new());
            let told = error_code(response, authenticated).await;
            return Err(match hint {
                RegistryError::Busy {
                    host,
                    status,
                    retry_after,
                    ..
                } => RegistryError::Busy {
                    host,
                    status,
                    code: told,
                    retry_after,
                },
                other => other,
            });
        }
        let code = error_code(response, authenticated).await;
        let subject = self.subject(ask.path);
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.denied(ask.path, format!("status {}{code}", status.as_u16()))
            }
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

impl Ask<'_> {
    /// What is asked for, without anything secret.
    fn on(&self, mut request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        if self.manifest {
            request = request.header(ACCEPT, ACCEPTED.join(", "));
        }
        match (self.span.from, self.span.length) {
            (0, None) => request,
            (from, None) => request.header(RANGE, format!("bytes={from}-")),
            (from, Some(length)) => {
                let last = from.saturating_add(length.max(1)) - 1;
                request.header(RANGE, format!("bytes={from}-{last}"))
            }
        }
    }
}
