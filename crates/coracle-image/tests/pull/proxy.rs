//! Registries behind a proxy, and what is never asked through one.

use std::sync::Arc;

use coracle_image::Proxies;
use coracle_types::{Kind, Kinded};

use crate::image::Image;
use crate::node::Node;
use crate::server::{Reply, Server, right};

async fn node(proxy: &str, except: &str) -> Node {
    Node::open(Arc::new(tempfile::tempdir().unwrap()), |config| {
        // A name that is looked up in vain, where no resolver answers, costs its time once.
        config.registries.retries.attempts = 1;
        config.registries.retries.connect_timeout = std::time::Duration::from_secs(1);
        let url: url::Url = proxy.parse().unwrap();
        config.registries.proxies = Proxies {
            http: Some(url.clone()),
            https: Some(url),
            except: except.to_owned(),
        };
    })
    .await
}

#[tokio::test]
async fn root_a_registry_is_asked_through_the_proxy_with_the_proxy_s_own_password() {
    let image = Image::small("far");
    let served = image.clone();
    // A proxy for plain HTTP is given the whole URL.
    let proxy = Server::start(move |asked| {
        if !asked.headers.contains_key("proxy-authorization") {
            return Reply::status(407);
        }
        let mut inner = asked.clone();
        let Some(path) = asked.path.strip_prefix("http://far.example") else {
            return Reply::status(400);
        };
        inner.path = path.to_owned();
        right(&served, &inner)
    })
    .await;
    let node = node(&format!("http://kim:s3cret@{}", proxy.address), "").await;
    node.hosts("far.example", "server = \"http://far.example\"\n");
    node.pull("far.example/app:1").await.unwrap();
    assert!(proxy.asked().len() >= 3);

    // HTTPS goes through a tunnel that this proxy does not make; no word of its password.
    let error = node.pull("tls.example/app:1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    assert!(proxy.asked().iter().any(|asked| asked.method == "CONNECT"));
    assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
}

#[tokio::test]
async fn root_this_machine_and_exceptions_are_asked_directly() {
    let image = Image::small("near");
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let proxy = Server::start(|_| Reply::status(502)).await;
    let near = node(&format!("http://{}", proxy.address), "").await;
    near.pull(&server.reference("app:1")).await.unwrap();
    assert!(proxy.asked().is_empty());
    let excepted = node(&format!("http://{}", proxy.address), "far.invalid").await;
    excepted.hosts("r.example", "server = \"http://far.invalid\"\n");
    excepted.pull("r.example/app:1").await.unwrap_err();
    assert!(proxy.asked().is_empty(), "its name was looked up here, in vain");
    excepted.hosts("s.example", "server = \"http://else.invalid\"\n");
    excepted.pull("s.example/app:1").await.unwrap_err();
    assert!(
        !proxy.asked().is_empty(),
        "without the exception it goes to the proxy"
    );
}
