//! The packages of the guest and of what makes it.

use anyhow::Result;

use crate::setup;

/// The only place that names them, besides those that nodes and tests need everywhere.
const PACKAGES: &str = include_str!("packages.txt");

/// Installs what is lacking on this machine.
pub(super) fn install_for_host() -> Result<()> {
    setup::ensure(&named(PACKAGES, &["host"]))
}

/// What is inside, but for the kernel.
pub(super) fn of_guest() -> Vec<&'static str> {
    let mut names = named(PACKAGES, &["guest"]);
    names.extend(named(setup::PACKAGES, &["node", "test"]));
    names.sort_unstable();
    names.dedup();
    names
}

/// The kernel's package.
pub(super) fn kernel() -> &'static str {
    named(PACKAGES, &["kernel"]).first().copied().unwrap_or_default()
}

fn named(text: &'static str, kinds: &[&str]) -> Vec<&'static str> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .filter(|(_, kind)| kinds.contains(kind))
        .map(|(name, _)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_says_where_and_why() {
        for line in PACKAGES.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(
                matches!(words.get(1), Some(&("host" | "guest" | "kernel"))),
                "{line}"
            );
            assert!(words.len() > 2, "{line}");
        }
        assert!(kernel().starts_with("linux-image-"));
        let inside = of_guest();
        assert!(inside.contains(&"systemd-sysv") && inside.contains(&"busybox"));
        assert!(!inside.contains(&"gcc") && !inside.contains(&"qemu-utils"));
    }
}
