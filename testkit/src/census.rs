//! The census: which kernel objects a node holds, and what differs between two looks.
//!
//! Counted are mounts, named network namespaces, links, addresses, routes and neighbours' bridges,
//! cgroups of the instance in every hierarchy, nft and iptables rules, processes, unix sockets, open
//! descriptors of daemon, keeper and shims, and the files of the state directory. A test takes one
//! before and one after; a difference fails it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::node::Node;
use crate::wait;

pub mod cgroup;
mod files;
mod network;
mod processes;

/// How long deferred work (the deletion of a veth, the end of a shim) may take until it counts as left
/// behind.
const SETTLING: Duration = Duration::from_secs(5);

/// What a look at a node found: by section, each object as a line, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    sections: BTreeMap<&'static str, BTreeMap<String, usize>>,
}

impl Census {
    /// Looks once.
    ///
    /// # Errors
    /// When the kernel or a tool does not answer.
    pub fn take(node: &Node) -> Result<Self> {
        let mut census = Self::default();
        // Tools run inside, so they come before the processes are listed.
        network::collect(node, &mut census)?;
        cgroup::collect(node, &mut census)?;
        files::collect(node, &mut census)?;
        processes::collect(node, &mut census)?;
        Ok(census)
    }

    /// Looks again until the node is as it was `before`, or deferred work has had its time; then gives
    /// the last look.
    ///
    /// # Errors
    /// As [`Census::take`].
    pub fn settled(node: &Node, before: &Self) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let now = Self::take(node)?;
            if now == *before || begin.elapsed() > wait::patient(SETTLING) {
                return Ok(now);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Looks until two looks a moment apart agree: the state to compare with later.
    ///
    /// # Errors
    /// As [`Census::take`].
    pub fn quiet(node: &Node) -> Result<Self> {
        let begin = Instant::now();
        let mut last = Self::take(node)?;
        loop {
            std::thread::sleep(Duration::from_millis(150));
            let now = Self::take(node)?;
            if now == last || begin.elapsed() > wait::patient(SETTLING) {
                return Ok(now);
            }
            last = now;
        }
    }

    /// What is here but not in `later`, and the other way round.
    #[must_use]
    pub fn diff(&self, later: &Self) -> Diff {
        let mut diff = Diff::default();
        for section in self.sections.keys().chain(later.sections.keys()) {
            let empty = BTreeMap::new();
            let (old, new) = (
                self.sections.get(section).unwrap_or(&empty),
                later.sections.get(section).unwrap_or(&empty),
            );
            for line in old.keys().chain(new.keys()) {
                let (was, is) = (
                    old.get(line).copied().unwrap_or_default(),
                    new.get(line).copied().unwrap_or_default(),
                );
                if was != is {
                    diff.lines.insert((section, line.clone()), (was, is));
                }
            }
        }
        diff
    }

    /// Fails the test, in words, unless `later` holds exactly the same.
    ///
    /// # Panics
    /// When there is a difference.
    pub fn assert_same(&self, later: &Self) {
        let diff = self.diff(later);
        assert!(diff.is_empty(), "the census differs:\n{diff}");
    }

    /// The lines of one section, for tests that look at one kind of object.
    pub fn section(&self, name: &str) -> impl Iterator<Item = &str> {
        self.sections
            .get(name)
            .into_iter()
            .flat_map(|lines| lines.keys().map(String::as_str))
    }

    fn add(&mut self, section: &'static str, line: impl Into<String>) {
        *self
            .sections
            .entry(section)
            .or_default()
            .entry(of_any_program(line.into()))
            .or_default() += 1;
    }
}

/// Without the name that a keeper's files and its unit have from its program's: one keeper in place of another is no
/// difference, two are.
fn of_any_program(line: String) -> String {
    for (before, ending) in [("/", ".sock"), ("/", ".log"), ("-keeper-", ".scope")] {
        if let Some(rest) = line.strip_suffix(ending)
            && let Some((whose, name)) = rest.rsplit_once(before)
            && name.len() == 16
            && name.bytes().all(|byte| byte.is_ascii_hexdigit())
        {
            return format!("{whose}{before}<program>{ending}");
        }
    }
    line
}

/// What differs between two looks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    lines: BTreeMap<(&'static str, String), (usize, usize)>,
}

impl Diff {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut heading = "";
        for ((section, line), (was, is)) in &self.lines {
            if *section != heading {
                writeln!(f, "{section}:")?;
                heading = section;
            }
            let sign = if is > was { '+' } else { '-' };
            match (was, is) {
                (0, 1) | (1, 0) => writeln!(f, "  {sign} {line}")?,
                _ => writeln!(f, "  {sign} {line} ({was} before, {is} after)")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_section_and_sign() {
        let (mut before, mut after) = (Census::default(), Census::default());
        before.add("mounts", "/a");
        before.add("mounts", "/b");
        after.add("mounts", "/b");
        after.add("links", "veth1");
        after.add("descriptors", "daemon: pipe");
        after.add("descriptors", "daemon: pipe");
        let text = before.diff(&after).to_string();
        assert_eq!(
            text,
            "descriptors:\n  + daemon: pipe (0 before, 2 after)\nlinks:\n  + veth1\nmounts:\n  - /a\n"
        );
        assert!(before.diff(&before.clone()).is_empty());
    }

    #[test]
    fn a_keeper_in_place_of_another_is_no_difference_and_a_second_one_is() {
        let (mut before, mut after) = (Census::default(), Census::default());
        before.add("files", "/run/coracle/keeper/0123456789abcdef.sock");
        after.add("files", "/run/coracle/keeper/fedcba9876543210.sock");
        before.add("units", "n1-keeper-0123456789abcdef.scope");
        after.add("units", "n1-keeper-fedcba9876543210.scope");
        assert_eq!(before.diff(&after).to_string(), "");
        after.add("files", "/run/coracle/keeper/0000000000000000.sock");
        assert!(!before.diff(&after).is_empty());
    }

    #[test]
    fn root_each_kind_of_object_is_seen() {
        let node = Node::start().unwrap();
        let before = Census::quiet(&node).unwrap();
        before.assert_same(&Census::take(&node).unwrap());
        let make = "ip netns add left-behind
            ip link add veth-left type veth peer name veth-right
            ip addr add 10.9.8.7/24 dev veth-left
            mkdir -p /run/coracle/pods/x && mount -t tmpfs tmpfs /run/coracle/pods/x
            nft add table inet left
            setsid sleep 777 >/dev/null 2>&1 &";
        node.run("sh", &["-c", make]).unwrap();
        let group = cgroup::hierarchies()
            .unwrap()
            .remove(0)
            .join(node.instance().as_str())
            .join("pod");
        std::fs::create_dir_all(&group).unwrap();
        let text = before.diff(&Census::take(&node).unwrap()).to_string();
        for part in [
            "network namespaces:\n  + left-behind",
            "+ veth-left",
            "10.9.8.7/24",
            "/run/coracle/pods/x tmpfs",
            "table inet left",
            "sleep 777",
            "/pod",
            "state files:",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
