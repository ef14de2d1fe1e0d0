//! Limits, kills and numbers of cgroups, on whatever layout the node has.

use std::path::{Path, PathBuf};

use coracle_container::cgroup::{Cgroup, CgroupPath};
use coracle_types::Kinded as _;
use serde_json::json;

use crate::fixture::{busybox, exec_shell, finish, parent, run, spec, start, stop};

pub(crate) const TESTS: &[super::Test] = &[
    ("root_limits_stand_in_the_files", limits),
    ("root_too_many_processes_are_refused", pids),
    ("root_a_memory_limit_kills_and_is_counted", memory),
    ("root_freeze_and_thaw", freeze),
    ("root_cgroups_come_and_go_in_every_hierarchy", life),
    ("root_a_container_sees_its_own_cgroup_read_only", view),
];

fn file(controller: &str, v1: &str, v2: &str, path: &str) -> Option<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    let directory = base.join(controller).join(path.trim_start_matches('/'));
    if directory.is_dir() {
        return Some(directory.join(v1));
    }
    let unified = base.join(path.trim_start_matches('/')).join(v2);
    unified.exists().then_some(unified)
}

fn value(path: Option<PathBuf>) -> String {
    path.map(|path| std::fs::read_to_string(path).unwrap().trim().to_owned())
        .unwrap_or_default()
}

fn limits() {
    let image = busybox();
    let mut asked = spec(&["sleep", "1000"]);
    asked["linux"]["resources"] = json!({"memory": {"limit": 64 << 20, "swap": 64 << 20}, "cpu": {"shares": 512, "quota": 50000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 77}, "hugepageLimits": [{"pageSize": "2MB", "limit": 0}]});
    let running = start(&image, &asked);
    let path = running.init.cgroup().path().as_str().to_owned();
    assert_eq!(
        value(file("memory", "memory.limit_in_bytes", "memory.max", &path)),
        (64 << 20).to_string()
    );
    assert_eq!(value(file("pids", "pids.max", "pids.max", &path)), "77");
    assert_eq!(value(file("cpuset", "cpuset.cpus", "cpuset.cpus", &path)), "0");
    assert!(["512", "50000 100000"].contains(&value(file("cpu", "cpu.shares", "cpu.max", &path)).as_str()));
    // An update grows and shrinks.
    for limit in [128_i64 << 20, 32 << 20] {
        let update = serde_json::from_value(
            json!({"memory": {"limit": limit, "swap": limit}, "cpu": {"quota": 200_000, "period": 50000}}),
        )
        .unwrap();
        running.init.cgroup().apply(&update).unwrap();
        assert_eq!(
            value(file("memory", "memory.limit_in_bytes", "memory.max", &path)),
            limit.to_string()
        );
    }
    let stats = running.init.cgroup().stats().unwrap();
    assert!(
        stats.pids == 1 && stats.pids_limit == Some(77) && stats.memory_limit == Some(32 << 20),
        "{stats:?}"
    );
    assert!(stats.memory_usage > 0 && stats.cpu_nanos > 0, "{stats:?}");
    let wrong = serde_json::from_value(json!({"cpu": {"cpus": "999"}})).unwrap();
    let error = running.init.cgroup().apply(&wrong).unwrap_err().to_string();
    assert!(error.contains("cpuset.cpus") && error.contains("999"), "{error}");
    stop(running);
}

fn pids() {
    let image = busybox();
    let mut asked = spec(&[
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8; do sleep 5 & done; echo all",
    ]);
    asked["linux"]["resources"]["pids"] = json!({"limit": 5});
    let (code, text) = run(&image, &asked);
    assert!(code != 0 && text.contains("fork"), "{text}");
}

fn memory() {
    let image = busybox();
    let mut asked = spec(&[
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/null bs=200M count=1; echo $?; sleep 1000",
    ]);
    asked["linux"]["resources"]["memory"] = json!({"limit": 16 << 20, "swap": 16 << 20});
    let running = start(&image, &asked);
    let mut text = [0; 100];
    let mut seen = String::new();
    while !seen.contains("137") {
        let length = rustix::io::read(&running.output, &mut text).unwrap();
        assert!(length > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&text[..length]));
    }
    assert!(running.init.cgroup().oom_kill_count().unwrap() >= 1);
    stop(running);
}

fn freeze() {
    let image = busybox();
    let running = start(
        &image,
        &spec(&["sh", "-c", "while true; do echo .; sleep 0.01; done"]),
    );
    let cgroup = running.init.cgroup();
    cgroup.freeze().unwrap();
    assert_eq!(cgroup.processes().unwrap().len().min(1), 1);
    cgroup.thaw().unwrap();
    let mut byte = [0; 1];
    rustix::io::read(&running.output, &mut byte).unwrap();
    cgroup.freeze().unwrap();
    // A frozen one dies, too.
    stop(running);
}

fn life() {
    let path: CgroupPath = format!("{}/a/b", parent()).parse().unwrap();
    assert_eq!(
        Cgroup::open(&path).unwrap_err().kind(),
        coracle_types::Kind::FailedPrecondition
    );
    let cgroup = Cgroup::create(&path).unwrap();
    Cgroup::create(&path).unwrap();
    Cgroup::open(&path).unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    cgroup.kill().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert_eq!(cgroup.oom_kill_count().unwrap(), 0);
    let above: CgroupPath = parent().parse().unwrap();
    Cgroup::open(&above).unwrap().remove().unwrap();
    assert!(Cgroup::open(&above).is_err());
}

fn view() {
    let image = busybox();
    let running = start(&image, &spec(&["sleep", "1000"]));
    let (_, text) = exec_shell(
        &running,
        "cat /proc/self/cgroup; cat /sys/fs/cgroup/*/cgroup.procs | head -1; mkdir /sys/fs/cgroup/x /sys/fs/cgroup/pids/x",
    );
    assert!(
        text.lines()
            .filter(|line| line.contains("::") || line.contains(":pids:"))
            .all(|line| line.ends_with(":/")),
        "{text}"
    );
    assert!(text.contains("\n1\n"), "{text}");
    assert!(text.contains("Read-only file system"), "{text}");
    stop(running);
    let (code, _) = finish(start(&image, &spec(&["true"])));
    assert_eq!(code, 0);
}
