//! The difference between the ledgers and the kernel.

use std::collections::HashSet;
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

impl Engine {
    /// What the kernel has that no pod owns, and what pods own that is not there. Deferred removals are
    /// waited for, so a quiet node has no findings.
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
        for view in &views {
            self.missing(view, &mut findings);
        }
        self.leaked(
            &views.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
            &mut findings,
        );
        findings
    }

    fn missing(&self, view: &View, findings: &mut Vec<Finding>) {
        let pod = &view.pod.id;
        let directory = self.parts.records.pod_dir(pod);
        let entries = match Ledger::<Object>::open(&directory.join("ledger")) {
            Ok(ledger) => ledger.entries().to_vec(),
            Err(error) => {
                findings.push(finding(
                    Difference::Missing,
                    "ledger",
                    &error.to_string(),
                    pod.as_str(),
                ));
                return;
            }
        };
        if view.pod.phase != PodPhase::Ready {
            return;
        }
        for object in &entries {
            for path in self.must_exist(object, view, &directory) {
                if !path.exists() {
                    findings.push(finding(
                        Difference::Missing,
                        object.kind(),
                        &path.display().to_string(),
                        pod.as_str(),
                    ));
                }
            }
        }
    }

    /// The paths that stand for an object while its owner is well.
    fn must_exist(&self, object: &Object, view: &View, directory: &Path) -> Vec<PathBuf> {
        match object {
            Object::Shim => vec![directory.join("shim.sock")],
            Object::Netns { path } | Object::Namespaces { path } => vec![path.clone()],
            Object::Attachment { .. } => Vec::new(),
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
                let id = id.strip_suffix(".json").unwrap_or(id);
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
        strangers(&config.state.join("network"), "", "network attachment", &is_pod);
        strangers(&config.root.join("writable"), "", "writable layer", &is_container);
        let netns = self.parts.networks.netns_path(&PodSandboxId::generate());
        if let Some(directory) = netns.parent() {
            strangers(directory, &format!("{}-", config.instance), "netns", &is_pod);
        }
        for hierarchy in hierarchies() {
            let parent = hierarchy.join(config.default_cgroup_parent.trim_start_matches('/'));
            strangers(&parent, "", "cgroup", &is_either);
        }
    }
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
