//! Containers' translation: every field, hostile numbers, and what survives a round trip.

use std::collections::{BTreeMap, BTreeSet};

use coracle_image::{ImageSettings, Platform};
use coracle_types::resources::{HugepageLimit, LinuxResources};
use coracle_types::security::{IdMapping, NamespaceMode, NamespaceOptions, SecurityProfile, UserNamespace};
use coracle_types::time::UnixNanos;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn minimal() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: "c".into(),
            attempt: 2,
        }),
        image: Some(cri::ImageSpec {
            image: "i".into(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn what_a_container_cannot_do_without_is_asked_for_by_name() {
    let text = |config| super::config(config).unwrap_err().to_string();
    assert_eq!(
        text(cri::ContainerConfig {
            metadata: None,
            ..minimal()
        }),
        "metadata: is missing"
    );
    assert_eq!(
        text(cri::ContainerConfig {
            image: None,
            ..minimal()
        }),
        "image: is missing"
    );
}

#[test]
fn every_field_of_a_configuration_arrives() {
    let wire = cri::ContainerConfig {
        command: vec!["sh".into()],
        args: vec!["-c".into(), "true".into()],
        working_dir: "/w".into(),
        envs: vec![cri::KeyValue {
            key: "K".into(),
            value: vec![0xff, 0x00],
        }],
        mounts: vec![cri::Mount {
            container_path: "/m".into(),
            propagation: 2,
            ..Default::default()
        }],
        devices: vec![cri::Device {
            permissions: "rwm".into(),
            ..Default::default()
        }],
        labels: BTreeMap::from([("l".into(), "1".into())]),
        annotations: BTreeMap::from([("a".into(), "1".into())]),
        log_path: "c/0.log".into(),
        stdin: true,
        tty: true,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpu_shares: 512,
                ..Default::default()
            }),
            security_context: Some(cri::LinuxContainerSecurityContext {
                privileged: true,
                run_as_user: Some(cri::Int64Value { value: 0 }),
                supplemental_groups_policy: 1,
                no_new_privs: true,
                apparmor_profile: "localhost/mine".into(),
                seccomp: Some(cri::SecurityProfile {
                    profile_type: 0,
                    localhost_ref: String::new(),
                }),
                ..Default::default()
            }),
        }),
        cdi_devices: vec![cri::CdiDevice {
            name: "v.com/gpu=0".into(),
        }],
        stop_signal: cri::Signal::Sigquit as i32,
        ..minimal()
    };
    let own = super::config(wire).unwrap();
    assert_eq!((own.metadata.name.as_str(), own.metadata.attempt), ("c", 2));
    assert_eq!(
        (own.command.len(), own.args.len(), own.working_dir.as_str()),
        (1, 2, "/w")
    );
    assert_eq!(own.envs, [("K".to_owned(), vec![0xff, 0x00])]);
    assert_eq!(own.mounts[0].propagation, MountPropagation::Bidirectional);
    assert_eq!(own.devices[0].permissions, "rwm");
    assert_eq!(own.cdi_devices, ["v.com/gpu=0"]);
    assert_eq!((own.stdin, own.stdin_once, own.tty), (true, false, true));
    assert_eq!(own.resources.cpu_shares, 512);
    assert!(own.security.privileged && own.security.no_new_privs && !own.security.readonly_rootfs);
    assert_eq!(
        (own.security.run_as_user, own.security.run_as_group),
        (Some(0), None)
    );
    assert_eq!(own.security.seccomp, Some(SecurityProfile::RuntimeDefault));
    assert_eq!(
        own.security.apparmor,
        Some(SecurityProfile::Localhost("mine".into()))
    );
    assert_eq!(
        own.stop_signal.map(coracle_types::signal::Signal::number),
        Some(3)
    );
    assert_eq!(own.log_path, "c/0.log");
    assert_eq!((own.labels.len(), own.annotations.len()), (1, 1));
}

#[test]
fn an_empty_image_in_a_mount_is_none() {
    let wire = cri::Mount {
        image: Some(cri::ImageSpec::default()),
        ..Default::default()
    };
    assert_eq!(mount(wire).unwrap().image, None);
}

fn image(id: &Digest) -> Image {
    Image {
        id: id.clone(),
        repo_tags: BTreeSet::from(["r.example/a:1".to_owned()]),
        repo_digests: BTreeSet::from([format!("r.example/a@{id}")]),
        size: 1,
        download_size: 1,
        layers: Vec::new(),
        settings: ImageSettings::default(),
        platform: Platform::host(),
        created: String::new(),
        documents: Default::default(),
        pulled_at: UnixNanos(0),
        origins: Default::default(),
        artifact: None,
        pinned: false,
    }
}

#[test]
fn people_see_an_images_name_and_programs_its_id() {
    let id = Digest::from_sha256(&[7; 32]);
    let known = image(&id);
    let by_id = ImageSpec {
        image: id.to_string(),
        ..Default::default()
    };
    assert_eq!(named(by_id.clone(), &id, Some(&known)).image, "r.example/a:1");
    assert_eq!(named(by_id.clone(), &id, None).image, id.to_string());
    assert_eq!(named(ImageSpec::default(), &id, None).image, id.to_string());
    let by_name = ImageSpec {
        image: "a:1".into(),
        ..Default::default()
    };
    assert_eq!(named(by_name, &id, Some(&known)).image, "a:1");
    let resolved = ImageSpec {
        user_specified_image: "a".into(),
        ..by_id
    };
    assert_eq!(named(resolved, &id, Some(&known)).image, "a");
    assert_eq!(image_ref(&id, Some(&known)), format!("r.example/a@{id}"));
    assert_eq!(image_ref(&id, None), id.to_string());
}

fn resources_strategy() -> impl Strategy<Value = LinuxResources> {
    (
        any::<[i64; 6]>(),
        ".{0,8}",
        ".{0,8}",
        vec((".{0,5}", any::<u64>()), 0..3),
        btree_map(".{0,5}", ".{0,5}", 0..3),
    )
        .prop_map(|(n, cpuset_cpus, cpuset_mems, huge, unified)| LinuxResources {
            cpu_period: n[0],
            cpu_quota: n[1],
            cpu_shares: n[2],
            memory_limit_in_bytes: n[3],
            memory_swap_limit_in_bytes: n[4],
            oom_score_adj: n[5],
            cpuset_cpus,
            cpuset_mems,
            hugepage_limits: huge
                .into_iter()
                .map(|(page_size, limit)| HugepageLimit { page_size, limit })
                .collect(),
            unified,
        })
}

fn mapping() -> impl Strategy<Value = IdMapping> {
    any::<(u32, u32, u32)>().prop_map(|(host_id, container_id, length)| IdMapping {
        host_id,
        container_id,
        length,
    })
}

fn mode() -> impl Strategy<Value = NamespaceMode> {
    prop_oneof![
        Just(NamespaceMode::Pod),
        Just(NamespaceMode::Container),
        Just(NamespaceMode::Node),
        Just(NamespaceMode::Target)
    ]
}

fn namespaces_strategy() -> impl Strategy<Value = NamespaceOptions> {
    let user = (mode(), vec(mapping(), 0..3), vec(mapping(), 0..3))
        .prop_map(|(mode, uids, gids)| UserNamespace { mode, uids, gids });
    (mode(), mode(), mode(), ".{0,8}", proptest::option::of(user)).prop_map(
        |(network, pid, ipc, target_id, user)| NamespaceOptions {
            network,
            pid,
            ipc,
            target_id,
            user,
        },
    )
}

fn mount_strategy() -> impl Strategy<Value = Mount> {
    let propagation = prop_oneof![
        Just(MountPropagation::Private),
        Just(MountPropagation::HostToContainer),
        Just(MountPropagation::Bidirectional)
    ];
    let image = proptest::option::of(".{1,8}").prop_map(|image| {
        image.map(|image| ImageSpec {
            image,
            ..Default::default()
        })
    });
    (
        (".{0,8}", ".{0,8}", ".{0,8}"),
        any::<[bool; 3]>(),
        propagation,
        (vec(mapping(), 0..3), vec(mapping(), 0..3)),
        image,
        vec(".{0,5}", 0..3),
    )
        .prop_map(
            |(paths, flags, propagation, mappings, image, mount_options)| Mount {
                container_path: paths.0,
                host_path: paths.1,
                image_sub_path: paths.2,
                readonly: flags[0],
                recursive_read_only: flags[1],
                selinux_relabel: flags[2],
                propagation,
                uid_mappings: mappings.0,
                gid_mappings: mappings.1,
                image,
                mount_options,
            },
        )
}

proptest! {
    #[test]
    fn limits_survive_a_round_trip(own in resources_strategy()) {
        prop_assert_eq!(resources::from_wire(resources::to_wire(own.clone())), own);
    }

    #[test]
    fn mounts_survive_a_round_trip(own in mount_strategy()) {
        prop_assert_eq!(mount(mount_to_wire(own.clone())).unwrap(), own);
    }

    #[test]
    fn namespaces_survive_a_round_trip(own in namespaces_strategy()) {
        let context = cri::LinuxContainerSecurityContext {
            namespace_options: Some(security::namespaces_to_wire(own.clone())),
            ..Default::default()
        };
        prop_assert_eq!(security::container(context).unwrap().namespaces, own);
    }

    /// Whatever numbers stand where enums belong: an answer, no panic, and a refusal names its field.
    #[test]
    fn numbers_that_are_no_enum_values_are_refused_by_name(
        signal in any::<i32>(), propagation in any::<i32>(), pid in any::<i32>(), profile in any::<i32>(),
    ) {
        let wire = cri::ContainerConfig {
            mounts: vec![cri::Mount { propagation, ..Default::default() }],
            stop_signal: signal,
            linux: Some(cri::LinuxContainerConfig {
                security_context: Some(cri::LinuxContainerSecurityContext {
                    namespace_options: Some(cri::NamespaceOption { pid, ..Default::default() }),
                    seccomp: Some(cri::SecurityProfile { profile_type: profile, localhost_ref: "x".into() }),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..minimal()
        };
        let good = (0..=65).contains(&signal) && (0..=2).contains(&propagation)
            && (0..=3).contains(&pid) && (0..=2).contains(&profile);
        match super::config(wire) {
            Ok(_) => prop_assert!(good),
            Err(error) => {
                prop_assert!(!good);
                let text = error.to_string();
                let named = ["stop_signal", "mounts[0].propagation", "linux.security_context.namespace_options.pid",
                    "linux.security_context.seccomp.profile_type"];
                prop_assert!(named.iter().any(|name| text.starts_with(name)), "{}", text);
            }
        }
    }

    /// Bytes that happen to decode as a configuration are translated or refused.
    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        use prost::Message;
        if let Ok(wire) = cri::ContainerConfig::decode(bytes.as_slice()) {
            let _ = super::config(wire);
        }
        if let Ok(wire) = cri::PodSandboxConfig::decode(bytes.as_slice()) {
            let _ = crate::translate::sandbox::config(wire);
        }
    }
}
