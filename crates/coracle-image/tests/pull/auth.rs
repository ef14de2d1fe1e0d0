//! Credentials reach the registry they are for, in every form, and nobody and nothing else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};

use crate::image::Image;
use crate::node::Node;
use crate::server::{Asked, Reply, Server, is_layer, right};

const USER: &str = "kim";
const PASSWORD: &str = "Pa55word-never-shown";
const TOKEN: &str = "t0ken-never-shown";

fn password() -> Option<Credentials> {
    Some(Credentials {
        username: USER.to_owned(),
        password: PASSWORD.to_owned(),
        ..Credentials::default()
    })
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")))
}

fn authorization(asked: &Asked) -> &str {
    asked.headers.get("authorization").map_or("", String::as_str)
}

fn secretless(text: &str) {
    let encoded = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    for secret in [PASSWORD, TOKEN, &encoded] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// A registry that wants a bearer token of its own token service.
async fn bearer_registry(image: &Image) -> Server {
    let image = image.clone();
    Server::start(move |asked| {
        if asked.path.starts_with("/token") {
            let by_password = asked.method == "GET" && authorization(asked) == basic();
            let by_refresh = asked.method == "POST" && asked.body.contains("refresh_token=refresh-me");
            let scoped = "scope=repository%3Ateam%2Fapp%3Apull";
            let right_scope = asked.path.contains(scoped) || asked.body.contains(scoped);
            return if (by_password || by_refresh) && right_scope {
                Reply::status(200).body(format!("{{\"token\":\"{TOKEN}\"}}").as_bytes())
            } else {
                Reply::status(401)
            };
        }
        if authorization(asked) == format!("Bearer {TOKEN}") {
            return right(&image, asked);
        }
        let realm = format!("http://{}/token", asked.headers["host"]);
        let challenge = format!("Bearer realm=\"{realm}\",service=\"s\",scope=\"repository:team/app:pull\"");
        Reply::status(401).header("www-authenticate", &challenge)
    })
    .await
}

#[tokio::test]
async fn root_every_form_of_credentials_opens_the_registry() {
    let image = Image::small("private");
    let forms = [
        password().unwrap(),
        Credentials {
            auth: STANDARD.encode(format!("{USER}:{PASSWORD}")),
            ..Credentials::default()
        },
        Credentials {
            identity_token: "refresh-me".to_owned(),
            ..Credentials::default()
        },
        Credentials {
            registry_token: TOKEN.to_owned(),
            ..Credentials::default()
        },
    ];
    for credentials in forms {
        let server = bearer_registry(&image).await;
        let node = Node::new().await;
        let reference = server.reference("team/app:1");
        let pulled = node.pull_as(&reference, Some(credentials)).await.unwrap();
        assert_eq!(pulled.id, image.id());
        let challenged = server
            .asked()
            .iter()
            .filter(|asked| authorization(asked).is_empty())
            .count();
        assert!(challenged <= 2, "the token is used again: {challenged}");
    }
}

#[tokio::test]
async fn root_wrong_credentials_are_denied_without_showing_them() {
    let server = bearer_registry(&Image::small("private")).await;
    let node = Node::new().await;
    let reference = server.reference("team/app:1");
    let mut wrong = password().unwrap();
    wrong.username = "lee".to_owned();
    for credentials in [None, Some(wrong)] {
        let error = node.pull_as(&reference, credentials).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        secretless(&format!("{error} {error:?}"));
    }
    let for_another = Credentials {
        server_address: "other.example".to_owned(),
        ..password().unwrap()
    };
    node.pull_as(&reference, Some(for_another)).await.unwrap_err();
    assert!(server.asked().iter().all(|asked| authorization(asked) != basic()));
    let named = Credentials {
        server_address: format!("http://{}/v2/", server.address),
        ..password().unwrap()
    };
    node.pull_as(&reference, Some(named)).await.unwrap();
}

#[tokio::test]
async fn root_a_registry_that_only_challenges_is_left() {
    let server = Server::start(|asked| {
        if asked.path.starts_with("/token") {
            return Reply::status(200).body(format!("{{\"access_token\":\"{TOKEN}\"}}").as_bytes());
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", asked.headers["host"]);
        let told = format!(
            "{{\"errors\":[{{\"code\":\"DENIED\",\"message\":\"{}\"}}]}}",
            authorization(asked)
        );
        Reply::status(401)
            .header("www-authenticate", &realm)
            .body(told.as_bytes())
    })
    .await;
    let node = Node::new().await;
    let error = node
        .pull_as(&server.reference("app:1"), password())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(error.to_string().contains("DENIED"), "{error}");
    secretless(&format!("{error} {error:?}"));
    assert!(server.asked().len() <= 3, "{}", server.asked().len());
}

#[tokio::test]
async fn root_cve_2020_15157_redirects_carry_no_credentials() {
    let image = Image::small("private");
    let served = image.clone();
    let store = Server::start(move |asked| right(&served, asked)).await;
    let (served, elsewhere) = (image.clone(), store.address.clone());
    let server = Server::start(move |asked| {
        if authorization(asked) != basic() {
            return Reply::status(401).header("www-authenticate", "Basic realm=\"x\"");
        }
        if is_layer(&served, asked) {
            let signed = format!("http://{elsewhere}{}?signature={TOKEN}", asked.path);
            return Reply::status(307).header("location", &signed);
        }
        right(&served, asked)
    })
    .await;
    let node = Node::new().await;
    node.pull_as(&server.reference("app:1"), password())
        .await
        .unwrap();
    assert!(!store.asked().is_empty());
    for asked in store.asked() {
        assert_eq!(authorization(&asked), "", "{asked:?}");
        assert!(!asked.headers.contains_key("referer"));
    }
}

#[tokio::test]
async fn root_a_redirect_s_target_cannot_ask_for_credentials_nor_show_in_errors() {
    let evil = Server::start(|asked| {
        let realm = format!("http://{}/token", asked.headers["host"]);
        Reply::status(401).header("www-authenticate", &format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let image = Image::small("private");
    let elsewhere = evil.address.clone();
    let server = Server::start(move |asked| {
        if authorization(asked) != basic() {
            return Reply::status(401).header("www-authenticate", "Basic realm=\"x\"");
        }
        if is_layer(&image, asked) {
            let signed = format!("http://{elsewhere}/blob?signature={TOKEN}");
            return Reply::status(307).header("location", &signed);
        }
        right(&image, asked)
    })
    .await;
    let node = Node::new().await;
    let error = node
        .pull_as(&server.reference("app:1"), password())
        .await
        .unwrap_err();
    secretless(&format!("{error} {error:?}"));
    assert!(evil.asked().iter().all(|asked| authorization(asked).is_empty()));
    assert!(evil.asked().iter().all(|asked| !asked.path.starts_with("/token")));
    node.assert_empty().await;
}
