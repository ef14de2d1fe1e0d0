//! Policies as text: what is read, which scope counts, which identity fits.

use std::path::Path;

use super::document::read;
use super::identity::Identity;
use super::payload::Payload;
use super::*;

/// A key of P-256, made once by openssl.
const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEWrokdt2AKRsE9xqucTFleESkxrar
i6OUuP7MZdmVKOBN/oFcbzV4Ucc3IS2ZMKBloo/wQzArxIuhDzozoZBbzg==
-----END PUBLIC KEY-----
";

fn policy(text: &str) -> Result<Policy, MalformedPolicy> {
    Policy::parse(Path::new("/p.json"), text.as_bytes())
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

fn complaint(text: &str) -> String {
    policy(text).unwrap_err().to_string()
}

const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
const REJECT: &str = r#"[{"type":"reject"}]"#;

#[test]
fn the_most_specific_scope_counts_alone() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let scopes = [
        (
            "r.sub.example.com:5000/team/app:1",
            "r.sub.example.com:5000/team/app:1",
        ),
        (
            "r.sub.example.com:5000/team/app:2",
            "r.sub.example.com:5000/team/app",
        ),
        (
            "r.sub.example.com:5000/team/application",
            "r.sub.example.com:5000/team",
        ),
        ("r.sub.example.com:5000/other", "r.sub.example.com:5000"),
        ("r.sub.example.com/team/app:1", "*.sub.example.com"),
        ("s.example.com/x", "*.example.com"),
        ("example.com/x", ""),
        ("busybox", "docker.io/library/busybox"),
        (
            &format!("docker.io/library/busybox:1@{digest}"),
            &format!("docker.io/library/busybox@{digest}"),
        ),
    ];
    for (image, wanted) in scopes {
        let mut all: BTreeMap<&str, ()> = scopes.iter().map(|(_, scope)| (*scope, ())).collect();
        // Weaker scopes that would decide otherwise.
        all.remove(wanted);
        let others: Vec<String> = all.keys().map(|scope| format!("{scope:?}:{ACCEPT}")).collect();
        let text = format!(
            r#"{{"default":{ACCEPT},"transports":{{"docker":{{{wanted:?}:{REJECT},{}}}}}}}"#,
            others.join(",")
        );
        let policy = policy(&text).unwrap();
        assert!(
            policy.by_name(&reference(image)).is_err(),
            "{image} is not in {wanted}"
        );
        let (scope, _) = policy.requirements(&reference(image));
        assert_eq!(scope, format!("scope {wanted:?}"));
    }
}

#[test]
fn the_default_is_for_what_no_scope_has_and_other_transports_are_not_docker_s() {
    let text = format!(
        r#"{{"default":{REJECT},"transports":{{"dir":{{"":{ACCEPT}}},"docker":{{"docker.io":{ACCEPT}}}}}}}"#
    );
    let policy = policy(&text).unwrap();
    assert!(policy.by_name(&reference("busybox")).is_ok());
    let refused = policy.by_name(&reference("quay.io/x")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the policy rejects it (policy /p.json, default)"
    );
}

#[test]
fn what_cannot_be_verified_here_refuses_by_name() {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(KEY);
    for (requirement, word) in [
        (
            r#"{"type":"signedBy","keyType":"GPGKeys","keyPath":"/k"}"#.to_owned(),
            "signedBy",
        ),
        (
            r#"{"type":"sigstoreSigned","fulcio":{"caPath":"/ca"}}"#.to_owned(),
            "fulcio",
        ),
        (r#"{"type":"sigstoreSigned","pki":{}}"#.to_owned(), "pki"),
        (
            format!(r#"{{"type":"sigstoreSigned","keyData":"{key}","rekorPublicKeyPath":"/r"}}"#),
            "Rekor",
        ),
    ] {
        let policy = policy(&format!(
            r#"{{"default":[{{"type":"insecureAcceptAnything"}},{requirement}]}}"#
        ));
        let policy = policy.unwrap();
        let refused = policy.by_name(&reference("app")).unwrap_err().to_string();
        assert!(
            refused.contains(word) && refused.contains("cannot verify"),
            "{refused}"
        );
        assert_eq!(policy.unsupported().count(), 1);
    }
}

#[test]
fn a_malformed_policy_is_refused_with_line_and_remedy() {
    for (text, words) in [
        ("", "EOF"),
        ("{}", "missing field `default`"),
        (
            "{\n\"default\": []\n}",
            ":2: a list of requirements must not be empty",
        ),
        (
            "{\n\"default\": [{\"type\":\"reject\"}],\n\"defalt\": 1}",
            ":3: unknown field `defalt`",
        ),
        (
            "{\"default\":\n[{\"type\":\"rejct\"}]}",
            ":2: type \"rejct\" is unknown: known are",
        ),
        (
            "{\"default\":[{\"type\":\"reject\",\"keyPath\":\"/k\"}]}",
            "keyPath means nothing with type \"reject\"",
        ),
        (
            "{\"default\":[{\"type\":\"reject\",\n\"color\":1}]}",
            ":2: unknown field `color`",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\"}]}",
            "exactly one of keyPath",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\",\"keyPath\":\"/a\",\"keyData\":\"eA==\"}]}",
            "2 are given",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\",\"keyPath\":\"a\"}]}",
            "is not absolute",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\",\"keyPaths\":[]}]}",
            "0 keys",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\",\"keyData\":\"eA==\"}]}",
            "no PUBLIC KEY",
        ),
        (
            "{\"default\":[{\"type\":\"sigstoreSigned\",\"keyPath\":\"/k\",\n\"signedIdentity\":{\"type\":\"any\"}}]}",
            "signedIdentity.type \"any\" is unknown",
        ),
        (
            "{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{\n\"docker://quay.io\":[{\"type\":\"reject\"}]}}}",
            ":2: scope \"docker://quay.io\" of transport docker fits no image: write it without docker://",
        ),
        (
            "{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{\"quay.*\":[{\"type\":\"reject\"}]}}}",
            "fits no image",
        ),
        (
            "{\"default\":[{\"type\":\"reject\"}],\"transports\":{\"docker\":{\n\"a.b\":[{\"type\":\"reject\"}],\n\
             \"a.b\":[{\"type\":\"insecureAcceptAnything\"}]}}}",
            "the key \"a.b\" stands twice",
        ),
    ] {
        let said = complaint(text);
        assert!(said.starts_with("signature policy /p.json"), "{said}");
        assert!(said.contains(words), "{text}: {said}");
    }
    for deep in ["[", "{\"a\":"] {
        let bomb = format!("{{\"default\":{ACCEPT},\"transports\":{}", deep.repeat(100_000));
        assert!(policy(&bomb).is_err(), "a bomb of {deep}");
    }
}

fn identity(kind: &str, given: &[(&str, &str)]) -> Result<Identity, String> {
    let value = |name: &'static str| {
        let found = given.iter().find(|(key, _)| *key == name);
        (name, found.map(|(_, value)| (*value).to_owned()))
    };
    Identity::read(
        kind,
        [
            value("dockerReference"),
            value("dockerRepository"),
            value("prefix"),
            value("signedPrefix"),
        ],
    )
}

/// Type, its fields, what is signed, and whether it fits when used by tag and by digest.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, [bool; 2]);

#[test]
fn identities_fit_as_containers_policy_says() {
    let by_tag = "r.example/app:1";
    let by_digest = format!("r.example/app@sha256:{}", "a".repeat(64));
    let used = [by_tag, by_digest.as_str()];
    let remap = [
        ("prefix", "mirror.example/vendor"),
        ("signedPrefix", "vendor.example"),
    ];
    let cases: &[Case<'_>] = &[
        ("matchExact", &[], "r.example/app:1", [true, false]),
        ("matchExact", &[], &by_digest, [false, true]),
        ("matchExact", &[], "r.example/app", [false, false]),
        ("matchExact", &[], "r.example/app:2", [false, false]),
        ("matchRepoDigestOrExact", &[], "r.example/app:1", [true, true]),
        ("matchRepoDigestOrExact", &[], "r.example/app:2", [false, true]),
        ("matchRepoDigestOrExact", &[], "r.example/app", [false, false]),
        ("matchRepoDigestOrExact", &[], "r.example/other:1", [false, false]),
        ("matchRepository", &[], "r.example/app", [true, true]),
        ("matchRepository", &[], "r.example/app:9", [true, true]),
        ("matchRepository", &[], "r.example/apple:1", [false, false]),
        (
            "exactReference",
            &[("dockerReference", "s.example/b:3")],
            "s.example/b:3",
            [true, true],
        ),
        (
            "exactReference",
            &[("dockerReference", "s.example/b:3")],
            by_tag,
            [false, false],
        ),
        (
            "exactRepository",
            &[("dockerRepository", "s.example/b")],
            "s.example/b:8",
            [true, true],
        ),
        (
            "exactRepository",
            &[("dockerRepository", "s.example/b")],
            by_tag,
            [false, false],
        ),
        ("remapIdentity", &remap, "r.example/app:1", [true, true]),
        ("matchRepository", &[], "not a reference", [false, false]),
        ("matchRepository", &[], "", [false, false]),
    ];
    for (kind, given, signed, fits) in cases {
        let identity = identity(kind, given).unwrap();
        for (used, fits) in used.iter().zip(fits) {
            assert_eq!(
                identity.fits(&reference(used), signed),
                *fits,
                "{kind}: {signed} for {used}"
            );
        }
    }
    let remap = identity("remapIdentity", &remap).unwrap();
    assert!(remap.fits(&reference("mirror.example/vendor/app:1"), "vendor.example/app:1"));
    assert!(!remap.fits(
        &reference("mirror.example/vendor/app:1"),
        "mirror.example/vendor/app:1"
    ));
    assert!(!remap.fits(
        &reference("mirror.example/vendors/app:1"),
        "vendor.example/s/app:1"
    ));
}

#[test]
fn identities_are_read_strictly() {
    for (kind, given) in [
        ("matchExact", &[("dockerReference", "a:1")][..]),
        ("exactReference", &[]),
        ("exactReference", &[("dockerReference", "r.example/app")]),
        ("exactRepository", &[("dockerRepository", "r.example/app:1")]),
        ("remapIdentity", &[("prefix", "r.example")]),
        (
            "remapIdentity",
            &[("prefix", "r.example/"), ("signedPrefix", "s.example")],
        ),
        (
            "remapIdentity",
            &[("prefix", "r.example/a:1"), ("signedPrefix", "s.example")],
        ),
    ] {
        assert!(identity(kind, given).is_err(), "{kind} {given:?}");
    }
}

#[test]
fn a_payload_is_read_in_whole_or_not_at_all() {
    let digest = format!("sha256:{}", "b".repeat(64));
    let whole = format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r.example/a"}},"image":{{"docker-manifest-digest":"{digest}"}},
            "type":"cosign container image signature"}},"optional":{{"creator":"x"}}}}"#
    );
    let read = Payload::parse(whole.as_bytes()).unwrap();
    assert_eq!(
        (read.digest.to_string(), read.docker_reference.as_str()),
        (digest, "r.example/a")
    );
    assert!(Payload::parse(whole.replace("optional", "critical2").as_bytes()).is_err());
    assert!(Payload::parse(whole.replace("cosign container", "atomic container").as_bytes()).is_err());
    assert!(Payload::parse(whole.replace("\"image\":{", "\"image\":{\"more\":1,").as_bytes()).is_err());
    assert!(Payload::parse(whole.replace("sha256", "md5").as_bytes()).is_err());
    let double = whole.replace("\"image\":{", "\"image\":{\"docker-manifest-digest\":\"x\",");
    assert!(
        Payload::parse(double.as_bytes()).is_err(),
        "which digest counts is not certain"
    );
}

#[test]
fn a_namespace_never_leads_out_of_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("policies");
    std::fs::create_dir(&inside).unwrap();
    std::fs::write(
        dir.path().join("outside.json"),
        format!("{{\"default\":{ACCEPT}}}"),
    )
    .unwrap();
    std::fs::write(inside.join("strict.json"), format!("{{\"default\":{REJECT}}}")).unwrap();
    std::fs::write(inside.join("broken.json"), "{").unwrap();
    let node = policy(&format!("{{\"default\":{REJECT}}}")).unwrap();
    let source = PolicySource {
        node: Some(std::sync::Arc::new(node)),
        namespaces: Some(inside),
    };
    let found = |namespace: &str| source.policy_for(Some(namespace));
    assert!(found("strict").unwrap().unwrap().path.ends_with("strict.json"));
    assert_eq!(
        found("none").unwrap(),
        source.node,
        "one without a policy has the node's"
    );
    assert_eq!(source.policy_for(None).unwrap(), source.node);
    assert_eq!(found("").unwrap(), source.node);
    found("broken").unwrap_err();
    for hostile in [
        "../outside",
        "..",
        ".",
        "a/b",
        "/etc/passwd",
        "a\0b",
        &"x".repeat(300),
    ] {
        assert!(found(hostile).is_err(), "{hostile:?}");
    }
}

#[test]
fn strings_that_look_like_errors_keep_their_line() {
    let Err((line, reason)) = read(b"{\n\"default\": [{\"type\":\" at line 9\"}]}") else {
        panic!("it is refused");
    };
    assert_eq!(line, Some(2));
    assert!(reason.contains(" at line 9"), "{reason}");
}
