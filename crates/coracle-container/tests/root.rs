//! Containers made and run by this crate alone, as root: one test after the other on the only thread.
//!
//! Arguments are those of the usual harness as far as cargo passes them: `--list`, `--exact`, names.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test without the usual harness"
)]

#[path = "root/bench.rs"]
mod bench;
#[path = "root/cgroups.rs"]
mod cgroups;
#[path = "root/fixture.rs"]
mod fixture;
#[path = "root/hostile.rs"]
mod hostile;
#[path = "root/life.rs"]
mod life;
#[path = "root/pods.rs"]
mod pods;
#[path = "root/security.rs"]
mod security;

type Test = (&'static str, fn());

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let tests: Vec<Test> = [
        life::TESTS,
        security::TESTS,
        hostile::TESTS,
        cgroups::TESTS,
        pods::TESTS,
        bench::TESTS,
    ]
    .concat();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &tests {
            println!("{name}: test");
        }
        return;
    }
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let filters: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|filter| {
                if exact {
                    name == *filter
                } else {
                    name.contains(filter.as_str())
                }
            })
    };
    if arguments.iter().any(|argument| argument == "--ignored") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("not root: nothing tested");
        return;
    }
    // Mounts of others on the machine are not this run's.
    let own = coracle_sys::namespaces::Namespaces::NONE.with(coracle_sys::namespaces::Namespace::Mount);
    coracle_sys::namespaces::unshare(own).unwrap();
    let private = rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    // What the process keeps open for itself from the first use on.
    coracle_container::pod_init::preload().unwrap();
    // So is the device program that the containers of these tests have in common.
    let image = fixture::busybox();
    assert_eq!(fixture::shell(&image, "exit 3").0, 3);
    drop((image, coracle_types::ContainerId::generate()));
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| chosen(name)) {
        let before = fixture::census();
        let result = std::panic::catch_unwind(test);
        let clean = fixture::census() == before;
        println!(
            "test {name} ... {}",
            if result.is_err() {
                "FAILED"
            } else if clean {
                "ok"
            } else {
                "LEFT SOMETHING"
            }
        );
        if result.is_err() || !clean {
            if result.is_ok() {
                println!("before: {before:?}\nafter:  {:?}", fixture::census());
            }
            failed.push(*name);
        }
    }
    let parent = fixture::parent().parse().unwrap();
    if let Ok(cgroup) = coracle_container::cgroup::Cgroup::open(&parent) {
        cgroup.remove().unwrap();
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}
