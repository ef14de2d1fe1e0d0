//! The types of keys about registries: credentials, proxies, an optional file. None of them is written with
//! its secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use coracle_types::image::Credentials;
use reqwest::Url;
use serde_json::json;

use super::value::{Setting, Value, quoted};

/// What stands for a secret where it is shown.
const HIDDEN: &str = "***";

/// Credentials by registry, or registry and path below it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CredentialTable(pub(crate) BTreeMap<String, Credentials>);

/// Where an entry goes.
type Place = fn(&mut Credentials) -> &mut String;

/// The names of a table's entries, and where they go.
const FIELDS: [(&str, Place); 5] = [
    ("username", |credentials| &mut credentials.username),
    ("password", |credentials| &mut credentials.password),
    ("auth", |credentials| &mut credentials.auth),
    ("identity_token", |credentials| &mut credentials.identity_token),
    ("registry_token", |credentials| &mut credentials.registry_token),
];

impl Setting for CredentialTable {
    const WHAT: &'static str = "a table of registries, each with username and password, auth, identity_token or \
                                registry_token";
    const SECRET: bool = true;

    fn read(value: &Value) -> Result<Self, String> {
        let Value::Table(registries) = value else {
            return Err(format!("{}; credentials stand in files only", Self::refuse()));
        };
        let mut all = BTreeMap::new();
        for (registry, value) in registries {
            let about = |words: &str| format!("{registry:?}: {words}");
            let Value::Table(given) = value else {
                return Err(about(
                    "write a table such as { username = \"...\", password = \"...\" }",
                ));
            };
            let host = registry.split('/').next().unwrap_or_default();
            let probe = format!("{registry}/x").parse::<coracle_image::Reference>();
            if !probe
                .is_ok_and(|read| read.registry().eq_ignore_ascii_case(host) || host == "index.docker.io")
            {
                return Err(about(
                    "give a registry such as \"registry.example:5000\", with or without a path",
                ));
            }
            let mut credentials = Credentials::default();
            for (name, value) in given {
                let field = FIELDS.iter().find(|(known, _)| known == name);
                let (_, place) = field.ok_or_else(|| {
                    let names: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
                    about(&format!("{name} is none of {}", names.join(", ")))
                })?;
                let Value::Text(text) = value else {
                    return Err(about(&format!("{name} is text in quotes")));
                };
                text.clone_into(place(&mut credentials));
            }
            let with_password = !credentials.username.is_empty() && !credentials.password.is_empty();
            let others = [
                &credentials.auth,
                &credentials.identity_token,
                &credentials.registry_token,
            ];
            let forms = usize::from(with_password) + others.iter().filter(|text| !text.is_empty()).count();
            if forms != 1 || (!with_password && !credentials.username.is_empty()) {
                return Err(about(
                    "give username and password, or one of auth, identity_token, registry_token",
                ));
            }
            all.insert(registry.clone(), credentials);
        }
        Ok(Self(all))
    }

    fn write(&self) -> String {
        let mut entries = Vec::with_capacity(self.0.len());
        for (registry, credentials) in &self.0 {
            let mut copy = credentials.clone();
            let given = FIELDS.iter().filter_map(|(name, place)| {
                let text = place(&mut copy);
                let shown = if *name == "username" {
                    text.as_str()
                } else {
                    HIDDEN
                };
                (!text.is_empty()).then(|| format!("{name} = {}", quoted(shown)))
            });
            let given: Vec<String> = given.collect();
            entries.push(format!("{} = {{ {} }}", quoted(registry), given.join(", ")));
        }
        if entries.is_empty() {
            "{}".to_owned()
        } else {
            format!("{{ {} }}", entries.join(", "))
        }
    }

    fn schema() -> serde_json::Value {
        let fields: serde_json::Map<String, serde_json::Value> = FIELDS
            .iter()
            .map(|(name, _)| ((*name).to_owned(), json!({"type": "string"})))
            .collect();
        json!({
            "type": "object",
            "additionalProperties": {"type": "object", "properties": fields, "additionalProperties": false},
        })
    }
}

/// A proxy, or none.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct ProxyUrl(pub(crate) Option<Url>);

impl ProxyUrl {
    fn shown(&self) -> String {
        let Some(mut url) = self.0.clone() else {
            return String::new();
        };
        if !url.username().is_empty() || url.password().is_some() {
            // A proxy's URL has a host, so both can be set.
            let _ = url.set_password(None);
            let _ = url.set_username(HIDDEN);
        }
        url.to_string()
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Setting for ProxyUrl {
    const WHAT: &'static str = "a proxy such as \"http://proxy.example:3128\", or \"\" for none";
    const SECRET: bool = true;

    fn read(value: &Value) -> Result<Self, String> {
        let (Value::Text(text) | Value::Word(text)) = value else {
            return Err(Self::refuse());
        };
        if text.is_empty() {
            return Ok(Self(None));
        }
        // `proxy:3128`, as the variables have it often.
        let whole = if text.contains("://") {
            text.clone()
        } else {
            format!("http://{text}")
        };
        let url = Url::parse(&whole).map_err(|_| Self::refuse())?;
        if matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty()) {
            Ok(Self(Some(url)))
        } else {
            Err(format!(
                "{}; only proxies that speak HTTP are known",
                Self::refuse()
            ))
        }
    }

    fn write(&self) -> String {
        quoted(&self.shown())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string"})
    }
}

/// Who is asked without a proxy.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NoProxy(pub(crate) String);

impl Setting for NoProxy {
    const WHAT: &'static str = "names, domains and networks with commas, such as \".example.com,10.0.0.0/8\"";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Word(text) if !text.contains(char::is_control) => {
                Ok(Self(text.clone()))
            }
            _ => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string"})
    }
}

/// A path, or none.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct OptionalPath(pub(crate) Option<PathBuf>);

impl Setting for OptionalPath {
    const WHAT: &'static str = "an absolute path, or \"\" for none";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Text(text) | Value::Word(text) if text.is_empty() => Ok(Self(None)),
            _ => PathBuf::read(value).map(|path| Self(Some(path))),
        }
    }

    fn write(&self) -> String {
        self.0.as_ref().map_or_else(|| quoted(""), Setting::write)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^$|^/"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<CredentialTable, String> {
        let text = format!("x = {text}");
        let parsed = toml::de::DeTable::parse(&text).unwrap();
        CredentialTable::read(&Value::of_toml(
            parsed.get_ref().values().next().unwrap().get_ref(),
        ))
    }

    #[test]
    fn credentials_have_one_form_each_and_are_written_without_secrets() {
        let read = table(
            "{ \"r.example:5000\" = { username = \"kim\", password = \"s3cret\" }, \"docker.io/team\" = { auth = \"s3cret\" }, \
             \"a.example\" = { identity_token = \"s3cret\" }, \"b.example\" = { registry_token = \"s3cret\" } }",
        )
        .unwrap();
        assert_eq!(read.0.len(), 4);
        assert_eq!(read.0["r.example:5000"].password, "s3cret");
        let shown = format!("{} {read:?}", read.write());
        assert!(shown.contains("kim") && !shown.contains("s3cret"), "{shown}");
        for bad in [
            "3",
            "\"s3cret\"",
            "{ \"r.example\" = \"s3cret\" }",
            "{ \"r.example\" = {} }",
            "{ \"r.example\" = { username = \"kim\" } }",
            "{ \"r.example\" = { password = \"s3cret\" } }",
            "{ \"r.example\" = { username = \"kim\", password = \"s3cret\", auth = \"s3cret\" } }",
            "{ \"r.example\" = { passwort = \"s3cret\" } }",
            "{ \"r.example\" = { auth = [\"s3cret\"] } }",
            "{ \"https://r.example\" = { auth = \"s3cret\" } }",
            "{ team = { auth = \"s3cret\" } }",
        ] {
            let refused = table(bad).unwrap_err();
            assert!(!refused.contains("s3cret"), "{refused}");
        }
        assert!(CredentialTable::read(&Value::Word("kim:s3cret".to_owned())).is_err());
    }

    #[test]
    fn proxies_are_written_without_their_passwords() {
        let read = |text: &str| ProxyUrl::read(&Value::Word(text.to_owned()));
        let proxy = read("http://kim:s3cret@proxy.example:3128").unwrap();
        let shown = format!("{} {proxy:?}", proxy.write());
        assert!(
            shown.contains("proxy.example:3128") && !shown.contains("s3cret"),
            "{shown}"
        );
        assert_eq!(
            read("proxy.example:3128").unwrap().write(),
            "\"http://proxy.example:3128/\""
        );
        assert_eq!(read(""), Ok(ProxyUrl(None)));
        assert!(read("socks5://kim:s3cret@proxy").is_err_and(|words| !words.contains("s3cret")));
    }
}
