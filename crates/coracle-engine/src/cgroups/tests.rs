//! Names of both drivers, and limits in systemd's words.

use std::collections::BTreeMap;

use coracle_types::Kinded as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn config(driver: CgroupDriver) -> EngineConfig {
    let default = match driver {
        CgroupDriver::Systemd => "coracle-pods.slice",
        CgroupDriver::Cgroupfs => "/coracle/pods",
    };
    EngineConfig {
        instance: "coracle".parse().unwrap(),
        root: "/var/lib/coracle".into(),
        state: "/run/coracle".into(),
        cgroup_driver: driver,
        default_cgroup_parent: default.into(),
        runtime_cgroup: "/coracle.slice".into(),
        handlers: BTreeMap::new(),
        pids_limit: None,
        apparmor_profile: None,
        exec_limit: 0,
        host_resolv_conf: "/etc/resolv.conf".into(),
    }
}

fn of(value: Value) -> Vec<Property> {
    properties(&serde_json::from_value(value).unwrap())
}

#[test]
fn cgroups_lie_where_containerd_puts_them() {
    let kubelet = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice";
    let systemd = config(CgroupDriver::Systemd);
    for given in [kubelet, "kubepods-burstable-podX.slice"] {
        let parent = parent_path(&systemd, given);
        assert_eq!(parent, kubelet);
        assert_eq!(
            path_below(&systemd, &parent, "ab"),
            format!("{kubelet}/cri-containerd-ab.scope")
        );
    }
    assert_eq!(parent_path(&systemd, ""), "/coracle.slice/coracle-pods.slice");
    let cgroupfs = config(CgroupDriver::Cgroupfs);
    assert_eq!(
        path_below(&cgroupfs, &parent_path(&cgroupfs, "/kubepods/podX/"), "ab"),
        "/kubepods/podX/ab"
    );
    assert_eq!(parent_path(&cgroupfs, ""), "/coracle/pods");
}

#[test]
fn a_path_is_told_to_be_a_scope_with_its_slice() {
    let (slice, scope) = scope_at("/a.slice/a-b.slice/cri-containerd-1.scope").unwrap();
    assert_eq!(
        (slice.as_str(), scope.as_str()),
        ("a-b.slice", "cri-containerd-1.scope")
    );
    assert!(scope_at("/kubepods/podX/ab").is_none());
    assert_eq!((id_in("cri-containerd-ab.scope"), id_in("ab")), ("ab", "ab"));
}

#[test]
fn a_parent_of_the_other_driver_is_refused_with_field_value_and_remedy() {
    for (driver, right, wrong) in [
        (CgroupDriver::Systemd, "kubepods-podX.slice", "/kubepods/podX"),
        (
            CgroupDriver::Cgroupfs,
            "/kubepods/podX",
            "/kubepods.slice/kubepods-podX.slice",
        ),
    ] {
        let config = config(driver);
        check_parent(&config, right).unwrap();
        check_parent(&config, "").unwrap();
        let error = check_parent(&config, wrong).unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        let text = error.to_string();
        for word in ["linux.cgroup_parent", wrong, "cgroupDriver", "cgroup.driver"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
}

#[test]
fn limits_become_properties() {
    let all = of(json!({"memory": {"limit": 1000, "swap": 1500, "reservation": 10},
        "cpu": {"shares": 1024, "quota": 50000, "period": 100_000, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": -1}}));
    let expected = [
        Property::MemoryMax(1000),
        Property::MemorySwapMax(500),
        Property::MemoryLow(10),
        Property::CpuWeight(100),
        Property::CpuQuotaPeriod(100_000),
        Property::CpuQuotaPerSecond(500_000),
        Property::AllowedCpus(vec![0, 1]),
        Property::AllowedMemoryNodes(vec![0]),
        Property::TasksMax(UNLIMITED),
    ];
    assert_eq!(all, expected);
}

#[test]
fn unified_wins_in_systemds_words_too() {
    let all = of(json!({"memory": {"limit": 1000}, "cpu": {"quota": 1000},
        "unified": {"memory.max": "2000", "cpu.max": "max 50000", "memory.oom.group": "1"}}));
    assert!(
        all.contains(&Property::MemoryMax(2000)) && !all.contains(&Property::MemoryMax(1000)),
        "{all:?}"
    );
    assert!(all.contains(&Property::CpuQuotaPerSecond(UNLIMITED)), "{all:?}");
    assert!(all.contains(&Property::CpuQuotaPeriod(50_000)), "{all:?}");
    assert_eq!(all.len(), 3);
}

proptest! {
    #[test]
    fn systemd_never_gives_less_than_was_asked_nor_a_percent_more(quota in 1_000_i64..10_000_000, period in 1_000_u64..=1_000_000) {
        let all = of(json!({"cpu": {"quota": quota, "period": period}}));
        let Some(Property::CpuQuotaPerSecond(micros)) = all.last() else { panic!("{all:?}") };
        let asked = u128::from(quota.unsigned_abs()) * 1_000_000 / u128::from(period);
        prop_assert!(u128::from(*micros) >= asked && u128::from(*micros) <= asked + 10_000);
        prop_assert_eq!(micros % 10_000, 0);
    }

    #[test]
    fn no_numbers_make_two_properties_of_one_kind(limit: i64, swap: i64, shares: u64, quota: i64, period: u64, high in 1_u64..) {
        let all = of(json!({"memory": {"limit": limit, "swap": swap}, "cpu": {"shares": shares, "quota": quota, "period": period},
            "unified": {"memory.high": high.to_string(), "memory.max": "max"}}));
        for (at, property) in all.iter().enumerate() {
            prop_assert!(all[..at].iter().all(|known| discriminant(known) != discriminant(property)), "{:?}", all);
        }
    }
}
