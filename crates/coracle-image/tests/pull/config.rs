//! What the node's own configuration decides: registries.conf, headers, credentials that no request brings.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};

use crate::image::Image;
use crate::node::Node;
use crate::server::{Asked, Reply, Server, is_layer, right};

const SECRET: &str = "Pa55word-never-shown";

fn password(user: &str) -> Credentials {
    Credentials {
        username: user.to_owned(),
        password: SECRET.to_owned(),
        ..Credentials::default()
    }
}

fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{SECRET}")))
}

fn shown(asked: &Asked, name: &str) -> String {
    asked.headers.get(name).cloned().unwrap_or_default()
}

/// A registry that wants a user's password.
async fn guarded(image: &Image, user: &'static str) -> Server {
    let image = image.clone();
    Server::start(move |asked| {
        if shown(asked, "authorization") == basic(user) {
            right(&image, asked)
        } else {
            Reply::status(401).header("www-authenticate", "Basic realm=\"x\"")
        }
    })
    .await
}

fn conf(node: &Node, text: &str) {
    std::fs::write(node.dir.path().join("registries.conf"), text).unwrap();
}

#[tokio::test]
async fn root_a_registries_conf_leads_elsewhere_by_its_own_names() {
    let image = Image::small("x");
    let served = image.clone();
    let mirror = Server::start(move |asked| right(&served, asked)).await;
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    conf(
        &node,
        &format!(
            "[[registry]]\nprefix = \"r.example/team\"\nlocation = \"{}/projects\"\n\
             [[registry.mirror]]\nlocation = \"{}/cache\"\npull-from-mirror = \"digest-only\"\n\
             [[registry]]\nprefix = \"evil.example\"\nblocked = true\n",
            server.address, mirror.address
        ),
    );
    let pulled = node.pull("r.example/team/app:1").await.unwrap();
    assert!(
        pulled.repo_tags.contains("r.example/team/app:1"),
        "{:?}",
        pulled.repo_tags
    );
    assert!(mirror.asked().is_empty(), "it is for digests only");
    assert!(
        server
            .asked()
            .iter()
            .all(|asked| asked.path.starts_with("/v2/projects/app/"))
    );
    node.images.remove("r.example/team/app:1").await.unwrap();
    let by_digest = format!("r.example/team/app@{}", image.manifest_digest());
    node.pull(&by_digest).await.unwrap();
    assert!(
        mirror
            .asked()
            .iter()
            .all(|asked| asked.path.starts_with("/v2/cache/app/"))
    );
    assert!(mirror.asked().len() >= 3);
    let error = node.pull("evil.example/app").await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
    assert!(error.to_string().contains("blocked"), "{error}");
}

#[tokio::test]
async fn root_an_insecure_registry_may_speak_plain_http_and_no_other_may() {
    let image = Image::small("x");
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    // A name that is not this machine's by its form, at an address that is.
    let port = server.address.rsplit_once(':').unwrap().1;
    let node = Node::new().await;
    let named = format!("0.0.0.0:{port}");
    for (insecure, right) in [(false, false), (true, true)] {
        conf(
            &node,
            &format!("[[registry]]\nlocation = \"{named}\"\ninsecure = {insecure}\n"),
        );
        let pulled = node.pull(&format!("{named}/app:1")).await;
        assert_eq!(pulled.is_ok(), right, "{pulled:?}");
    }
}

#[tokio::test]
async fn root_headers_of_a_hosts_toml_go_to_that_host_and_to_nobody_else() {
    let image = Image::small("x");
    let served = image.clone();
    let store = Server::start(move |asked| right(&served, asked)).await;
    let (served, elsewhere) = (image.clone(), store.address.clone());
    let server = Server::start(move |asked| {
        if shown(asked, "x-key") != SECRET {
            return Reply::status(403);
        }
        if is_layer(&served, asked) {
            return Reply::status(307).header("location", &format!("http://{elsewhere}{}", asked.path));
        }
        right(&served, asked)
    })
    .await;
    let node = Node::new().await;
    let text = format!(
        "server = \"http://{}\"\n[header]\nx-key = \"{SECRET}\"\n",
        server.address
    );
    node.hosts("r.example", &text);
    node.pull("r.example/app:1").await.unwrap();
    assert_eq!(store.asked().len(), 1);
    assert!(
        store
            .asked()
            .iter()
            .all(|asked| !asked.headers.contains_key("x-key"))
    );
    node.hosts("s.example", &format!("server = \"http://{}\"\n", server.address));
    let error = node.pull("s.example/app:1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn root_credentials_of_the_node_serve_where_a_request_brings_none() {
    let image = Image::small("private");
    let server = guarded(&image, "node").await;
    let filed = guarded(&image, "file").await;
    let other = guarded(&image, "request").await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let auth_file = dir.path().join("auth.json");
    let auths = format!(
        "{{\"auths\": {{\"{}\": {{\"auth\": \"{}\"}}, \"{}\": {{\"username\": \"weaker\", \"password\": \"x\"}}}}}}",
        filed.address,
        STANDARD.encode(format!("file:{SECRET}")),
        server.address,
    );
    std::fs::write(&auth_file, auths).unwrap();
    let node = Node::open(Arc::clone(&dir), |config| {
        config.registries.auth_file = Some(auth_file.clone());
        config.registries.credentials = BTreeMap::from([
            (server.address.clone(), password("node")),
            (other.address.clone(), password("node")),
        ]);
    })
    .await;
    for server in [&server, &filed] {
        node.pull(&server.reference("app:1")).await.unwrap();
    }
    let reference = other.reference("app:1");
    let error = node.pull(&reference).await.unwrap_err();
    assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
    node.pull_as(&reference, Some(password("request"))).await.unwrap();

    // A mirror gets what the node has for the mirror, never what it has for the registry.
    let mirror = guarded(&image, "node").await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        filed.address, mirror.address
    );
    node.hosts("r.example", &text);
    node.pull("r.example/app:1").await.unwrap();
    assert!(
        mirror
            .asked()
            .iter()
            .all(|asked| shown(asked, "authorization").is_empty())
    );

    std::fs::write(&auth_file, format!("{{\"auths\": \"{SECRET}\"}}")).unwrap();
    let error = node.pull(&filed.reference("app:2")).await.unwrap_err();
    assert_eq!(error.kind(), Kind::FailedPrecondition, "{error}");
    let said = format!("{error} {error:?}");
    assert!(said.contains("auth.json") && !said.contains(SECRET), "{said}");
}

#[tokio::test]
async fn root_new_credentials_count_for_the_next_pull() {
    let image = Image::small("private");
    let server = guarded(&image, "node").await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    node.pull(&reference).await.unwrap_err();
    let config = coracle_image::RegistryConfig {
        credentials: BTreeMap::from([(server.address.clone(), password("node"))]),
        ..coracle_image::RegistryConfig::default()
    };
    assert!(!format!("{config:?}").contains(SECRET));
    node.images.set_registries(config);
    node.pull(&reference).await.unwrap();
}
