//! The configuration as a whole: what wins, what is refused in which words, and that everything that is
//! made from the one definition agrees with it.

use std::fs;
use std::path::{Path, PathBuf};

use super::sources::Given;
use super::*;
use crate::cli::{DEFAULT_SOCKET, ServeArgs};

/// A directory with a configuration in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            let path = place.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        place
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("config.toml")
    }

    fn read(&self) -> Result<Loaded, Rejected> {
        Loaded::read(&Sources::of_file(&self.file()))
    }

    /// All that is wrong, without the directory's name.
    fn complaint(&self) -> String {
        let words = self.read().unwrap_err().to_string();
        words.replace(&self.0.path().display().to_string(), "")
    }
}

fn default() -> Config {
    Config::settle(&Given::default())
}

#[test]
fn the_policy_that_was_checked_is_handed_on() {
    let accepts = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    let place = Place::new(&[("policy.json", accepts)]);
    let policy = place.0.path().join("policy.json");
    let text = format!("[image]\nsignature_policy = {:?}\n", policy.display().to_string());
    fs::write(place.file(), text).unwrap();
    let loaded = place.read().unwrap();
    // Whatever the file says by then.
    fs::remove_file(&policy).unwrap();
    assert!(loaded.policy.is_some() && loaded.with_live_of(&loaded).policy.is_some());
    assert!(place.complaint().contains("signature policy"));
    fs::write(place.file(), "").unwrap();
    assert!(loaded.with_live_of(&place.read().unwrap()).policy.is_none());
}

#[test]
fn names_follow_the_instance_and_flags_win_over_files() {
    let place = Place::new(&[(
        "config.toml",
        "instance = \"a\"\nroot = \"/file\"\nstate = \"/s\"\nsocket = \"/file.sock\"\n",
    )]);
    let args = ServeArgs {
        config: Some(place.file()),
        root: Some("/r".into()),
        cni_bin_dir: vec!["/x".into(), "/y".into()],
        ..ServeArgs::default()
    };
    let loaded = Loaded::read(&Sources::of_daemon(&args, Path::new(DEFAULT_SOCKET))).unwrap();
    let config = &loaded.config;
    assert_eq!(config.root, Path::new("/r"));
    assert_eq!(config.socket, Path::new("/file.sock"));
    assert_eq!(config.default_cgroup_parent.0, "/a/pods");
    assert_eq!(config.runtime_cgroup.0, "/a.slice");
    assert_eq!(config.cni_bin_dirs, [Path::new("/x"), Path::new("/y")]);
    let origin = |name: &str| loaded.origin(KEYS.iter().find(|key| key.name == name).unwrap());
    assert_eq!(origin("root"), Origin::Flag("--root"));
    assert_eq!(origin("state"), Origin::File(place.file(), Some(3)));
    assert_eq!(origin("cgroup.runtime"), Origin::Default);
    let elsewhere = Loaded::read(&Sources::of_daemon(&args, Path::new("/typed.sock"))).unwrap();
    assert_eq!(elsewhere.config.socket, Path::new("/typed.sock"));
}

#[test]
fn a_socket_lies_in_the_state_directory_unless_it_is_named() {
    let place = Place::new(&[("config.toml", "state = \"/s\"")]);
    assert_eq!(place.read().unwrap().config.socket, Path::new("/s/coracle.sock"));
}

#[test]
fn fragments_count_in_the_order_of_their_names_and_replace_keys_whole() {
    let place = Place::new(&[
        (
            "config.toml",
            "[log]\nlevel = \"warn\"\n[registry]\nconfig_dirs = [\"/a\", \"/b\"]",
        ),
        ("config.d/20-late.toml", "[log]\nlevel = \"debug\""),
        (
            "config.d/10-early.toml",
            "[log]\nlevel = \"error\"\n[registry]\nconfig_dirs = [\"/c\"]",
        ),
        ("config.d/30-not.toml.bak", "nonsense"),
    ]);
    let loaded = place.read().unwrap();
    assert_eq!(loaded.config.log_level.0, "debug");
    assert_eq!(loaded.config.registry_config_dirs, [Path::new("/c")]);
    let key = KEYS.iter().find(|key| key.name == "log.level").unwrap();
    let late = place.0.path().join("config.d/20-late.toml");
    assert_eq!(loaded.origin(key), Origin::File(late, Some(2)));
}

#[test]
fn all_that_is_wrong_is_said_at_once_with_line_key_value_and_remedy() {
    let place = Place::new(&[
        (
            "config.toml",
            "root = \"relative\"\nrooot = \"/x\"\n[registry]\nmax_concurent_downloads = 3\nattempts = 0\n\
             [netwrok]\nbin_dirs = []\n[network]\nplugin_deadline = \"soon\"\ndefault_subnets = [\"nonsense\"]\n",
        ),
        (
            "config.d/90.toml",
            "log = \"debug\"\n[cgroup]\nruntime = \"/a/../b\"\ndriver = \"systemctl\"\n[metrics]\naddress = \"0.0.0.0:9469\"",
        ),
        ("config.d/91.toml", "[log]\nlevel = info\n"),
    ]);
    insta::assert_snapshot!(place.complaint());
}

#[test]
fn what_is_well_formed_alone_is_checked_together() {
    for (text, words) in [
        (
            "[cgroup]\ndriver = \"systemd\"\ndefault_parent = \"/pods\"",
            "/config.toml:3: cgroup.default_parent: \"/pods\" is no slice",
        ),
        ("[cgroup]\ndefault_parent = \"pods.slice\"", "cgroupfs"),
        ("root = \"/a\"\nstate = \"/a\"", "/config.toml:2: state:"),
        (
            "[network]\ndefault_subnets = [\"10.0.0.0/8\", \"11.0.0.0/8\"]",
            "one network of IPv4",
        ),
    ] {
        let complaint = Place::new(&[("config.toml", text)]).complaint();
        assert!(complaint.contains(words), "{complaint}");
    }
}

#[test]
fn one_slip_is_said_once_and_a_byte_order_mark_is_none() {
    let complaint = Place::new(&[("config.toml", "\\xef\\xbb\\xbf[log]\n")]).complaint();
    assert_eq!(complaint.matches("is not TOML").count(), 1, "{complaint}");
    let marked = Place::new(&[("config.toml", "\u{feff}[log]\r\nlevel = \"debug\"\r\n")]);
    assert_eq!(marked.read().unwrap().config.log_level.0, "debug");
}

#[test]
fn a_pipe_is_not_waited_for_and_a_file_has_a_bound() {
    let place = Place::new(&[]);
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, place.file(), kind, mode, 0).unwrap();
    assert!(place.complaint().contains("no regular file"));
    let place = Place::new(&[("config.toml", &" ".repeat((4 << 20) + 1))]);
    assert!(place.complaint().contains("longer than 4 MiB"));
}

#[test]
fn a_named_file_must_be_there() {
    let complaint = Place::new(&[]).complaint();
    assert!(complaint.contains("/config.toml: cannot be read"), "{complaint}");
}

#[test]
fn the_default_file_loads_as_it_stands_and_says_the_defaults() {
    let text = commented_default();
    insta::assert_snapshot!(text);
    let as_it_stands = Place::new(&[("config.toml", &text)]).read().unwrap();
    assert_eq!(as_it_stands.config, default());
    assert!(KEYS.iter().all(|key| as_it_stands.origin(key) == Origin::Default));
    let uncommented: String = text
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| rest.contains(" = ") && !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let spoken = Place::new(&[("config.toml", &uncommented)]).read().unwrap();
    assert_eq!(spoken.config, default());
    let said = KEYS.iter().filter(|key| spoken.origin(key) != Origin::Default);
    assert_eq!(said.count(), KEYS.len());
}

#[test]
fn sections_stand_together_and_variables_are_nobody_elses() {
    let mut seen = Vec::new();
    for key in KEYS {
        let (section, _) = key.parts();
        if seen.last() != Some(&section) {
            assert!(
                !seen.contains(&section),
                "{} stands apart from its section",
                key.name
            );
            seen.push(section);
        }
        assert!(key.doc.iter().all(|line| line.len() < 120), "{}", key.name);
    }
    let mut variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
    variables.sort();
    variables.dedup();
    assert_eq!(variables.len(), KEYS.len());
    for taken in [
        "CORACLE_PROGRAM",
        "CORACLE_PLAIN",
        "CORACLE_REGISTRY_PASSWORD",
        "CORACLE_SOAK",
    ] {
        assert!(!variables.iter().any(|variable| variable == taken), "{taken}");
    }
}

#[test]
fn the_environment_is_stronger_than_files_and_weaker_than_flags() {
    let place = Place::new(&[("config.toml", "[log]\nlevel = \"warn\"")]);
    let sources = Sources::of_file(&place.file()).with_variable("CORACLE_LOG_LEVEL", "debug");
    let loaded = Loaded::read(&sources).unwrap();
    assert_eq!(loaded.config.log_level.0, "debug");
    let sources = sources.with("log.level", "trace");
    assert_eq!(Loaded::read(&sources).unwrap().config.log_level.0, "trace");
    let bad = Sources::of_file(&place.file()).with_variable("CORACLE_LOG_LEVEL", "loud");
    let complaint = Loaded::read(&bad).unwrap_err().to_string();
    assert!(
        complaint.contains("environment CORACLE_LOG_LEVEL: log.level = \"loud\""),
        "{complaint}"
    );
}

#[test]
fn proxies_that_all_programs_know_are_weaker_than_the_file() {
    let place = Place::new(&[("config.toml", "[registry]\nhttp_proxy = \"\"\n")]);
    let sources = Sources::of_file(&place.file())
        .with_proxy("registry.http_proxy", "http_proxy", "proxy.example:3128")
        .with_proxy("registry.https_proxy", "https_proxy", "http://lower.example")
        .with_proxy("registry.https_proxy", "HTTPS_PROXY", "http://upper.example");
    let loaded = Loaded::read(&sources).unwrap();
    assert_eq!(loaded.config.http_proxy.0, None);
    assert_eq!(
        loaded
            .config
            .https_proxy
            .0
            .as_ref()
            .and_then(|url| url.host_str()),
        Some("upper.example")
    );
    let key = KEYS
        .iter()
        .find(|key| key.name == "registry.https_proxy")
        .unwrap();
    assert_eq!(loaded.origin(key), Origin::Environment("HTTPS_PROXY".to_owned()));
}

#[test]
fn credentials_show_nowhere_and_stand_in_no_file_that_everybody_reads() {
    use std::os::unix::fs::PermissionsExt;
    let good = "[registry.credentials.\"r.example\"]\nusername = \"kim\"\npassword = \"s3cret\"\n";
    let place = Place::new(&[("config.toml", good)]);
    let allow = |mode: u32| fs::set_permissions(place.file(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o644);
    let complaint = place.complaint();
    assert!(
        complaint.contains("chmod o=") && !complaint.contains("s3cret"),
        "{complaint}"
    );
    allow(0o640);
    let config = place.read().unwrap().config;
    assert_eq!(config.registry_credentials.0["r.example"].password, "s3cret");
    let shown = format!("{config:?} {:?}", config.values());
    assert!(shown.contains("kim") && !shown.contains("s3cret"), "{shown}");

    fs::write(place.file(), good.replace("s3cret", "0ther")).unwrap();
    let other = place.read().unwrap().config;
    assert_eq!(
        config.unequal(&other),
        ["registry.credentials"],
        "what is not shown still counts"
    );

    for bad in [
        good.replace("password", "passwort"),
        good.replace("\"s3cret\"", "s3cret"),
        good.replace("\"s3cret\"", "\"s3cret"),
        good.replace("\"s3cret\"", "[\"s3cret\"]"),
        "[registry]\ncredentials = \"kim:s3cret\"".to_owned(),
        "[registry]\nhttps_proxy = \"ftp://kim:s3cret@proxy\"".to_owned(),
        "[registry]\ncredentials = { \"r.example\" = { auth = \"s3cret } }".to_owned(),
    ] {
        fs::write(place.file(), &bad).unwrap();
        let complaint = place.complaint();
        assert!(!complaint.contains("s3cret"), "{complaint}");
    }
}

#[test]
fn only_what_is_live_is_taken_over() {
    let place = Place::new(&[("config.toml", "root = \"/new\"\n[log]\nlevel = \"debug\"")]);
    let new = place.read().unwrap().config;
    let merged = default().with_live_of(&new);
    assert_eq!(merged.log_level.0, "debug");
    assert_eq!(merged.root, default().root);
}

/// Generated files are equal to what is in the repository; `CORACLE_BLESS=1` writes them.
#[test]
fn the_generated_documentation_is_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let schema_file = docs.join("config.schema.json");
    let schema_text = format!("{}\n", serde_json::to_string_pretty(&schema()).unwrap());
    let page_file = docs.join("configuration.md");
    let page = fs::read_to_string(&page_file).unwrap();
    let (begin, end) = ("<!-- keys: generated -->\n", "<!-- keys: end -->");
    let (head, rest) = page.split_once(begin).expect("the table has its place");
    let (_, tail) = rest.split_once(end).expect("the table's place has an end");
    let new_page = format!("{head}{begin}{}{end}{tail}", table());
    if std::env::var_os("CORACLE_BLESS").is_some() {
        fs::write(&schema_file, &schema_text).unwrap();
        fs::write(&page_file, &new_page).unwrap();
    }
    let say = "run this test with CORACLE_BLESS=1";
    assert_eq!(
        fs::read_to_string(&schema_file).unwrap_or_default(),
        schema_text,
        "{say}"
    );
    assert_eq!(fs::read_to_string(&page_file).unwrap(), new_page, "{say}");
}
