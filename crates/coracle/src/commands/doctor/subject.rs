//! What `doctor` examines: the directories and the socket of the daemon that runs here, or of one that would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_doctor::{Condition, Configuration, Daemon, Erofs, Pending, Subject};
use coracle_engine::api::CgroupDriver;
use coracle_proto::admin::{ConfigSetting, ShowConfigRequest};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{self, RuntimeConfigRequest, StatusRequest, VersionRequest};
use coracle_snapshot::Layers;
use coracle_types::Kind;

use crate::cli::{DoctorArgs, Global};
use crate::config::{self, Effect, Loaded, Origin, Problem, Sources};

/// A daemon that does not answer by then is examined as one that is silent.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the daemon, and reads the files that it reads.
pub(super) async fn gather(args: &DoctorArgs, global: &Global) -> Subject {
    let (daemon, settings) = ask(global).await;
    let sources = Sources::of_node().with_file(args.config.as_deref());
    let written = Written::read(&sources);
    let in_force = settings.as_ref().map(|settings| {
        let pairs = settings
            .iter()
            .map(|setting| (setting.key.as_str(), setting.value.as_str()));
        Loaded::told(pairs)
    });
    let config = in_force.as_ref().unwrap_or(&written.loaded).config.clone();
    let or = |given: &Option<PathBuf>, configured: PathBuf| given.clone().unwrap_or(configured);
    // Of another runtime nothing is known, but that this node has the usual directories.
    let foreign = settings.is_none() && matches!(daemon, Daemon::Answers { .. });
    let configuration = (!foreign).then(|| written.judge(settings.as_deref(), &config));
    let root = or(&args.root, config.root);
    Subject {
        tree: "/".into(),
        erofs: erofs(&root),
        root,
        state: or(&args.state, config.state),
        socket: global.socket.clone(),
        cni_conf_dir: or(&args.cni_conf_dir, config.cni_conf_dir),
        cni_bin_dirs: if args.cni_bin_dir.is_empty() {
            config.cni_bin_dirs
        } else {
            args.cni_bin_dir.clone()
        },
        kubelet_config: args.kubelet_config.clone(),
        daemon,
        configuration,
    }
}

/// Tried as the daemon tries it, in its directory, or where that would be made; it leaves nothing.
fn erofs(root: &Path) -> Erofs {
    if !rustix::process::geteuid().is_root() {
        return Erofs::NotTried;
    }
    let there = root.ancestors().find(|ancestor| ancestor.is_dir());
    match coracle_snapshot::can_mount_images(there.unwrap_or(Path::new("/"))) {
        Ok(()) => Erofs::There,
        Err(reason) => Erofs::Lacking(reason),
    }
}

/// What the files and the environment say.
struct Written {
    loaded: Loaded,
    problems: Vec<Problem>,
    files: Vec<PathBuf>,
}

impl Written {
    fn read(sources: &Sources) -> Self {
        let (loaded, problems) = Loaded::read_what_can_be(sources);
        Self {
            loaded,
            problems,
            files: sources.files(),
        }
    }

    fn judge(&self, running: Option<&[ConfigSetting]>, config: &config::Config) -> Configuration {
        let files: Vec<_> = self.files.iter().map(|file| file.display().to_string()).collect();
        let files = if files.is_empty() {
            "all defaults".to_owned()
        } else {
            files.join(", ")
        };
        Configuration {
            source: match running {
                Some(running) if !self.is_what_it_reads(running) => {
                    "the running daemon, which reads other files than this command: `coracle config show` names them"
                        .to_owned()
                }
                Some(_) => format!("the running daemon; {files}"),
                None => files,
            },
            mistakes: self.problems.iter().map(ToString::to_string).collect(),
            pending: running.map_or_else(Vec::new, |running| self.pending(running)),
            socket: config.socket.clone(),
            socket_group: config.socket_group.0.clone(),
            cgroup_driver: match config.cgroup_driver {
                CgroupDriver::Cgroupfs => "cgroupfs",
                CgroupDriver::Systemd => "systemd",
            }
            .to_owned(),
            snapshotter: match config.snapshotter {
                Layers::Auto => "auto",
                Layers::Directories => "overlay",
                Layers::Images => "erofs",
            }
            .to_owned(),
            registry_dirs: config.registry_config_dirs.clone(),
            default_network: config.default_network,
        }
    }

    /// What the daemon has read and does not go by, and what it has not read yet.
    fn pending(&self, running: &[ConfigSetting]) -> Vec<Pending> {
        let seen = self.is_what_it_reads(running) && self.problems.is_empty();
        let known = self.loaded.config.values();
        let mut pending = Vec::new();
        for setting in running {
            let key = known.iter().find(|(key, _)| key.name == setting.key);
            let written = key.filter(|(key, value)| {
                seen && *value != setting.value && self.would_win(self.loaded.origin(key), &setting.origin)
            });
            let words = |value: &str, from: &str| {
                format!("{} = {value} {from}, {} in force", setting.key, setting.value)
            };
            if let Some((key, value)) = written {
                pending.push(Pending {
                    words: words(value, &format!("in {}", self.loaded.origin(key))),
                    restart: key.effect == Effect::Restart,
                });
            } else if let Some(value) = setting.pending.as_deref().filter(|_| !seen) {
                pending.push(Pending {
                    words: words(value, "was read"),
                    restart: true,
                });
            }
        }
        pending
    }

    /// Whether a value of a file replaces one of that origin. What the daemon's options and variables set is
    /// left alone, and so is a default that follows them.
    fn would_win(&self, written: Origin, running: &str) -> bool {
        match written {
            Origin::File(..) => running == Origin::Default.to_string() || self.names_file(running),
            Origin::Default => self.names_file(running),
            _ => false,
        }
    }

    fn names_file(&self, origin: &str) -> bool {
        let named = |file: &PathBuf| {
            origin
                .strip_prefix(&file.display().to_string())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        };
        self.files.iter().any(named)
    }

    /// Whether the daemon reads these files: one that was started with other ones says so by its origins.
    fn is_what_it_reads(&self, running: &[ConfigSetting]) -> bool {
        running
            .iter()
            .filter(|setting| setting.origin.starts_with('/'))
            .all(|setting| self.names_file(&setting.origin))
    }
}

/// What the daemon says of itself, and what it goes by when it is ours.
async fn ask(global: &Global) -> (Daemon, Option<Vec<ConfigSetting>>) {
    match tokio::time::timeout(PATIENCE, answer(global)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            let refused = |error: &ClientError| {
                matches!(
                    error,
                    ClientError::Connect {
                        kind: Kind::PermissionDenied,
                        ..
                    }
                )
            };
            let daemon = match error.downcast_ref::<ClientError>() {
                Some(error) if refused(error) => Daemon::Refused,
                _ => Daemon::Silent(error.to_string()),
            };
            (daemon, None)
        }
        Err(_) => {
            let words = format!(
                "{} takes connections and does not answer",
                global.socket.display()
            );
            (Daemon::Hangs(words), None)
        }
    }
}

async fn answer(global: &Global) -> anyhow::Result<(Daemon, Option<Vec<ConfigSetting>>)> {
    let client = Client::connect(&global.socket).await?;
    let mut runtime = client.runtime();
    let version = runtime.version(VersionRequest::default()).await?.into_inner();
    let status = runtime
        .status(StatusRequest { verbose: false })
        .await?
        .into_inner();
    let conditions = status.status.unwrap_or_default().conditions;
    // Runtimes of before Kubernetes 1.28 do not know the call.
    let config = runtime.runtime_config(RuntimeConfigRequest {}).await.ok();
    let linux = config.and_then(|config| config.into_inner().linux);
    let settings = client.admin().show_config(ShowConfigRequest {}).await.ok();
    let daemon = Daemon::Answers {
        version: format!("{} {}", version.runtime_name, version.runtime_version),
        conditions: conditions
            .into_iter()
            .map(|condition| Condition {
                name: condition.r#type,
                holds: condition.status,
                message: condition.message,
            })
            .collect(),
        cgroup_driver: linux.map(|linux| {
            let driver = match linux.cgroup_driver() {
                cri::CgroupDriver::Systemd => "systemd",
                cri::CgroupDriver::Cgroupfs => "cgroupfs",
            };
            driver.to_owned()
        }),
    };
    Ok((daemon, settings.map(|settings| settings.into_inner().settings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(key: &str, value: &str, origin: &str) -> ConfigSetting {
        ConfigSetting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: origin.to_owned(),
            ..ConfigSetting::default()
        }
    }

    fn written(text: &str) -> (tempfile::TempDir, Written) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, text).unwrap();
        let written = Written::read(&Sources::of_file(&file));
        (directory, written)
    }

    #[test]
    fn what_is_written_and_not_in_force_is_found_without_a_reload() {
        let (_directory, written) =
            written("socket_mode = \"0600\"\n[log]\nlevel = \"debug\"\n[registry]\nattempts = 4\n");
        let running = [
            setting("socket_mode", "\"0660\"", "default"),
            setting("log.level", "\"info\"", "default"),
            setting("registry.attempts", "4", "default"),
            // An option of the daemon wins over the file.
            setting("root", "\"/elsewhere\"", "flag --root"),
            setting("cgroup.default_parent", "\"/of-a-flag/pods\"", "default"),
        ];
        let pending = written.pending(&running);
        let words: Vec<_> = pending
            .iter()
            .map(|one| (one.words.as_str(), one.restart))
            .collect();
        assert_eq!(words.len(), 2, "{words:?}");
        assert!(words[0].0.starts_with("socket_mode = \"0600\" in ") && words[0].1);
        assert!(words[1].0.ends_with("config.toml:3, \"info\" in force") && !words[1].1);
    }

    #[test]
    fn files_that_the_daemon_does_not_read_say_nothing_of_it() {
        let (_directory, written) = written("[log]\nlevel = \"debug\"\n");
        let running = [
            setting("log.level", "\"info\"", "default"),
            setting("root", "\"/x\"", "/other/config.toml:1"),
        ];
        assert_eq!(written.pending(&running), []);
    }

    #[test]
    fn a_daemons_own_words_make_its_configuration_whole() {
        let told = Loaded::told(
            [
                ("state", "\"/s\""),
                ("network.bin_dirs", "[\"/a\", \"/b\"]"),
                ("of.tomorrow", "7"),
            ]
            .into_iter(),
        );
        assert_eq!(told.config.socket, PathBuf::from("/s/coracle.sock"));
        assert_eq!(told.config.cni_bin_dirs, [PathBuf::from("/a"), "/b".into()]);
    }
}
