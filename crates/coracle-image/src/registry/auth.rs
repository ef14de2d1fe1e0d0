//! Answers to `WWW-Authenticate`: basic and bearer, with credentials in all forms that CRI knows.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use coracle_types::image::Credentials;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;
use url::Url;

use super::error::RegistryError;

/// Longest answer of a token service, in bytes.
pub(super) const MAX_TOKEN: u64 = 256 << 10;
/// How this program calls itself to token services.
const CLIENT: &str = "coracle";

/// What may be shown to one host, and to nobody else.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Secret {
    #[default]
    None,
    Password {
        username: String,
        password: String,
    },
    /// An OAuth2 refresh token, exchanged at the token service.
    Identity(String),
    /// A bearer token, sent as it is.
    Token(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    pub(crate) fn read(credentials: &Credentials) -> Result<Self, RegistryError> {
        let malformed = |reason| RegistryError::Credentials { reason };
        if !credentials.registry_token.is_empty() {
            return Ok(Self::Token(credentials.registry_token.clone()));
        }
        if !credentials.identity_token.is_empty() {
            return Ok(Self::Identity(credentials.identity_token.clone()));
        }
        if !credentials.username.is_empty() {
            // How Docker's credential helpers name a refresh token.
            if credentials.username == "<token>" {
                return Ok(Self::Identity(credentials.password.clone()));
            }
            if credentials.username.contains(':') {
                return Err(malformed("a user name holds no colon"));
            }
            return Ok(Self::Password {
                username: credentials.username.clone(),
                password: credentials.password.clone(),
            });
        }
        if credentials.auth.is_empty() {
            return Ok(Self::None);
        }
        let auth = credentials.auth.trim();
        let decoded = STANDARD
            .decode(auth)
            .or_else(|_| STANDARD_NO_PAD.decode(auth))
            .map_err(|_| malformed("`auth` is not base64 of user:password"))?;
        let text = String::from_utf8(decoded).map_err(|_| malformed("`auth` holds no UTF-8 text"))?;
        let (username, password) = text
            .split_once(':')
            .ok_or_else(|| malformed("`auth` is not base64 of user:password"))?;
        Ok(Self::Password {
            username: username.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
        })
    }

    fn basic(&self) -> Option<HeaderValue> {
        match self {
            Self::Password { username, password } => sensitive(&format!(
                "Basic {}",
                STANDARD.encode(format!("{username}:{password}"))
            )),
            _ => None,
        }
    }

    /// What is sent before any challenge.
    pub(crate) fn at_once(&self) -> Option<HeaderValue> {
        match self {
            Self::Token(token) => sensitive(&format!("Bearer {token}")),
            _ => None,
        }
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Whether credentials for `server_address` are for `host` (`host:port`). Docker Hub has many names.
pub(crate) fn is_for(server_address: &str, host: &str) -> bool {
    canonical(server_address) == canonical(host)
}

/// The host of an address, in the one spelling.
pub(super) fn canonical(address: &str) -> String {
    let without_scheme = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = without_scheme.split('/').next().unwrap_or_default();
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io".to_owned(),
        _ => host.strip_suffix(":443").map(str::to_owned).unwrap_or(host),
    }
}

/// What a challenge asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer(Bearer),
}

/// A token service and what to ask it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    realm: Url,
    service: Option<String>,
    scope: String,
}

impl Challenge {
    /// The best challenge of an answer. `asked` is the URL that was challenged; its scheme bounds the
    /// token service's: never plain HTTP for a host that is asked by HTTPS.
    pub(crate) fn read(headers: &HeaderMap, asked: &Url, repository: &str) -> Result<Self, String> {
        let mut basic = false;
        let mut complaint = None;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = header.to_str() else { continue };
            let Ok(challenges) = http_auth::parse_challenges(text) else {
                continue;
            };
            for challenge in challenges {
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = true;
                } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    match bearer(&challenge, asked, repository) {
                        Ok(bearer) => return Ok(Self::Bearer(bearer)),
                        Err(reason) => complaint = Some(reason),
                    }
                }
            }
        }
        match (basic, complaint) {
            (true, _) => Ok(Self::Basic),
            (false, Some(reason)) => Err(reason),
            (false, None) => Err("it says not how to authenticate".to_owned()),
        }
    }
}

fn bearer(challenge: &http_auth::ChallengeRef<'_>, asked: &Url, repository: &str) -> Result<Bearer, String> {
    let parameter = |name: &str| {
        let mut parameters = challenge.params.iter();
        let found = parameters.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = parameter("realm").ok_or("its challenge has no realm")?;
    let realm = Url::parse(&realm).map_err(|_| "the realm of its challenge is no URL")?;
    let allowed = match realm.scheme() {
        "https" => true,
        "http" => asked.scheme() == "http",
        _ => false,
    };
    if !allowed || realm.host_str().is_none() || !realm.username().is_empty() || realm.password().is_some() {
        return Err("the realm of its challenge is not a plain https URL".to_owned());
    }
    // A host that serves below a path knows the repository by another name. Of the rights that it
    // names only pull is asked for.
    let scope = parameter("scope")
        .and_then(|scope| {
            let mut scopes = scope.split(' ');
            let first = scopes.find_map(|scope| scope.strip_prefix("repository:"))?;
            first
                .rsplit_once(':')
                .map(|(name, _)| format!("repository:{name}:pull"))
        })
        .unwrap_or_else(|| format!("repository:{repository}:pull"));
    Ok(Bearer {
        realm,
        service: parameter("service"),
        scope,
    })
}

/// The header that answers a basic challenge.
pub(super) fn basic_answer(secret: &Secret) -> Option<HeaderValue> {
    secret.basic()
}

impl Bearer {
    /// The request that asks the token service.
    pub(super) fn request(&self, client: &reqwest::Client, secret: &Secret) -> reqwest::RequestBuilder {
        if let Secret::Identity(token) = secret {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token")
                .append_pair("client_id", CLIENT)
                .append_pair("scope", &self.scope)
                .append_pair("refresh_token", token);
            if let Some(service) = &self.service {
                form.append_pair("service", service);
            }
            return client
                .post(self.realm.clone())
                .header("content-type", "application/x-www-form-urlencoded")
                .body(form.finish());
        }
        let mut url = self.realm.clone();
        url.query_pairs_mut().append_pair("scope", &self.scope);
        if let Some(service) = &self.service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let request = client.get(url);
        match secret.basic() {
            Some(basic) => request.header("authorization", basic),
            None => request,
        }
    }

    /// The same with the right to write; and to read `from`, for blobs that another repository has.
    pub(super) fn for_pushing(mut self, from: Option<&str>) -> Self {
        if let Some(repository) = self.scope.strip_suffix(":pull") {
            self.scope = format!("{repository}:pull,push");
        }
        if let Some(from) = from {
            self.scope.push_str(&format!(" repository:{from}:pull"));
        }
        self
    }

    /// Host and port of the token service.
    pub(super) fn host(&self) -> String {
        super::display_host(&self.realm)
    }

    /// Whether the token service is that host.
    pub(super) fn is_of(&self, base: &Url) -> bool {
        self.realm.origin() == base.origin()
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a token service gave.
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// How long it is good for; a service that does not say means a minute (distribution, token
    /// specification), and is believed only when the token is refused.
    pub(super) life: Option<Duration>,
}

/// Reads a token service's answer.
pub(super) fn read_token(body: &[u8]) -> Result<Token, &'static str> {
    let answer: TokenAnswer = serde_json::from_slice(body).map_err(|_| "its token answer is no JSON")?;
    let token = answer
        .token
        .filter(|token| !token.is_empty())
        .or(answer.access_token)
        .ok_or("its answer has no token")?;
    let header = sensitive(&format!("Bearer {token}")).ok_or("its token holds control characters")?;
    Ok(Token {
        header,
        life: answer.expires_in.map(Duration::from_secs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(header: &str, asked: &str) -> Result<Challenge, String> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, header.parse().unwrap());
        Challenge::read(&headers, &asked.parse().unwrap(), "team/app")
    }

    #[test]
    fn credentials_of_every_form_are_read() {
        let mut credentials = Credentials {
            auth: STANDARD.encode("user:pa:ss"),
            ..Credentials::default()
        };
        let read = Secret::read(&credentials).unwrap();
        assert!(
            matches!(read, Secret::Password { username, password } if username == "user" && password == "pa:ss")
        );
        credentials.identity_token = "refresh".to_owned();
        assert!(matches!(Secret::read(&credentials), Ok(Secret::Identity(_))));
        credentials.registry_token = "bearer".to_owned();
        assert!(matches!(Secret::read(&credentials), Ok(Secret::Token(_))));
        let bad = Credentials {
            auth: "s3cret!".to_owned(),
            ..Credentials::default()
        };
        let error = Secret::read(&bad).unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }

    #[test]
    fn docker_hub_s_names_are_one_registry() {
        assert!(is_for("https://index.docker.io/v1/", "docker.io"));
        assert!(is_for("R.example", "r.example:443"));
        assert!(!is_for("r.example", "r.example:5000"));
        assert!(!is_for("evil.example/r.example", "r.example"));
    }

    #[test]
    fn only_pull_is_asked_for_and_only_of_plain_urls() {
        let read = challenge(
            r#"Bearer realm="https://auth.example/token",service="s",scope="repository:p/team/app:pull,push""#,
            "https://r.example/v2/",
        );
        assert!(matches!(read, Ok(Challenge::Bearer(b)) if b.scope == "repository:p/team/app:pull"));
        for realm in [
            "http://auth.example/t",
            "file:///etc/passwd",
            "https://u:p@auth.example/",
        ] {
            let header = format!("Bearer realm=\"{realm}\"");
            assert!(challenge(&header, "https://r.example/v2/").is_err(), "{realm}");
        }
        assert!(challenge("Bearer realm=\"http://a/t\"", "http://127.0.0.1:5000/v2/").is_ok());
        assert_eq!(
            challenge("Basic realm=\"x\"", "https://r.example/"),
            Ok(Challenge::Basic)
        );
        assert!(challenge("Negotiate", "https://r.example/").is_err());
    }

    #[test]
    fn a_token_service_is_the_host_itself_by_scheme_name_and_port() {
        let base = Url::parse("https://r.example/v2/").unwrap();
        for (realm, own) in [
            ("https://r.example/token", true),
            ("https://r.example:443/token", true),
            ("https://r.example:8443/token", false),
            ("https://auth.r.example/token", false),
        ] {
            let read = challenge(&format!("Bearer realm=\"{realm}\""), base.as_str());
            let Ok(Challenge::Bearer(bearer)) = read else {
                panic!("{realm}: {read:?}")
            };
            assert_eq!(bearer.is_of(&base), own, "{realm}");
        }
    }
}
