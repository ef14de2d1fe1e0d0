//! The daemon's options as keys of the configuration.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use coracle_engine::api::CgroupDriver;

use crate::cli::ServeArgs;

/// Key, option and values of each option that was given.
pub(super) fn settings(args: &ServeArgs) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let one = |given: Option<String>| given.map(|value| vec![value]);
    let dir = |given: &Option<PathBuf>| one(given.as_deref().map(path));
    let dirs = |given: &[PathBuf]| {
        let all: Vec<String> = given.iter().map(|given| path(given)).collect();
        (!all.is_empty()).then_some(all)
    };
    let driver = args.cgroup_driver.map(|driver| match driver {
        CgroupDriver::Cgroupfs => "cgroupfs".to_owned(),
        CgroupDriver::Systemd => "systemd".to_owned(),
    });
    let format = args.log_format.and_then(|format| format.to_possible_value());
    let given = [
        ("instance", "--instance", one(args.instance.clone())),
        ("root", "--root", dir(&args.root)),
        ("state", "--state", dir(&args.state)),
        ("cgroup.driver", "--cgroup-driver", one(driver)),
        ("network.conf_dir", "--cni-conf-dir", dir(&args.cni_conf_dir)),
        ("network.bin_dirs", "--cni-bin-dir", dirs(&args.cni_bin_dir)),
        (
            "registry.config_dirs",
            "--registry-config-dir",
            dirs(&args.registry_config_dir),
        ),
        ("log.level", "--log-level", one(args.log_level.clone())),
        (
            "log.format",
            "--log-format",
            one(format.map(|format| format.get_name().to_owned())),
        ),
    ];
    given
        .into_iter()
        .filter_map(|(key, flag, values)| values.map(|values| (key, flag, values)))
        .collect()
}
