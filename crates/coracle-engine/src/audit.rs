//! The difference between records, ledgers and the kernel.

mod network;

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_store::Ledger;
use coracle_types::PodSandboxId;

use crate::api::{Difference, Finding, IdPrefix};
use crate::engine::Engine;
use crate::objects::Object;
use crate::parts::Parts;
use crate::pod::{PodHandle, View};
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
        let views = self.views();
        let look = Look {
            parts: Arc::clone(&self.parts),
            views: views.clone(),
        };
        // A file system that hangs holds up nobody else.
        let mut seen = match tokio::task::spawn_blocking(move || look.all()).await {
            Ok(seen) => seen,
            Err(error) => {
                let problem = format!("the node's files cannot be looked at: {error}");
                return vec![finding(Difference::Missing, "audit", &problem, "")];
            }
        };
        seen.leave_out_what_changed(&views, &self.views());
        let mut findings = seen.missing;
        self.missing_networks(&seen.attached, &mut findings).await;
        findings.append(&mut seen.leaked);
        let pods: HashSet<_> = views.iter().map(|view| &view.pod.id).collect();
        self.leaked_networks(&pods, &mut findings).await;
        self.leaked_shims(&pods, &mut findings).await;
        findings.extend(seen.aside);
        findings
    }

    fn views(&self) -> Vec<Arc<View>> {
        let pods = self.parts.index.pods(&IdPrefix::default());
        pods.iter().map(PodHandle::view).collect()
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
}

/// Pods at one moment, to be held against files, on a thread that may block.
struct Look {
    parts: Arc<Parts>,
    views: Vec<Arc<View>>,
}

/// What was seen of files.
#[derive(Debug, Default)]
struct Seen {
    missing: Vec<Finding>,
    leaked: Vec<Finding>,
    /// Ready pods whose ledgers tell of a network.
    attached: Vec<PodSandboxId>,
    aside: Option<Finding>,
}

impl Seen {
    /// Pods live on while it is looked: one that is not as it was may have moved what was looked for.
    fn leave_out_what_changed(&mut self, before: &[Arc<View>], now: &[Arc<View>]) {
        let still: HashSet<*const View> = now.iter().map(Arc::as_ptr).collect();
        let changed: HashSet<&str> = before
            .iter()
            .filter(|view| !still.contains(&Arc::as_ptr(view)))
            .map(|view| view.pod.id.as_str())
            .collect();
        self.missing
            .retain(|finding| !changed.contains(finding.owner.as_str()));
        self.attached.retain(|pod| !changed.contains(pod.as_str()));
        let known: HashSet<&str> = now.iter().flat_map(|view| ids(view)).collect();
        self.leaked
            .retain(|finding| !known.contains(finding.owner.as_str()));
    }
}

/// Of a pod and its containers.
fn ids(view: &View) -> impl Iterator<Item = &str> {
    let containers = view.containers.iter().map(|record| record.id.as_str());
    std::iter::once(view.pod.id.as_str()).chain(containers)
}

impl Look {
    fn all(&self) -> Seen {
        let mut seen = Seen::default();
        let mounted = mount_points();
        for view in &self.views {
            self.missing(view, &mounted, &mut seen.missing);
        }
        let ready = self.views.iter().filter(|view| view.pod.phase == PodPhase::Ready);
        seen.attached = ready
            .map(|view| &view.pod.id)
            .filter(|pod| self.is_attached(pod))
            .cloned()
            .collect();
        self.leaked(&mut seen.leaked);
        let aside = self.parts.config.root.join("db.redb.damaged");
        seen.aside = aside.exists().then(|| {
            let object = format!("{}: what the database was before", aside.display());
            Finding {
                remedy: ASIDE.to_owned(),
                ..finding(Difference::Missing, "database", &object, "")
            }
        });
        seen
    }

    fn is_attached(&self, pod: &PodSandboxId) -> bool {
        let ledger = Ledger::<Object>::open(&self.parts.records.pod_dir(pod).join("ledger"));
        ledger.is_ok_and(|ledger| {
            let mut entries = ledger.entries().iter();
            entries.any(|object| matches!(object, Object::Attachment { .. }))
        })
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

    fn leaked(&self, findings: &mut Vec<Finding>) {
        let (config, views) = (&self.parts.config, &self.views);
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
            for parent in self.cgroup_parents() {
                let parent = hierarchy.join(parent.trim_start_matches('/'));
                strangers(&parent, "", "cgroup", &is_either);
            }
        }
    }

    /// Where pods' cgroups lie: the default and those that clients gave.
    fn cgroup_parents(&self) -> BTreeSet<String> {
        let config = &self.parts.config;
        let given = self
            .views
            .iter()
            .map(|view| view.pod.config.cgroup_parent.as_str());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{container, pod};

    #[test]
    fn what_lived_on_while_it_was_looked_at_is_no_finding() {
        let view = |containers: usize| {
            let pod = pod("now");
            let containers = (0..containers).map(|_| Arc::new(container(&pod.id))).collect();
            Arc::new(View {
                pod: Arc::new(pod),
                containers,
            })
        };
        let (still, went, moved, came) = (view(0), view(0), view(0), view(1));
        let before = [&still, &went, &moved].map(Arc::clone);
        let now = [
            Arc::clone(&still),
            Arc::new(View::clone(&moved)),
            Arc::clone(&came),
        ];
        let owner = |view: &View| view.pod.id.to_string();
        let all = |difference, owners: &[String]| {
            let owners = owners.iter();
            owners
                .map(|owner| finding(difference, "process", "1", owner))
                .collect::<Vec<_>>()
        };
        let owners = [owner(&still), owner(&went), owner(&moved)];
        let strange = [came.containers[0].id.to_string(), owner(&view(0))];
        let mut seen = Seen {
            missing: all(Difference::Missing, &owners),
            leaked: all(Difference::Leaked, &strange),
            attached: before.iter().map(|view| view.pod.id.clone()).collect(),
            aside: None,
        };
        seen.leave_out_what_changed(&before, &now);
        assert_eq!(seen.missing, all(Difference::Missing, &owners[..1]));
        assert_eq!(seen.leaked, all(Difference::Leaked, &strange[1..]));
        assert_eq!(seen.attached, std::slice::from_ref(&still.pod.id));
    }
}
