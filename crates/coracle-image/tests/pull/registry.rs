//! Debian's docker-registry: real pulls by tag, digest and index, with a password and over TLS.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coracle_types::image::Credentials;
use coracle_types::{Kind, Kinded};
use tempfile::TempDir;

use crate::image::{INDEX, Image, MANIFEST, Pack, digest, layer, noise};
use crate::node::Node;

/// bcrypt of "correct horse" for user "kim".
const HTPASSWD: &str = "kim:$2b$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2\n";

pub(crate) struct Registry {
    pub(crate) address: String,
    process: Child,
    dir: TempDir,
    client: reqwest::Client,
    scheme: &'static str,
    user: Option<&'static str>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Protection {
    None,
    Password,
    Tls,
    /// TLS, to those only who show the registry's own certificate.
    ClientCertificate,
}

impl Protection {
    fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::ClientCertificate)
    }
}

impl Registry {
    pub(crate) async fn start(protection: Protection) -> Self {
        let program = "/usr/bin/docker-registry";
        assert!(
            std::path::Path::new(program).exists(),
            "{program} is not installed: `make setup` installs it"
        );
        let dir = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let at = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            at("data")
        );
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client = reqwest::Client::builder()
            .no_proxy()
            .tls_danger_accept_invalid_certs(true);
        if protection.is_tls() {
            make_certificate(&dir);
            let (certificate, key) = (at("cert.pem"), at("key.pem"));
            config.push_str(&format!(
                "  tls:\n    certificate: {certificate}\n    key: {key}\n"
            ));
            if protection == Protection::ClientCertificate {
                config.push_str(&format!("    clientcas:\n      - {certificate}\n"));
                let both = [certificate, key]
                    .map(|file| std::fs::read(file).unwrap())
                    .concat();
                client = client.identity(reqwest::Identity::from_pem(&both).unwrap());
            }
        }
        if protection == Protection::Password {
            std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            config.push_str(&format!(
                "auth:\n  htpasswd:\n    realm: r\n    path: {}\n",
                at("htpasswd")
            ));
        }
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let process = Command::new(program)
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let client = client.build().unwrap();
        let registry = Self {
            address,
            process,
            dir,
            client,
            scheme: if protection.is_tls() { "https" } else { "http" },
            user: (protection == Protection::Password).then_some("correct horse"),
        };
        for _ in 0..500 {
            if registry
                .request(reqwest::Method::GET, "/v2/")
                .send()
                .await
                .is_ok()
            {
                return registry;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("docker-registry does not answer");
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("{}://{}{path}", self.scheme, self.address)
        };
        let request = self.client.request(method, url);
        match self.user {
            Some(password) => request.basic_auth("kim", Some(password)),
            None => request,
        }
    }

    async fn push(&self, repository: &str, tag: &str, image: &Image) {
        for (name, blob) in image.blobs() {
            let begun = self.request(reqwest::Method::POST, &format!("/v2/{repository}/blobs/uploads/"));
            let begun = begun.send().await.unwrap();
            let location = begun.headers()["location"].to_str().unwrap().to_owned();
            let upload = self.request(reqwest::Method::PUT, &format!("{location}&digest={name}"));
            let ended = upload.body(blob).send().await.unwrap();
            assert!(ended.status().is_success(), "{}", ended.status());
        }
        self.put_manifest(repository, tag, MANIFEST, &image.manifest)
            .await;
    }

    async fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, manifest: &[u8]) {
        let put = self.request(reqwest::Method::PUT, &format!("/v2/{repository}/manifests/{tag}"));
        let put = put.header("content-type", media_type).body(manifest.to_vec());
        let put = put.send().await.unwrap();
        assert!(put.status().is_success(), "{}", put.status());
    }
}

fn make_certificate(dir: &TempDir) {
    let config = "[req]\ndistinguished_name = dn\nprompt = no\nx509_extensions = leaf\n[dn]\nCN = test\n\
                  [leaf]\nbasicConstraints = critical,CA:FALSE\nsubjectAltName = IP:127.0.0.1\n";
    std::fs::write(dir.path().join("openssl.cnf"), config).unwrap();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args([
            "-days",
            "2",
            "-config",
            "openssl.cnf",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
        ])
        .current_dir(dir.path())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
}

fn three_layers() -> Image {
    Image::new(
        "three",
        vec![
            layer(Pack::Gzip, &[("etc/one", &noise(1, 300_000))]),
            layer(Pack::Zstd, &[("etc/two", &noise(2, 300_000))]),
            layer(Pack::Plain, &[("three", b"3")]),
        ],
    )
}

#[tokio::test]
async fn root_tag_digest_and_index_lead_to_the_same_image() {
    let registry = Registry::start(Protection::None).await;
    let image = three_layers();
    registry.push("team/app", "1", &image).await;
    let index = image.index();
    registry.put_manifest("team/app", "multi", INDEX, &index).await;
    let node = Node::new().await;
    let name = format!("{}/team/app", registry.address);
    let by_tag = node.pull(&format!("{name}:1")).await.unwrap();
    assert_eq!(by_tag.id, image.id());
    assert_eq!(by_tag.settings.cmd, ["sh"]);
    assert!(by_tag.layers.len() >= 3);
    let by_digest = node
        .pull(&format!("{name}@{}", image.manifest_digest()))
        .await
        .unwrap();
    assert_eq!(by_digest, by_tag);
    let by_index = node.pull(&format!("{name}:multi")).await.unwrap();
    assert_eq!(by_index.id, image.id());
    assert!(
        by_index
            .repo_digests
            .contains(&format!("{name}@{}", digest(&index)))
    );
    assert_eq!(by_index.repo_tags.len(), 2);
    let id = image.id();
    let manifest = image.manifest_digest();
    for known in [
        format!("{name}:1"),
        format!("{name}@{manifest}"),
        id.to_string(),
        id.hex()[..13].to_owned(),
    ] {
        assert_eq!(node.images.get(&known).as_ref(), Some(&by_index), "{known}");
    }
    let missing = node.pull(&format!("{name}:missing")).await.unwrap_err();
    assert_eq!(missing.kind(), Kind::NotFound, "{missing}");
    let layers = std::fs::read_dir(node.dir.path().join("root/layers"))
        .unwrap()
        .count();
    assert!(layers >= 3, "this is where layers lie");
    node.images.remove(&format!("{name}:1")).await.unwrap();
    node.assert_empty_now();
}

#[tokio::test]
async fn root_a_password_opens_the_registry() {
    let registry = Registry::start(Protection::Password).await;
    registry.push("app", "1", &Image::small("x")).await;
    let node = Node::new().await;
    let name = format!("{}/app:1", registry.address);
    let credentials = |password: &str| {
        Some(Credentials {
            username: "kim".to_owned(),
            password: password.to_owned(),
            ..Credentials::default()
        })
    };
    for wrong in [None, credentials("battery staple")] {
        let error = node.pull_as(&name, wrong).await.unwrap_err();
        assert_eq!(error.kind(), Kind::PermissionDenied, "{error}");
        assert!(!error.to_string().contains("battery"), "{error}");
    }
    node.pull_as(&name, credentials("correct horse")).await.unwrap();
}

#[tokio::test]
async fn root_tls_is_believed_by_ca_or_on_demand_only() {
    let registry = Registry::start(Protection::Tls).await;
    registry.push("app", "1", &Image::small("x")).await;
    let node = Node::new().await;
    let server = format!("server = \"https://{}\"\n", registry.address);
    node.hosts("r.example", &server);
    let error = node.pull("r.example/app:1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    let dir = node.hosts("s.example", &format!("{server}ca = \"ca.pem\"\n"));
    std::fs::copy(registry.dir.path().join("cert.pem"), dir.join("ca.pem")).unwrap();
    node.pull("s.example/app:1").await.unwrap();
    node.hosts("t.example", &format!("{server}skip_verify = true\n"));
    node.pull("t.example/app:1").await.unwrap();
}

#[tokio::test]
async fn root_a_registry_that_wants_a_client_certificate_gets_the_configured_one_only() {
    let registry = Registry::start(Protection::ClientCertificate).await;
    registry.push("app", "1", &Image::small("x")).await;
    let node = Node::new().await;
    let server = format!("server = \"https://{}\"\nca = \"cert.pem\"\n", registry.address);
    let bring = |dir: &std::path::Path| {
        for file in ["cert.pem", "key.pem"] {
            std::fs::copy(registry.dir.path().join(file), dir.join(file)).unwrap();
        }
    };
    bring(&node.hosts("r.example", &server));
    let error = node.pull("r.example/app:1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    // One that the registry does not know.
    let other = tempfile::tempdir().unwrap();
    make_certificate(&other);
    let client = "client = [[\"other.pem\", \"other-key.pem\"]]\n";
    let dir = node.hosts("s.example", &format!("{server}{client}"));
    bring(&dir);
    for (made, named) in [("cert.pem", "other.pem"), ("key.pem", "other-key.pem")] {
        std::fs::copy(other.path().join(made), dir.join(named)).unwrap();
    }
    let error = node.pull("s.example/app:1").await.unwrap_err();
    assert_eq!(error.kind(), Kind::RegistryUnavailable, "{error}");
    let client = "client = [[\"cert.pem\", \"key.pem\"]]\n";
    bring(&node.hosts("t.example", &format!("{server}{client}")));
    node.pull("t.example/app:1").await.unwrap();
}
