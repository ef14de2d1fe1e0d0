//! Conversions with numbers chosen and numbers drawn.

use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Files as they are, by name.
#[derive(Default)]
struct Standing(HashMap<&'static str, &'static str>);

impl Present for Standing {
    fn read(&self, file: &str) -> Option<String> {
        self.0.get(file).map(|text| (*text).to_owned())
    }

    fn has(&self, file: &str) -> bool {
        self.0.contains_key(file)
    }
}

fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).unwrap()
}

fn converted_over(
    value: Value,
    standing: &[(&'static str, &'static str)],
) -> Result<Vec<(String, String)>, String> {
    let standing = Standing(standing.iter().copied().collect());
    settings(&resources(value), &|_| true, &standing)
        .map(|all| all.into_iter().map(|one| (one.file, one.value)).collect())
        .map_err(|error| error.to_string())
}

fn converted(value: Value) -> Vec<(String, String)> {
    converted_over(value, &[]).unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn what_the_kubelet_sends_becomes_version_2s_files() {
    let sent = json!({
        "memory": {"limit": 1000, "swap": 1000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1", "mems": ""},
        "pids": {"limit": 77},
        "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
        "unified": {"memory.oom.group": "1"}
    });
    let expected = [
        ("memory.swap.max", "0"),
        ("memory.max", "1000"),
        ("memory.low", "500"),
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0-1"),
        ("pids.max", "77"),
        ("hugetlb.2MB.max", "0"),
        ("hugetlb.2MB.rsvd.max", "0"),
        ("memory.oom.group", "1"),
    ];
    assert_eq!(converted(sent), pairs(&expected));
}

#[test]
fn a_part_of_a_file_keeps_the_rest_of_it() {
    let over = |value| converted_over(value, &[("cpu.max", "50000 100000\n"), ("memory.max", "1000\n")]);
    assert_eq!(
        over(json!({"cpu": {"period": 20000}})).unwrap(),
        pairs(&[("cpu.max", "50000 20000")])
    );
    assert_eq!(
        over(json!({"cpu": {"quota": -1}})).unwrap(),
        pairs(&[("cpu.max", "max")])
    );
    assert_eq!(
        over(json!({"memory": {"swap": 1500}})).unwrap(),
        pairs(&[("memory.swap.max", "500")])
    );
    let error = converted_over(json!({"memory": {"swap": 1500}}), &[("memory.max", "max")]).unwrap_err();
    assert!(
        error.contains("linux.resources.memory.swap") && error.contains("1500"),
        "{error}"
    );
}

#[test]
fn a_burst_never_stands_in_the_way_of_a_quota() {
    assert_eq!(
        converted(json!({"cpu": {"quota": 1000, "burst": 500}})),
        pairs(&[
            ("cpu.max.burst", "0"),
            ("cpu.max", "1000"),
            ("cpu.max.burst", "500")
        ])
    );
}

#[test]
fn idle_has_no_weight() {
    assert_eq!(
        converted(json!({"cpu": {"idle": 1, "shares": 512}})),
        pairs(&[("cpu.idle", "1")])
    );
}

#[test]
fn block_devices_are_weighed_and_throttled() {
    let block = json!({"blockIO": {"weight": 1000, "weightDevice": [{"major": 8, "minor": 0, "weight": 10}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1048576}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}});
    let throttles = [("io.max", "8:0 rbps=1048576"), ("io.max", "8:16 wiops=max")];
    assert_eq!(
        converted(block.clone()),
        pairs(&[&[("io.weight", "10000"), ("io.weight", "8:0 1")], &throttles[..]].concat())
    );
    assert_eq!(
        converted_over(block, &[("io.bfq.weight", "default 100")]).unwrap(),
        pairs(
            &[
                &[("io.bfq.weight", "1000"), ("io.bfq.weight", "8:0 10")],
                &throttles[..]
            ]
            .concat()
        )
    );
}

#[test]
fn unified_wins_over_what_was_converted() {
    assert_eq!(
        converted(
            json!({"memory": {"limit": 1000}, "unified": {"memory.max": "2000", "memory.high": "1500"}})
        ),
        pairs(&[("memory.high", "1500"), ("memory.max", "2000")])
    );
}

#[test]
fn unified_names_a_controllers_file_in_the_very_cgroup() {
    for bad in [
        "",
        ".",
        "memory",
        "memory.",
        ".max",
        "../memory.max",
        "child/memory.max",
        "memory..max",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.kill",
        "memory.max\n",
        "memory max.x",
    ] {
        let error = converted_over(json!({"unified": {bad: "1"}}), &[]).unwrap_err();
        assert!(error.contains("linux.resources.unified"), "{bad:?}: {error}");
    }
    assert!(converted_over(json!({"unified": {"memory.max": "1\0"}}), &[]).is_err());
}

#[test]
fn what_version_2_has_no_word_for_is_refused_by_name() {
    for (asked, field) in [
        (json!({"memory": {"swappiness": 60}}), "swappiness"),
        (json!({"memory": {"disableOOMKiller": true}}), "disableOOMKiller"),
        (json!({"cpu": {"realtimeRuntime": 1000}}), "realtimeRuntime"),
        (json!({"memory": {"limit": 1000, "swap": 999}}), "memory.swap"),
    ] {
        let error = converted_over(asked, &[]).unwrap_err();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn without_controllers_only_unified_is_left_to_fail() {
    let asked = resources(
        json!({"memory": {"limit": 1000}, "cpu": {"shares": 2, "cpus": "0"}, "pids": {"limit": 1}}),
    );
    assert_eq!(settings(&asked, &|_| false, &Standing::default()).unwrap(), []);
}

proptest! {
    #[test]
    fn any_numbers_give_well_formed_lines(
        limit: i64, swap: i64, reservation: i64, shares: u64, quota: i64, period: u64, pids: i64, pages: i64,
    ) {
        let asked = json!({"memory": {"limit": limit, "swap": swap, "reservation": reservation},
            "cpu": {"shares": shares, "quota": quota, "period": period}, "pids": {"limit": pids},
            "hugepageLimits": [{"pageSize": "2MB", "limit": pages}]});
        let Ok(all) = converted_over(asked, &[]) else {
            // Refused: a sum below its part, or a sum without the part.
            prop_assert!(swap > 0 && (limit <= 0 || swap < limit));
            return Ok(());
        };
        for (file, value) in &all {
            prop_assert!(check_unified(file, value).is_ok(), "{} {}", file, value);
            for word in value.split(' ') {
                prop_assert!(word == "max" || word.parse::<i128>().is_ok(), "{} {}", file, value);
            }
        }
        let files: Vec<&str> = all.iter().map(|(file, _)| file.as_str()).collect();
        prop_assert_eq!(files.contains(&"memory.max"), limit != 0);
        prop_assert_eq!(files.contains(&"cpu.weight"), shares != 0);
        prop_assert_eq!(files.contains(&"pids.max"), pids != 0);
    }

    #[test]
    fn no_key_of_unified_leaves_the_cgroup(key in "[a-z./_]{0,20}", value in "[ -~]{0,10}") {
        if converted_over(json!({"unified": {key.as_str(): value}}), &[]).is_ok() {
            prop_assert!(!key.contains('/') && !key.contains("..") && !key.starts_with("cgroup."));
        }
    }
}
