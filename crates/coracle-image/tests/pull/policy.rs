//! Signature policies against signatures that openssl made, at a server that has them where cosign puts them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coracle_image::{Error, Image as Pulled, Policy, PolicySource, PullRequest};
use coracle_types::{Digest, Kind, Kinded};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::image::{INDEX, Image, MANIFEST, digest};
use crate::node::Node;
use crate::server::{Asked, Reply, Server, is_layer, right};

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

fn openssl(dir: &Path, arguments: &[&str]) {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Keys in a directory: `<name>.key` and `<name>.pub`.
struct Keys(TempDir);

impl Keys {
    fn new(names: &[&str]) -> Self {
        let keys = Self(tempfile::tempdir().unwrap());
        for name in names {
            let mut make = vec!["genpkey", "-out"];
            let key = format!("{name}.key");
            make.push(&key);
            make.extend(match *name {
                "ed25519" => &["-algorithm", "ed25519"][..],
                "rsa" => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
                "p384" => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
                _ => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            });
            openssl(keys.0.path(), &make);
            openssl(
                keys.0.path(),
                &["pkey", "-in", &key, "-pubout", "-out", &format!("{name}.pub")],
            );
        }
        keys
    }

    fn public(&self, name: &str) -> PathBuf {
        self.0.path().join(format!("{name}.pub"))
    }

    fn sign(&self, name: &str, payload: &[u8]) -> String {
        std::fs::write(self.0.path().join("payload"), payload).unwrap();
        let key = format!("{name}.key");
        if name == "ed25519" {
            openssl(
                self.0.path(),
                &[
                    "pkeyutl",
                    "-sign",
                    "-rawin",
                    "-inkey",
                    &key,
                    "-in",
                    "payload",
                    "-out",
                    "signature",
                ],
            );
        } else {
            openssl(
                self.0.path(),
                &["dgst", "-sha256", "-sign", &key, "-out", "signature", "payload"],
            );
        }
        STANDARD.encode(std::fs::read(self.0.path().join("signature")).unwrap())
    }
}

fn payload(digest: &Digest, reference: &str) -> Vec<u8> {
    json!({
        "critical": {
            "identity": {"docker-reference": reference},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
    .into_bytes()
}

/// What a registry has of signatures: by manifest name, and blobs by digest.
#[derive(Default)]
struct Signatures {
    manifests: Vec<(String, Vec<u8>)>,
    blobs: Vec<Vec<u8>>,
    referrers: Option<Vec<u8>>,
    /// Answers to everything about signatures with this status.
    down: Option<u16>,
}

impl Signatures {
    /// A manifest of signatures: payloads with what is said to be their signatures.
    fn manifest(&mut self, signed: &[(Vec<u8>, String)]) -> Vec<u8> {
        let layers: Vec<Value> = signed
            .iter()
            .map(|(payload, signature)| {
                json!({"mediaType": PAYLOAD, "digest": digest(payload), "size": payload.len(),
                       "annotations": {"dev.cosignproject.cosign/signature": signature}})
            })
            .collect();
        self.blobs
            .extend(signed.iter().map(|(payload, _)| payload.clone()));
        let config = b"{}".to_vec();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config),
                       "size": config.len()}});
        manifest.to_string().into_bytes()
    }

    /// Below the tag that cosign makes of a digest.
    fn attach(&mut self, to: &Digest, signed: &[(Vec<u8>, String)]) {
        let manifest = self.manifest(signed);
        self.manifests
            .push((format!("sha256-{}.sig", to.hex()), manifest));
    }

    fn answer(&self, asked: &Asked) -> Option<Reply> {
        let path = asked.path.split('?').next().unwrap();
        let (kind, name) = path.rsplit_once('/').unwrap();
        let about = path.contains("/referrers/") || name.starts_with("sha256-");
        if let Some(status) = self.down.filter(|_| about) {
            return Some(Reply::status(status));
        }
        if path.contains("/referrers/") {
            return Some(match &self.referrers {
                Some(index) => Reply::status(200).header("content-type", INDEX).body(index),
                None => Reply::status(404),
            });
        }
        let found = if kind.ends_with("/blobs") {
            self.blobs.iter().find(|blob| digest(blob).as_str() == name)
        } else {
            let by_name = self
                .manifests
                .iter()
                .find(|(known, bytes)| known == name || digest(bytes).as_str() == name);
            by_name.map(|(_, bytes)| bytes)
        };
        match found {
            Some(bytes) => Some(Reply::status(200).header("content-type", MANIFEST).body(bytes)),
            None if name.starts_with("sha256-") => Some(Reply::status(404)),
            None => None,
        }
    }
}

struct Bed {
    node: Node,
    server: Server,
    signatures: Arc<Mutex<Signatures>>,
    image: Image,
    keys: Keys,
}

impl Bed {
    /// An image at `app`, also by the index `multi`; nothing is signed.
    async fn new(keys: &[&str]) -> Self {
        let image = Image::small("signed");
        let signatures = Arc::new(Mutex::new(Signatures::default()));
        let (served, have) = (image.clone(), Arc::clone(&signatures));
        let index = image.index();
        let server = Server::start(move |asked| {
            if let Some(reply) = have.lock().unwrap().answer(asked) {
                return reply;
            }
            let wanted = asked.path.rsplit('/').next().unwrap().split('?').next().unwrap();
            if wanted == "multi" || wanted == digest(&index).as_str() {
                return Reply::status(200)
                    .header("content-type", INDEX)
                    .header("docker-content-digest", digest(&index).as_str())
                    .body(&index);
            }
            right(&served, asked)
        })
        .await;
        Self {
            node: Node::new().await,
            server,
            signatures,
            image,
            keys: Keys::new(keys),
        }
    }

    /// A policy file of one requirement for everything.
    fn file(&self, name: &str, requirement: &Value) -> PathBuf {
        let path = self.keys.0.path().join(name);
        std::fs::write(&path, json!({"default": [requirement]}).to_string()).unwrap();
        path
    }

    fn set(&self, requirement: &Value) {
        let policy = Policy::load(&self.file("policy.json", requirement)).unwrap();
        self.node.images.set_policy(PolicySource {
            node: Some(Arc::new(policy)),
            namespaces: None,
        });
    }

    /// Asks for a signature by `key`, for whatever tag of the repository.
    fn want(&self, key: &str) {
        self.set(
            &json!({"type": "sigstoreSigned", "keyPath": self.keys.public(key),
                         "signedIdentity": {"type": "matchRepository"}}),
        );
    }

    fn name(&self) -> String {
        self.server.reference("app")
    }

    fn sign(&self, key: &str, digest: &Digest, reference: &str) -> (Vec<u8>, String) {
        let payload = payload(digest, reference);
        let signature = self.keys.sign(key, &payload);
        (payload, signature)
    }

    fn attach(&self, to: &Digest, signed: &[(Vec<u8>, String)]) {
        self.signatures.lock().unwrap().attach(to, signed);
    }

    async fn pull(&self, tag: &str) -> Result<Arc<Pulled>, Error> {
        self.node.pull(&format!("{}:{tag}", self.name())).await
    }

    /// The pull is refused in these words, and no layer was asked for.
    async fn refused(&self, words: &str) {
        let error = self.pull("1").await.unwrap_err();
        assert_eq!(error.kind(), Kind::SignatureValidationFailed, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        let asked = self.server.asked();
        assert!(
            !asked.iter().any(|asked| is_layer(&self.image, asked)),
            "a layer was fetched"
        );
        self.node.assert_empty().await;
    }
}

#[tokio::test]
async fn root_signatures_of_every_kind_of_key_open_the_way() {
    let kinds = ["p256", "p384", "ed25519", "rsa"];
    let bed = Bed::new(&kinds).await;
    let digest = bed.image.manifest_digest();
    let signed: Vec<_> = kinds
        .iter()
        .map(|kind| bed.sign(kind, &digest, &bed.name()))
        .collect();
    for (kind, signed) in kinds.iter().zip(&signed) {
        bed.want(kind);
        bed.signatures.lock().unwrap().manifests.clear();
        let others: Vec<_> = bed.signed_but(&signed.1, &kinds);
        bed.attach(&digest, &others);
        let error = bed.pull("1").await.unwrap_err().to_string();
        assert!(error.contains("none of the policy's keys"), "{kind}: {error}");
        bed.signatures.lock().unwrap().manifests.clear();
        bed.attach(&digest, std::slice::from_ref(signed));
        bed.pull("1")
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        bed.node
            .images
            .remove(&format!("{}:1", bed.name()))
            .await
            .unwrap();
    }
}

impl Bed {
    /// Signatures by all other keys.
    fn signed_but(&self, signature: &str, kinds: &[&str]) -> Vec<(Vec<u8>, String)> {
        let digest = self.image.manifest_digest();
        let all = kinds.iter().map(|kind| self.sign(kind, &digest, &self.name()));
        let length = STANDARD.decode(signature).unwrap().len();
        // Each kind's signatures have a length of their own (ECDSA's within a few bytes).
        all.filter(|(_, other)| STANDARD.decode(other).unwrap().len().abs_diff(length) > 4)
            .collect()
    }
}

#[tokio::test]
async fn root_what_is_not_signed_as_the_policy_asks_is_refused_before_any_layer() {
    let bed = Bed::new(&["ours", "theirs"]).await;
    let image = bed.image.manifest_digest();
    // Without a policy it comes: the refusals below are the policy's.
    bed.pull("1").await.unwrap();
    bed.node
        .images
        .remove(&format!("{}:1", bed.name()))
        .await
        .unwrap();
    let bed = Bed {
        server: restart(&bed).await,
        ..bed
    };

    bed.want("ours");
    bed.refused("is not signed").await;
    let fresh = |signed: &[(Vec<u8>, String)]| {
        bed.signatures.lock().unwrap().manifests.clear();
        bed.attach(&image, signed);
    };
    fresh(&[bed.sign("theirs", &image, &bed.name())]);
    bed.refused("by none of the policy's keys").await;
    let other = digest(b"another image");
    fresh(&[bed.sign("ours", &other, &bed.name())]);
    bed.refused(&format!("for another image, {other}")).await;
    fresh(&[bed.sign("ours", &image, "elsewhere.example/app")]);
    bed.refused("names \"elsewhere.example/app\"").await;
    // The payload of one signature below the signature of another.
    let (_, signature) = bed.sign("ours", &other, &bed.name());
    fresh(&[(payload(&image, &bed.name()), signature)]);
    bed.refused("by none of the policy's keys").await;
    fresh(&[(vec![b' '; 1 << 20], "AAAA".to_owned())]);
    bed.refused("1048576 bytes").await;
    fresh(&[(payload(&image, &bed.name()), "*".to_owned())]);
    bed.refused("not base64").await;
    // The payload is another than its digest says.
    fresh(&[bed.sign("ours", &image, &bed.name())]);
    {
        let mut signatures = bed.signatures.lock().unwrap();
        signatures.blobs.clear();
    }
    bed.refused("has no").await;
    {
        let mut signatures = bed.signatures.lock().unwrap();
        signatures.manifests = vec![(format!("sha256-{}.sig", image.hex()), b"{\"layers\":7}".to_vec())];
    }
    bed.refused("malformed").await;
}

/// The same again, that has not been asked yet.
async fn restart(bed: &Bed) -> Server {
    let (served, have) = (bed.image.clone(), Arc::clone(&bed.signatures));
    Server::start(move |asked| {
        let reply = have.lock().unwrap().answer(asked);
        reply.unwrap_or_else(|| right(&served, asked))
    })
    .await
}

#[tokio::test]
async fn root_of_many_signatures_the_newest_count_and_no_more_than_a_bound() {
    let bed = Bed::new(&["ours", "theirs"]).await;
    let image = bed.image.manifest_digest();
    bed.want("ours");
    let noise = bed.sign("theirs", &image, &bed.name());
    let mut many = vec![noise; 1000];
    many[0] = bed.sign("ours", &image, &bed.name());
    bed.attach(&image, &many);
    bed.refused("more than 128 signatures").await;
    let payloads = bed
        .server
        .asked()
        .iter()
        .filter(|asked| asked.path.contains("/blobs/"))
        .count();
    assert!(payloads <= 128, "{payloads} requests");
    many.swap(0, 999);
    bed.signatures.lock().unwrap().manifests.clear();
    bed.attach(&image, &many);
    bed.pull("1").await.unwrap();
}

#[tokio::test]
async fn root_a_registry_that_does_not_answer_for_signatures_is_no_way_around_them() {
    let bed = Bed::new(&["ours"]).await;
    bed.want("ours");
    bed.attach(
        &bed.image.manifest_digest(),
        &[bed.sign("ours", &bed.image.manifest_digest(), &bed.name())],
    );
    bed.signatures.lock().unwrap().down = Some(503);
    bed.refused("cannot be fetched").await;
    bed.signatures.lock().unwrap().down = None;
    bed.pull("1").await.unwrap();
}

#[tokio::test]
async fn root_an_image_that_is_here_is_judged_again() {
    let bed = Bed::new(&["ours"]).await;
    bed.pull("1").await.unwrap();
    bed.pull("multi").await.unwrap();
    bed.want("ours");
    for tag in ["1", "multi"] {
        let error = bed.pull(tag).await.unwrap_err();
        assert_eq!(error.kind(), Kind::SignatureValidationFailed, "{error}");
    }
    let image = bed.image.manifest_digest();
    bed.attach(&image, &[bed.sign("ours", &image, &bed.name())]);
    bed.pull("1").await.unwrap();
    // Of an index the image that is taken may be signed, or the index itself.
    bed.pull("multi").await.unwrap();
    let index = digest(&bed.image.index());
    bed.signatures.lock().unwrap().manifests.clear();
    bed.attach(&index, &[bed.sign("ours", &index, &bed.name())]);
    bed.pull("multi").await.unwrap();
    bed.node
        .images
        .remove(&format!("{}:multi", bed.name()))
        .await
        .unwrap();
    bed.pull("multi").await.unwrap();
    bed.pull("1").await.unwrap_err();
    bed.set(&json!({"type": "reject"}));
    let before = bed.server.asked().len();
    bed.pull("multi").await.unwrap_err();
    assert_eq!(
        bed.server.asked().len(),
        before,
        "what is rejected by name is not asked for"
    );
}

#[tokio::test]
async fn root_signatures_among_referrers_count() {
    let bed = Bed::new(&["ours"]).await;
    bed.want("ours");
    let image = bed.image.manifest_digest();
    let signed = [bed.sign("ours", &image, &bed.name())];
    let entry = |kind: &str, manifest: &[u8]| json!({"mediaType": MANIFEST, "digest": digest(manifest), "size": manifest.len(), "artifactType": kind});
    let index = {
        let mut signatures = bed.signatures.lock().unwrap();
        let manifest = signatures.manifest(&signed);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX,
            "manifests": [entry("application/spdx+json", &manifest), entry(ARTIFACT, &manifest)]});
        signatures.manifests.push(("by digest only".to_owned(), manifest));
        index.to_string().into_bytes()
    };
    bed.refused("is not signed").await;
    bed.signatures.lock().unwrap().referrers = Some(index.clone());
    bed.pull("1").await.unwrap();
    bed.node
        .images
        .remove(&format!("{}:1", bed.name()))
        .await
        .unwrap();
    // A registry without the call has the same list below a tag.
    {
        let mut signatures = bed.signatures.lock().unwrap();
        signatures.referrers = None;
        signatures
            .manifests
            .push((format!("sha256-{}", image.hex()), index));
    }
    bed.pull("1").await.unwrap();
}

#[tokio::test]
async fn root_a_namespace_has_its_own_policy() {
    let bed = Bed::new(&["ours"]).await;
    let dir = bed.keys.0.path().join("policies");
    std::fs::create_dir(&dir).unwrap();
    let strict = bed.file(
        "strict.json",
        &json!({"type": "sigstoreSigned", "keyPath": bed.keys.public("ours")}),
    );
    std::fs::rename(strict, dir.join("prod.json")).unwrap();
    bed.node.images.set_policy(PolicySource {
        node: None,
        namespaces: Some(dir.clone()),
    });
    let pull = async |namespace: &str| {
        let request = PullRequest {
            reference: format!("{}:1", bed.name()),
            namespace: Some(namespace.to_owned()),
            ..PullRequest::default()
        };
        bed.node.images.pull(request, &()).await
    };
    let (strict, free) = tokio::join!(pull("prod"), pull("dev"));
    assert_eq!(strict.unwrap_err().kind(), Kind::SignatureValidationFailed);
    free.unwrap();
    let error = pull("prod").await.unwrap_err();
    assert!(error.to_string().contains("prod.json"), "{error}");
    for hostile in ["../strict", "prod/../prod"] {
        let error = pull(hostile).await.unwrap_err();
        assert_eq!(error.kind(), Kind::SignatureValidationFailed, "{error}");
    }
    std::fs::write(dir.join("prod.json"), "{}").unwrap();
    pull("prod").await.unwrap_err();
    std::fs::remove_file(dir.join("prod.json")).unwrap();
    pull("prod").await.unwrap();
}

#[test]
fn keys_that_cannot_be_read_are_named_with_their_line() {
    let keys = Keys::new(&["ours"]);
    let path = keys.0.path().join("policy.json");
    let load = |key: &str| {
        let text = format!("{{\"default\":\n[{{\"type\":\"sigstoreSigned\",\n\"keyPath\":\"{key}\"}}]}}");
        std::fs::write(&path, text).unwrap();
        Policy::load(&path)
    };
    load(keys.public("ours").to_str().unwrap()).unwrap();
    for (key, words) in [
        ("/nowhere/cosign.pub", "No such file"),
        (keys.0.path().join("ours.key").to_str().unwrap(), "no PUBLIC KEY"),
        ("/dev/zero", "not a regular file"),
    ] {
        let said = load(key).unwrap_err().to_string();
        assert!(said.contains("policy.json:3: ") && said.contains(words), "{said}");
    }
}
