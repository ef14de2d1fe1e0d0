//! The configuration: what was written where, checked as a whole, with the origin of each value.
//!
//! Its keys stand in [`keys`], where everything else about them comes from.

mod flags;
mod keys;
mod kinds;
mod problem;
mod registry;
mod render;
mod schema;
mod sources;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use coracle_engine::api::CgroupDriver;
use coracle_image::Policy;

pub(crate) use self::keys::{Config, Effect, KEYS, Key};
pub(crate) use self::kinds::{LogFilter, MetricsAddress};
pub(crate) use self::problem::{Origin, Problem, Rejected};
pub(crate) use self::render::commented_default;
#[cfg(test)]
use self::render::table;
pub(crate) use self::schema::{of_toml, schema};
pub(crate) use self::sources::{DEFAULT_FILE, Sources};
pub(crate) use self::value::{Setting, Value};

/// What a program exits with when its configuration is to blame (sysexits.h, EX_CONFIG).
pub(crate) const EXIT_CONFIG: u8 = 78;

/// A configuration with the origins of its values.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    /// What it says.
    pub(crate) config: Config,
    /// The signature policy that it names, as the check has read it.
    pub(crate) policy: Option<Arc<Policy>>,
    origins: BTreeMap<&'static str, Origin>,
}

impl Loaded {
    /// Reads all sources and checks what they say together.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub(crate) fn read(sources: &Sources) -> Result<Self, Rejected> {
        let (loaded, problems) = Self::read_what_can_be(sources);
        if problems.is_empty() {
            Ok(loaded)
        } else {
            Err(Rejected(problems))
        }
    }

    /// The same for one who looks at a configuration instead of going by it: what is wrong, and all else, with
    /// defaults in its place.
    pub(crate) fn read_what_can_be(sources: &Sources) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let given = sources.gather(&mut problems);
        let mut loaded = Self::of(given);
        if problems.is_empty() {
            loaded.check(&mut problems);
            loaded.read_policy(&mut problems);
        }
        let files = sources.files();
        // As they are read: files in the order in which they count, then everything else.
        problems.sort_by_key(|problem| match &problem.origin {
            Origin::File(path, line) => (files.iter().position(|file| file == path), *line),
            _ => (Some(files.len()), None),
        });
        (loaded, problems)
    }

    /// What another program says that it goes by, as keys and values in TOML. Keys that are not known here,
    /// and values that cannot be read, are passed over: it may be a newer one.
    pub(crate) fn told<'a>(settings: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut given = sources::Given::default();
        for (key, value) in settings {
            let line = format!("{key} = {value}");
            given.read_toml(Path::new(""), &line, &mut Vec::new());
        }
        Self::of(given)
    }

    fn of(given: sources::Given) -> Self {
        let config = Config::settle(&given);
        let origins = given.into_origins();
        Self {
            config,
            policy: None,
            origins,
        }
    }

    /// Whence a key's value comes.
    pub(crate) fn origin(&self, key: &Key) -> Origin {
        self.origins.get(key.name).cloned().unwrap_or_default()
    }

    /// This one, with what may change while the daemon runs taken from `new`.
    pub(crate) fn with_live_of(&self, new: &Self) -> Self {
        let live = |key: &str| {
            KEYS.iter()
                .any(|known| known.name == key && known.effect == Effect::Live)
        };
        let mut origins = self.origins.clone();
        origins.retain(|key, _| !live(key));
        let theirs = new.origins.iter().filter(|(key, _)| live(key));
        origins.extend(theirs.map(|(key, origin)| (*key, origin.clone())));
        Self {
            config: self.config.with_live_of(&new.config),
            policy: new.policy.clone(),
            origins,
        }
    }

    /// Notes that a command set a key.
    pub(crate) fn set_by(&mut self, key: &'static str, command: &'static str) {
        self.origins.insert(key, Origin::Command(command));
    }

    /// What two keys say of each other.
    fn check(&self, problems: &mut Vec<Problem>) {
        let config = &self.config;
        let mut refuse = |key: &'static str, message: String| {
            let origin = self.origins.get(key).cloned().unwrap_or_default();
            problems.push(Problem::new(&origin, format!("{key}: {message}")));
        };
        let parent = &config.default_cgroup_parent.0;
        match config.cgroup_driver {
            CgroupDriver::Cgroupfs if !parent.starts_with('/') => refuse(
                "cgroup.default_parent",
                format!(
                    "{parent:?} is a slice, which cgroup.driver = \"cgroupfs\" does not know: write a path such as \"/coracle/pods\""
                ),
            ),
            CgroupDriver::Systemd if !parent.ends_with(".slice") => refuse(
                "cgroup.default_parent",
                format!(
                    "{parent:?} is no slice, which cgroup.driver = \"systemd\" needs: write one such as \"coracle-pods.slice\""
                ),
            ),
            _ => {}
        }
        let runtime = &config.runtime_cgroup.0;
        if !runtime.starts_with('/') {
            refuse(
                "cgroup.runtime",
                format!("{runtime:?} is no absolute path: begin it with /"),
            );
        }
        let subnets = &config.default_subnets;
        let of_4 = subnets.iter().filter(|net| net.addr().is_ipv4()).count();
        if config.default_network && (subnets.is_empty() || of_4 > 1 || subnets.len() - of_4 > 1) {
            refuse(
                "network.default_subnets",
                "give one network of IPv4, one of IPv6, or one of each".to_owned(),
            );
        }
        if !config.registry_credentials.0.is_empty()
            && let Origin::File(path, _) = self
                .origins
                .get("registry.credentials")
                .cloned()
                .unwrap_or_default()
            && std::fs::metadata(&path).is_ok_and(|file| file.permissions().mode() & 0o007 != 0)
        {
            refuse(
                "registry.credentials",
                format!(
                    "everybody on this node can read them: chmod o= {}",
                    path.display()
                ),
            );
        }
        if config.root == config.state {
            refuse(
                "state",
                "it is the same as root: what ends with the boot lies apart".to_owned(),
            );
        }
    }

    fn read_policy(&mut self, problems: &mut Vec<Problem>) {
        match self.config.signature_policy.as_deref().map(Policy::load) {
            None => {}
            Some(Ok(policy)) => self.policy = Some(Arc::new(policy)),
            Some(Err(malformed)) => {
                let message = format!("signature policy: {}", malformed.reason);
                let origin = Origin::File(malformed.path, malformed.line);
                problems.push(Problem::new(&origin, message));
            }
        }
    }
}
