//! The difference between records, ledgers and the kernel.

mod network;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use coracle_store::Ledger;
use coracle_types::PodSandboxId;

use crate::api::{Difference, Finding, IdPrefix};
use crate::engine::Engine;
use crate::objects::Object;
use crate::pod::View;
use crate::policy::{ContainerPhase, PodPhase};

/// Where cgroup hierarchies are mounted (v1 and hybrid); on pure v2 this is the tree itself.
const CGROUPS: &str = "/sys/fs/cgroup";

const MISSING: &str = "remove the pod: `coracle rm POD`; its workload controller makes a new one";
const LEAKED: &str = "restart the daemon, which puts away what is nobody's; report it if it stays";
const QUARANTINED: &str = "remove the pod by its id: `coracle rm POD`; what it owns goes with it";
const ASIDE: &str =
    "pods and images were taken from what else tells of them; remove the file when nobody needs it";
const KEEPER: &str =
    "none: the next start of a pod, or of the daemon, makes another, and shims deposit with it";

impl Engine {
    /// What the kernel has that no pod owns, what pods own that is not there, and what cannot be read.
    /// Deferred removals are waited for, so a quiet node has no findings.
    pub async fn audit(&self) -> Vec<Finding> {
        self.settle().await;
        let views: Vec<_> = self
            .parts
            .index
            .pods(&IdPrefix::default())
            .iter()
            .map(|handle| handle.view())
            .collect();
        let mut findings = Vec::new();
        let mounted = mount_points();
        for view in &views {
            self.missing(view, &mounted, &mut findings);
        }
        self.missing_networks(&views, &mut findings).await;
        let views: Vec<_> = views.iter().map(AsRef::as_ref).collect();
        self.leaked(&views, &mut findings);
        let pods: HashSet<_> = views.iter().map(|view| &view.pod.id).collect();
        self.leaked_networks(&pods, &mut findings).await;
        self.leaked_shims(&pods, &mut findings).await;
        let aside = self.parts.config.root.join("db.redb.damaged");
        if aside.exists() {
            let object = format!("{}: what the database was before", aside.display());
            findings.push(Finding {
                remedy: ASIDE.to_owned(),
                ..finding(Difference::Missing, "database", &object, "")
            });
        }
        findings
    }

    fn missing(&self, view: &View, mounted: &HashSet<PathBuf>, findings: &mut Vec<Finding>) {
        let pod = &view.pod.id;
        let mut miss = |kind: &str, object: &str| {
            findings.push(finding(Difference::Missing, kind, object, pod.as_str()));
        };
        if let Some(reason) = &view.pod.quarantine {
            miss("record", reason);
            if let Some(finding) = findings.last_mut() {
                QUARANTINED.clone_into(&mut finding.remedy);
            }
            return;
        }
        let directory = self.parts.records.pod_dir(pod);
        let entries = match Ledger::<Object>::open(&directory.join("ledger")) {
            Ok(ledger) => ledger.entries().to_vec(),
            Err(error) => return miss("ledger", &error.to_string()),
        };
        if view.pod.phase != PodPhase::Ready {
            return;
        }
        for object in &entries {
            for path in self.must_exist(object, view, &directory) {
                if !path.exists() {
                    miss(object.kind(), &path.display().to_string());
                }
            }
            for pin in pins(object) {
                if pin.exists() && !mounted.contains(&pin) {
                    let what = format!("{} is no namespace any more: it was unmounted", pin.display());
                    miss(object.kind(), &what);
                }
            }
        }
        for container in &view.containers {
            let runs = matches!(
                container.phase,
                ContainerPhase::Running | ContainerPhase::Stopping
            );
            if let Some(pid) = container.pid.filter(|_| runs)
                && !Path::new(&format!("/proc/{pid}")).exists()
            {
                miss(
                    "process",
                    &format!("{pid}, first process of container {}", container.id),
                );
            }
        }
    }

    /// Shims and deposits of pods that nobody knows.
    async fn leaked_shims(&self, pods: &HashSet<&PodSandboxId>, findings: &mut Vec<Finding>) {
        match self.parts.shims.pods().await {
            Ok(kept) => findings.extend(
                kept.iter()
                    .filter(|pod| !pods.contains(pod))
                    .map(|pod| finding(Difference::Leaked, "shim", pod.as_str(), pod.as_str())),
            ),
            Err(error) => findings.push(Finding {
                remedy: KEEPER.to_owned(),
                ..finding(Difference::Missing, "keeper", &crate::error::chain(&error), "")
            }),
        }
    }

    /// The paths that stand for an object while its owner is well.
    fn must_exist(&self, object: &Object, view: &View, directory: &Path) -> Vec<PathBuf> {
        match object {
            Object::Shim => vec![directory.join("shim.sock")],
            Object::Netns { path } | Object::Namespaces { path } => vec![path.clone()],
            Object::Attachment { .. } | Object::Scope { .. } => Vec::new(),
            Object::Task { container, cgroup } => {
                let runs = view.containers.iter().any(|record| {
                    record.id == *container
                        && matches!(record.phase, ContainerPhase::Running | ContainerPhase::Stopping)
                });
                if runs {
                    vec![a_hierarchy().join(cgroup.trim_start_matches('/'))]
                } else {
                    Vec::new()
                }
            }
        }
    }

    fn leaked(&self, views: &[&View], findings: &mut Vec<Finding>) {
        let config = &self.parts.config;
        let pods: HashSet<&str> = views.iter().map(|view| view.pod.id.as_str()).collect();
        let containers: HashSet<&str> = views
            .iter()
            .flat_map(|view| view.containers.iter().map(|record| record.id.as_str()))
            .collect();
        let mut strangers = |directory: &Path, prefix: &str, kind: &str, known: &dyn Fn(&str) -> bool| {
            for name in names(directory) {
                let Some(id) = name.strip_prefix(prefix) else {
                    continue;
                };
                let id = crate::cgroups::id_in(id.strip_suffix(".json").unwrap_or(id));
                if id.parse::<PodSandboxId>().is_ok() && !known(id) {
                    let object = directory.join(&name).display().to_string();
                    findings.push(finding(Difference::Leaked, kind, &object, id));
                }
            }
        };
        let is_pod = |id: &str| pods.contains(id);
        let is_container = |id: &str| containers.contains(id);
        let is_either = |id: &str| is_pod(id) || is_container(id);
        strangers(&config.state.join("pods"), "", "directory", &is_pod);
        strangers(&config.state.join("containers"), "", "directory", &is_container);
        strangers(&config.root.join("writable"), "", "writable layer", &is_container);
        for hierarchy in hierarchies() {
            for parent in self.cgroup_parents(views) {
                let parent = hierarchy.join(parent.trim_start_matches('/'));
                strangers(&parent, "", "cgroup", &is_either);
            }
        }
    }

    /// Where pods' cgroups lie: the default and those that clients gave.
    fn cgroup_parents(&self, views: &[&View]) -> BTreeSet<String> {
        let config = &self.parts.config;
        let given = views.iter().map(|view| view.pod.config.cgroup_parent.as_str());
        given
            .chain([""])
            .map(|given| crate::cgroups::parent_path(config, given))
            .collect()
    }
}

/// The files on which an object's namespaces are pinned.
fn pins(object: &Object) -> Vec<PathBuf> {
    match object {
        Object::Netns { path } => vec![path.clone()],
        Object::Namespaces { path } => names(path).into_iter().map(|name| path.join(name)).collect(),
        _ => Vec::new(),
    }
}

/// Field 5 of /proc/self/mountinfo, which the paths of pins survive unescaped: ids and plain words.
fn mount_points() -> HashSet<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|path| PathBuf::from(path.replace("\\040", " ")))
        .collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Every hierarchy of cgroup v1, or the one tree of v2.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    names(root)
        .into_iter()
        .map(|name| root.join(name))
        .filter(|path| path.is_dir())
        .collect()
}

fn a_hierarchy() -> PathBuf {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        root
    } else {
        root.join("memory")
    }
}

fn finding(difference: Difference, kind: &str, object: &str, owner: &str) -> Finding {
    Finding {
        difference,
        kind: kind.to_owned(),
        object: object.to_owned(),
        owner: owner.to_owned(),
        remedy: match difference {
            Difference::Leaked => LEAKED,
            Difference::Missing => MISSING,
        }
        .to_owned(),
    }
}
