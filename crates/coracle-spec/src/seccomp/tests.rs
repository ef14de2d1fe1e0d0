//! The default profile and profiles of the node.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::LinuxSyscall;

use super::*;
use crate::SpecError;

fn machine(architecture: &'static str, capabilities: &[&str]) -> Target {
    Target {
        capabilities: capabilities.iter().map(|name| (*name).to_owned()).collect(),
        architecture,
        kernel: (6, 18),
    }
}

fn rules<'a>(profile: &'a LinuxSeccomp, name: &str) -> Vec<&'a LinuxSyscall> {
    let named = |rule: &&LinuxSyscall| rule.names().iter().any(|known| known == name);
    profile.syscalls().iter().flatten().filter(named).collect()
}

fn allows(profile: &LinuxSeccomp, name: &str) -> bool {
    rules(profile, name)
        .iter()
        .any(|rule| rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().is_none())
}

/// What the profile says, so that a change of the table is seen for what it is.
#[test]
fn the_table_has_as_many_calls_as_it_was_compared_with() {
    let always: Vec<_> = table::ALWAYS
        .iter()
        .flat_map(|group| group.split_whitespace())
        .collect();
    let distinct: BTreeSet<_> = always.iter().collect();
    assert_eq!(
        (always.len(), distinct.len()),
        (361, 361),
        "no call is listed twice"
    );
    let amd64 = default_for(&machine("amd64", &[]), Arch::ScmpArchX86_64);
    let names: BTreeSet<_> = amd64
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.names().iter().cloned())
        .collect();
    assert_eq!(
        names.len(),
        370,
        "with ptrace and its kin, socket, personality, clone, clone3 and two of x86"
    );
    assert_eq!(amd64.syscalls().as_ref().map(Vec::len), Some(19));
}

#[test]
fn what_leads_out_of_a_container_needs_its_capability() {
    let plain = default_for(&machine("amd64", &[]), Arch::ScmpArchX86_64);
    for (call, capability) in [
        ("mount", "CAP_SYS_ADMIN"),
        ("unshare", "CAP_SYS_ADMIN"),
        ("setns", "CAP_SYS_ADMIN"),
        ("bpf", "CAP_BPF"),
        ("perf_event_open", "CAP_PERFMON"),
        ("open_by_handle_at", "CAP_DAC_READ_SEARCH"),
        ("init_module", "CAP_SYS_MODULE"),
        ("reboot", "CAP_SYS_BOOT"),
        ("chroot", "CAP_SYS_CHROOT"),
        ("kcmp", "CAP_SYS_PTRACE"),
        ("settimeofday", "CAP_SYS_TIME"),
        ("syslog", "CAP_SYSLOG"),
    ] {
        assert!(!allows(&plain, call), "{call}");
        let able = default_for(&machine("amd64", &[capability]), Arch::ScmpArchX86_64);
        assert!(allows(&able, call), "{call} with {capability}");
    }
    for call in [
        "io_uring_setup",
        "io_uring_enter",
        "keyctl",
        "add_key",
        "kexec_load",
        "userfaultfd",
        "swapon",
    ] {
        let all: Vec<_> = crate::capabilities::from_mask(u64::MAX).into_iter().collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        assert!(
            rules(&default_for(&machine("amd64", &all), Arch::ScmpArchX86_64), call).is_empty(),
            "{call}"
        );
    }
}

#[test]
fn new_namespaces_are_refused_and_clone3_is_said_not_to_exist() {
    let plain = default_for(&machine("amd64", &[]), Arch::ScmpArchX86_64);
    let clone = rules(&plain, "clone");
    let arg = clone[0].args().as_ref().expect("has a condition")[0];
    assert_eq!(
        (arg.index(), arg.value(), arg.value_two()),
        (0, 0x7e02_0000, Some(0))
    );
    let clone3 = rules(&plain, "clone3");
    assert_eq!((clone3.len(), clone3[0].errno_ret()), (1, Some(38)));
    let s390x = default_for(&machine("s390x", &[]), Arch::ScmpArchS390x);
    assert_eq!(
        rules(&s390x, "clone")[0]
            .args()
            .as_ref()
            .expect("has a condition")[0]
            .index(),
        1
    );
    let admin = default_for(&machine("amd64", &["CAP_SYS_ADMIN"]), Arch::ScmpArchX86_64);
    assert!(allows(&admin, "clone") && allows(&admin, "clone3"));
    assert_eq!(rules(&admin, "clone3").len(), 1);
}

/// As the kernel sees a family: the lower 32 bits of the register.
#[test]
fn kernel_crypto_and_vsock_sockets_are_refused_whatever_the_upper_bits() {
    let plain = default_for(&machine("amd64", &[]), Arch::ScmpArchX86_64);
    let passes = |family: u64| {
        rules(&plain, "socket").iter().any(|rule| {
            rule.args()
                .iter()
                .flatten()
                .all(|arg| family & arg.value() == arg.value_two().unwrap_or(0))
        })
    };
    for family in 0..64_u64 {
        let refused = family == 38 || family == 40;
        assert_eq!(passes(family), !refused, "{family}");
        assert_eq!(passes(family | 1 << 32), !refused, "{family} with an upper bit");
    }
    assert!(!passes(64));
}

#[test]
fn architectures_have_their_own_calls_and_sub_architectures() {
    let arm = default_for(&machine("arm64", &[]), Arch::ScmpArchAarch64);
    assert!(allows(&arm, "cacheflush") && !allows(&arm, "arch_prctl"));
    assert_eq!(
        arm.architectures().as_deref(),
        Some(&[Arch::ScmpArchAarch64, Arch::ScmpArchArm][..])
    );
    let amd64 = default_for(&machine("amd64", &[]), Arch::ScmpArchX86_64);
    assert!(allows(&amd64, "arch_prctl") && allows(&amd64, "modify_ldt") && !allows(&amd64, "set_tls"));
    let old = Target {
        kernel: (4, 4),
        ..machine("amd64", &[])
    };
    assert!(!allows(&default_for(&old, Arch::ScmpArchX86_64), "ptrace"));
}

fn parse(json: &str, target: &Target) -> Result<LinuxSeccomp, SpecError> {
    profile::parse(Path::new("/profile.json"), json.as_bytes(), target)
}

#[test]
fn a_profile_of_the_node_is_written_for_its_container() {
    let json = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}],
        "syscalls": [
            {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
             "includes": {}, "excludes": {}},
            {"name": "mount", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["cacheflush"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "excludes": {"caps": ["CAP_CHOWN"]}}
        ]}"#;
    let plain = parse(json, &machine("amd64", &[])).expect("a profile");
    assert_eq!(
        plain.architectures().as_deref(),
        Some(&[Arch::ScmpArchX86_64, Arch::ScmpArchX86][..])
    );
    assert!(allows(&plain, "read") && !allows(&plain, "mount") && !allows(&plain, "ptrace"));
    assert_eq!(rules(&plain, "chmod")[0].errno_ret(), Some(13));
    let able = parse(json, &machine("amd64", &["CAP_SYS_ADMIN", "CAP_CHOWN"])).expect("a profile");
    assert!(allows(&able, "mount") && rules(&able, "chmod").is_empty());
}

#[test]
fn a_profile_that_is_none_is_refused_with_its_path() {
    let target = machine("amd64", &[]);
    for json in [
        "",
        "[]",
        "{}",
        r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "action": "SCMP_ACT_LOG",
            "includes": {"minKernel": "new"}}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["b"], "action": "SCMP_ACT_LOG",
            "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}]}"#,
    ] {
        let error = parse(json, &target).expect_err(json);
        assert!(error.to_string().contains("/profile.json"), "{error}");
    }
}

#[test]
fn only_regular_files_of_sane_size_are_profiles() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let target = machine("amd64", &[]);
    let path = directory.path().join("profile.json");
    let reference = format!("localhost/{}", path.display());
    std::fs::write(&path, r#"{"defaultAction": "SCMP_ACT_LOG"}"#).expect("written");
    let loaded = profile::load(&reference, &target).expect("a profile");
    assert_eq!(loaded.default_action(), LinuxSeccompAction::ScmpActLog);
    std::fs::File::create(&path)
        .and_then(|file| file.set_len(8 << 30))
        .expect("made");
    assert!(profile::load(&reference, &target).is_err());
    for bad in [
        "profile.json",
        "localhost/profile.json",
        "/dev/zero",
        "/etc/../etc/passwd",
        "/no/such/file",
    ] {
        assert!(profile::load(bad, &target).is_err(), "{bad}");
    }
}
