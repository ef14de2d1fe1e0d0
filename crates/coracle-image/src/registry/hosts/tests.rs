//! Trees as containerd reads them, registries.conf as containers/image does, and which of them wins.

use std::path::Path;

use tempfile::TempDir;

use super::*;

fn parse(text: &str) -> Result<Vec<Host>, MalformedHosts> {
    tree::parse(text, Path::new("/certs.d/x/hosts.toml"), "docker.io")
}

fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

/// A node's files.
struct Files {
    dir: TempDir,
    config: RegistryConfig,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let config = RegistryConfig {
            hosts_dirs: vec![dir.path().join("certs.d"), dir.path().join("other.d")],
            registries_conf: vec![dir.path().join("registries.conf")],
            ..RegistryConfig::default()
        };
        Self { dir, config }
    }

    fn hosts(&self, name: &str) -> Result<Vec<Host>, RegistryError> {
        hosts_for(&self.config, &reference(name))
    }

    /// URL and repository of each host.
    fn asked(&self, name: &str) -> Vec<String> {
        let own = reference(name).repository().to_owned();
        let hosts = self.hosts(name).unwrap();
        let shown = hosts.iter().map(|host| {
            let repository = host.repository.clone().unwrap_or_else(|| own.clone());
            format!("{} {repository}", host.base)
        });
        shown.collect()
    }
}

#[test]
fn without_files_the_registry_serves_itself() {
    for (name, base) in [
        ("busybox", "https://registry-1.docker.io/v2"),
        ("r.example:5000/x", "https://r.example:5000/v2"),
        ("localhost:5000/x", "http://localhost:5000/v2"),
        ("127.0.0.1:5000/x", "http://127.0.0.1:5000/v2"),
        ("[::1]:5000/x", "http://[::1]:5000/v2"),
        ("localhost.evil.example/x", "https://localhost.evil.example/v2"),
    ] {
        let hosts = hosts_for(&RegistryConfig::default(), &reference(name)).unwrap();
        assert_eq!(hosts[0].base.as_str(), base);
    }
}

#[test]
fn mirrors_are_asked_in_the_file_s_order() {
    let text = r#"
        server = "https://docker.io"
        [host."https://z.example"]
          capabilities = ["pull"]
        [host."http://a.example:80/proxy/"]
          capabilities = ["pull", "resolve", "push"]
          skip_verify = true
          dial_timeout = "1500ms"
          [host."http://a.example:80/proxy/".header]
            x-one = "1"
            x-two = ["2", "3"]
        [host."https://m.example/v2/hub"]
          override_path = true
    "#;
    let hosts = parse(text).unwrap();
    let bases: Vec<&str> = hosts.iter().map(|host| host.base.as_str()).collect();
    assert_eq!(
        bases,
        [
            "https://z.example/v2",
            "http://a.example/proxy/v2",
            "https://m.example/v2/hub",
            "https://docker.io/v2"
        ]
    );
    assert!(!hosts[0].capabilities.resolve && hosts[1].trust.skip_verify && hosts[1].capabilities.push);
    assert_eq!(
        hosts[1].trust.dial_timeout,
        Some(std::time::Duration::from_millis(1500))
    );
    assert_eq!(hosts[1].headers.len(), 3);
    assert!(hosts[1].headers.values().all(|value| value.is_sensitive()));
    assert_eq!((hosts[0].role, hosts[3].role), (Role::Mirror, Role::Server));
}

#[test]
fn directories_are_found_as_containerd_finds_them() {
    let files = Files::new(&[
        (
            "certs.d/_default/hosts.toml",
            "server = \"http://default.example\"\n",
        ),
        (
            "certs.d/r.example_5000_/hosts.toml",
            "server = \"http://port.example\"\nunknown = 3\n",
        ),
        (
            "other.d/s.example:5000/hosts.toml",
            "server = \"http://second.example\"\n",
        ),
        ("certs.d/docker.example/ca.crt", "pem"),
        ("certs.d/docker.example/me.cert", "pem"),
        ("certs.d/docker.example/me.key", "pem"),
    ]);
    for (name, base) in [
        ("r.example:5000/x", "http://port.example/v2"),
        ("s.example:5000/x", "http://second.example/v2"),
        ("other.example/x", "http://default.example/v2"),
        ("docker.example/x", "https://docker.example/v2"),
    ] {
        assert_eq!(files.hosts(name).unwrap()[0].base.as_str(), base, "{name}");
    }
    let trust = &files.hosts("docker.example/x").unwrap()[0].trust;
    assert!(trust.authorities.len() == 1 && trust.identity.is_some());
}

#[test]
fn client_certificates_have_containerd_s_forms() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["both.pem", "cert.pem", "key.pem"] {
        std::fs::write(dir.path().join(name), name).unwrap();
    }
    let path = dir.path().join("hosts.toml");
    let read = |client: &str| tree::parse(&format!("client = {client}"), &path, "r.example");
    for (client, content) in [
        ("\"both.pem\"", "both.pem"),
        ("[\"both.pem\"]", "both.pem"),
        ("[[\"cert.pem\", \"key.pem\"]]", "cert.pem\nkey.pem"),
        ("[[\"both.pem\", \"\"]]", "both.pem"),
    ] {
        let hosts = read(client).unwrap();
        let identity = hosts[0].trust.identity.as_ref().unwrap();
        assert_eq!(identity.0, content.as_bytes(), "{client}");
    }
    for bad in [
        "3",
        "[]",
        "[[\"cert.pem\"]]",
        "[3]",
        "\"none.pem\"",
        "[\"both.pem\", \"cert.pem\"]",
    ] {
        assert!(read(bad).is_err(), "{bad}");
    }
    let debug = format!("{:?}", read("\"both.pem\"").unwrap());
    assert!(!debug.contains("pem"), "{debug}");
}

#[test]
fn what_cannot_be_obeyed_is_refused_without_its_secrets() {
    for bad in [
        "server = 3",
        "[host.\"ftp://x\"]",
        "[host.\"https://user:secret@x\"]",
        "[host.\"ftp://user:secret@x\"]",
        "[host.\"https://x\"]\ncapabilities = [\"fly\"]",
        "[host.\"https://x\"]\nca = \"missing.pem\"",
        "[host.\"https://x\"]\nskip_verify = \"yes\"",
        "[host.\"https://x\"]\ndial_timeout = \"soon\"",
        "[host.\"https://x\"]\nheader = \"secret\"",
        "[host.\"https://x\".header]\nx-key = [[\"secret\"]]",
        "[host.\"https://x\".header]\nx-key = \"secret\\n\"",
        "[host.\"https://x\".header]\nauthorization = \"secret\"",
        "[host.\"https://x\".header]\nx-key = secret",
        "[host.\"https://x\".header]\nx-key = \"secret",
    ] {
        let error = parse(bad).unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

const CONF: &str = r#"
    unqualified-search-registries = ["r.example", "docker.io"]
    [[registry]]
    prefix = "r.example/team"
    location = "internal.example:5000/projects"
    insecure = true
    [[registry.mirror]]
    location = "one.example/cache"
    pull-from-mirror = "digest-only"
    [[registry.mirror]]
    location = "two.example"
    pull-from-mirror = "tag-only"
    insecure = true
    [[registry]]
    location = "r.example"
    [[registry]]
    prefix = "*.sub.example"
    [[registry.mirror]]
    location = "wild.example/all"
    [[registry]]
    prefix = "*.moved.example"
    location = "new.example/old"
    [[registry]]
    prefix = "docker.io"
    [[registry.mirror]]
    location = "hub.example/proxy"
    [[registry]]
    location = "evil.example"
    blocked = true
    [aliases]
    "tool" = "r.example/tools/tool"
    "gone" = ""
"#;

#[test]
fn the_longest_prefix_of_a_registries_conf_rewrites_the_name() {
    let files = Files::new(&[("registries.conf", CONF)]);
    let digest = format!("sha256:{}", "a".repeat(64));
    for (name, asked) in [
        ("r.example/app", vec!["https://r.example/v2 app"]),
        ("r.example/teams/app", vec!["https://r.example/v2 teams/app"]),
        (
            "r.example/team/app:1",
            vec![
                "https://two.example/v2 app",
                "https://internal.example:5000/v2 projects/app",
            ],
        ),
        (
            &format!("r.example/team/app@{digest}"),
            vec![
                "https://one.example/v2 cache/app",
                "https://internal.example:5000/v2 projects/app",
            ],
        ),
        (
            "a.b.sub.example/app",
            vec![
                "https://wild.example/v2 all/app",
                "https://a.b.sub.example/v2 app",
            ],
        ),
        ("sub.example/app", vec!["https://sub.example/v2 app"]),
        ("x.moved.example/a/b", vec!["https://new.example/v2 old/a/b"]),
        (
            "busybox",
            vec![
                "https://hub.example/v2 proxy/library/busybox",
                "https://registry-1.docker.io/v2 library/busybox",
            ],
        ),
        ("other.example/app", vec!["https://other.example/v2 app"]),
    ] {
        assert_eq!(files.asked(name), asked, "{name}");
    }
    let hosts = files.hosts("r.example/team/app").unwrap();
    assert!(
        hosts
            .iter()
            .all(|host| host.trust.skip_verify && host.plain_fallback && !host.told)
    );
    assert!(!files.hosts("r.example/app").unwrap()[0].plain_fallback);
    let blocked = files.hosts("evil.example/x/y").unwrap_err().to_string();
    assert!(
        blocked.contains("blocked") && blocked.contains("registries.conf"),
        "{blocked}"
    );
    assert!(files.hosts("evil.example.org/x").is_ok());
}

#[test]
fn a_registry_s_own_tree_wins_over_a_conf_and_that_over_the_default_tree() {
    let conf = "[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"m.example\"\n\
                [[registry]]\nlocation = \"s.example\"\nblocked = true\n\
                [[registry]]\nlocation = \"t.example\"\n[[registry.mirror]]\nlocation = \"n.example\"\n";
    let files = Files::new(&[
        ("registries.conf", conf),
        (
            "certs.d/_default/hosts.toml",
            "server = \"https://default.example\"",
        ),
        (
            "other.d/r.example/hosts.toml",
            "server = \"https://tree.example\"",
        ),
        (
            "certs.d/s.example/hosts.toml",
            "server = \"https://tree.example\"",
        ),
    ]);
    assert_eq!(files.asked("r.example/x"), ["https://tree.example/v2 x"]);
    assert_eq!(
        files.asked("t.example/x"),
        ["https://n.example/v2 x", "https://t.example/v2 x"]
    );
    assert_eq!(files.asked("u.example/x"), ["https://default.example/v2 x"]);
    assert!(matches!(
        files.hosts("s.example/x"),
        Err(RegistryError::Blocked { .. })
    ));
}

#[test]
fn fragments_replace_entries_of_the_same_prefix() {
    let files = Files::new(&[
        ("registries.conf", CONF),
        (
            "registries.conf.d/10.conf",
            "[[registry]]\nlocation = \"evil.example\"\n[aliases]\n\"tool\" = \"\"\n",
        ),
        (
            "registries.conf.d/20.conf",
            "unqualified-search-registries = [\"q.example\"]\n",
        ),
        ("registries.conf.d/30.conf.bak", "nonsense"),
    ]);
    assert_eq!(files.asked("evil.example/x"), ["https://evil.example/v2 x"]);
    let conf = conf::Conf::read(&files.config.registries_conf).unwrap();
    assert_eq!(conf.candidates("tool"), Some(vec!["q.example/tool".to_owned()]));
}

#[test]
fn short_names_are_aliases_or_searched_for() {
    let files = Files::new(&[("registries.conf", CONF)]);
    let conf = conf::Conf::read(&files.config.registries_conf).unwrap();
    let digest = format!("@sha256:{}", "a".repeat(64));
    let found = |name: &str| conf.candidates(name);
    let owned = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    assert_eq!(found("tool"), owned(&["r.example/tools/tool"]));
    assert_eq!(found("tool:2"), owned(&["r.example/tools/tool:2"]));
    assert_eq!(
        found(&format!("tool{digest}")),
        owned(&[&format!("r.example/tools/tool{digest}")])
    );
    assert_eq!(found("gone:1"), owned(&["r.example/gone:1", "docker.io/gone:1"]));
    assert_eq!(
        found("team/app"),
        owned(&["r.example/team/app", "docker.io/team/app"])
    );
    for whole in [
        "docker.io/busybox",
        "r.example/app",
        "localhost/app",
        "Localhost/app",
        "[::1]:5000/x",
        "not a name",
    ] {
        assert_eq!(found(whole), None, "{whole}");
    }
    assert_eq!(
        conf::Conf::default().candidates("busybox"),
        owned(&["docker.io/library/busybox:latest"])
    );
}

#[test]
fn a_conf_that_cannot_be_obeyed_is_refused_by_name() {
    for (text, words) in [
        ("[registries.search]\nregistries = [\"docker.io\"]", "version 1"),
        ("[[registry]]\ninsecure = true", "neither prefix nor location"),
        ("[[registry]]\nlocation = \"https://r.example\"", "no scheme"),
        ("[[registry]]\nprefix = \"a.*.example\"", "beginning"),
        ("[[registry]]\nlocation = \"r.example:latest/x y\"", "r.example"),
        (
            "[[registry]]\nlocation = \"registry\"",
            "does not begin with a registry",
        ),
        (
            "[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"m.example\"\npull-from-mirror = \"some\"",
            "none of all",
        ),
        (
            "[[registry]]\nlocation = \"r.example\"\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"m.example\"\npull-from-mirror = \"all\"",
            "keep the former",
        ),
        ("short-name-mode = \"often\"", "often"),
        ("[aliases]\nx = \"x\"", "registry and repository"),
        ("[aliases]\nx = \"r.example/x:1\"", "without tag"),
        ("registry = 3", "line 1"),
    ] {
        let files = Files::new(&[("registries.conf", text)]);
        let error = files.hosts("any.example/x").unwrap_err().to_string();
        let named = error.contains(&files.dir.path().join("registries.conf").display().to_string());
        assert!(named && error.contains(words), "{error}");
    }
}
