//! Security contexts, namespaces and profiles.

use coracle_proto::cri;
use coracle_types::security::{
    Capabilities, ContainerSecurityContext, IdMapping, NamespaceMode, NamespaceOptions, PodSecurityContext,
    SecurityProfile, SelinuxOptions, SupplementalGroupsPolicy, UserNamespace,
};

use super::{FieldError, known};

pub(crate) fn pod(wire: cri::LinuxSandboxSecurityContext) -> Result<PodSecurityContext, FieldError> {
    Ok(PodSecurityContext {
        namespaces: namespaces(wire.namespace_options).map_err(|e| e.within("namespace_options"))?,
        selinux: wire.selinux_options.map(selinux),
        run_as_user: wire.run_as_user.map(|id| id.value),
        run_as_group: wire.run_as_group.map(|id| id.value),
        readonly_rootfs: wire.readonly_rootfs,
        supplemental_groups: wire.supplemental_groups,
        supplemental_groups_policy: groups_policy(wire.supplemental_groups_policy)?,
        privileged: wire.privileged,
        seccomp: profile("seccomp", wire.seccomp, &wire.seccomp_profile_path)?,
        apparmor: profile("apparmor", wire.apparmor, "")?,
    })
}

pub(crate) fn container(
    wire: cri::LinuxContainerSecurityContext,
) -> Result<ContainerSecurityContext, FieldError> {
    let capabilities = wire.capabilities.unwrap_or_default();
    Ok(ContainerSecurityContext {
        capabilities: Capabilities {
            add: capabilities.add_capabilities,
            drop: capabilities.drop_capabilities,
            add_ambient: capabilities.add_ambient_capabilities,
        },
        privileged: wire.privileged,
        namespaces: namespaces(wire.namespace_options).map_err(|e| e.within("namespace_options"))?,
        selinux: wire.selinux_options.map(selinux),
        run_as_user: wire.run_as_user.map(|id| id.value),
        run_as_group: wire.run_as_group.map(|id| id.value),
        run_as_username: wire.run_as_username,
        readonly_rootfs: wire.readonly_rootfs,
        supplemental_groups: wire.supplemental_groups,
        supplemental_groups_policy: groups_policy(wire.supplemental_groups_policy)?,
        no_new_privs: wire.no_new_privs,
        masked_paths: wire.masked_paths,
        readonly_paths: wire.readonly_paths,
        seccomp: profile("seccomp", wire.seccomp, &wire.seccomp_profile_path)?,
        apparmor: profile("apparmor", wire.apparmor, &wire.apparmor_profile)?,
    })
}

fn groups_policy(number: i32) -> Result<SupplementalGroupsPolicy, FieldError> {
    Ok(match known("supplemental_groups_policy", number)? {
        cri::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
    })
}

fn selinux(wire: cri::SeLinuxOption) -> SelinuxOptions {
    SelinuxOptions {
        user: wire.user,
        role: wire.role,
        type_: wire.r#type,
        level: wire.level,
    }
}

/// A profile, or the text that clients before Kubernetes 1.20 (seccomp) and 1.30 (AppArmor) send.
fn profile(
    field: &str,
    wire: Option<cri::SecurityProfile>,
    old: &str,
) -> Result<Option<SecurityProfile>, FieldError> {
    use cri::security_profile::ProfileType;
    let Some(profile) = wire else {
        return old_profile(field, old);
    };
    let kind = known(&format!("{field}.profile_type"), profile.profile_type)?;
    Ok(Some(match kind {
        ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
        ProfileType::Unconfined => SecurityProfile::Unconfined,
        ProfileType::Localhost => {
            if profile.localhost_ref.is_empty() {
                return Err(FieldError::missing(&format!("{field}.localhost_ref")));
            }
            SecurityProfile::Localhost(profile.localhost_ref)
        }
    }))
}

fn old_profile(field: &str, text: &str) -> Result<Option<SecurityProfile>, FieldError> {
    match text {
        "" => Ok(None),
        "runtime/default" | "docker/default" => Ok(Some(SecurityProfile::RuntimeDefault)),
        "unconfined" => Ok(Some(SecurityProfile::Unconfined)),
        _ => match text.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Some(SecurityProfile::Localhost(name.to_owned()))),
            _ => Err(FieldError::new(
                &format!("{field}_profile"),
                text,
                "runtime/default, unconfined or localhost/NAME",
            )),
        },
    }
}

fn namespaces(wire: Option<cri::NamespaceOption>) -> Result<NamespaceOptions, FieldError> {
    let Some(wire) = wire else {
        return Ok(NamespaceOptions::default());
    };
    Ok(NamespaceOptions {
        network: mode("network", wire.network)?,
        pid: mode("pid", wire.pid)?,
        ipc: mode("ipc", wire.ipc)?,
        target_id: wire.target_id,
        user: wire
            .userns_options
            .map(|user| {
                Ok(UserNamespace {
                    mode: mode("userns_options.mode", user.mode)?,
                    uids: mappings(user.uids),
                    gids: mappings(user.gids),
                })
            })
            .transpose()?,
    })
}

fn mode(field: &str, number: i32) -> Result<NamespaceMode, FieldError> {
    Ok(match known(field, number)? {
        cri::NamespaceMode::Pod => NamespaceMode::Pod,
        cri::NamespaceMode::Container => NamespaceMode::Container,
        cri::NamespaceMode::Node => NamespaceMode::Node,
        cri::NamespaceMode::Target => NamespaceMode::Target,
    })
}

pub(crate) fn namespaces_to_wire(own: NamespaceOptions) -> cri::NamespaceOption {
    cri::NamespaceOption {
        network: mode_to_wire(own.network),
        pid: mode_to_wire(own.pid),
        ipc: mode_to_wire(own.ipc),
        target_id: own.target_id,
        userns_options: own.user.map(|user| cri::UserNamespace {
            mode: mode_to_wire(user.mode),
            uids: mappings_to_wire(user.uids),
            gids: mappings_to_wire(user.gids),
        }),
    }
}

fn mode_to_wire(own: NamespaceMode) -> i32 {
    let wire = match own {
        NamespaceMode::Pod => cri::NamespaceMode::Pod,
        NamespaceMode::Container => cri::NamespaceMode::Container,
        NamespaceMode::Node => cri::NamespaceMode::Node,
        NamespaceMode::Target => cri::NamespaceMode::Target,
    };
    wire.into()
}

pub(crate) fn mappings(wire: Vec<cri::IdMapping>) -> Vec<IdMapping> {
    wire.into_iter()
        .map(|map| IdMapping {
            host_id: map.host_id,
            container_id: map.container_id,
            length: map.length,
        })
        .collect()
}

pub(crate) fn mappings_to_wire(own: Vec<IdMapping>) -> Vec<cri::IdMapping> {
    own.into_iter()
        .map(|map| cri::IdMapping {
            host_id: map.host_id,
            container_id: map.container_id,
            length: map.length,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_seccomp_profile_is_none_and_old_texts_are_understood() {
        let read = |text: &str| old_profile("seccomp", text);
        assert_eq!(profile("seccomp", None, ""), Ok(None));
        assert_eq!(read("runtime/default"), Ok(Some(SecurityProfile::RuntimeDefault)));
        assert_eq!(
            read("localhost/a.json"),
            Ok(Some(SecurityProfile::Localhost("a.json".into())))
        );
        for bad in ["localhost/", "localhost", "default", "Unconfined"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_new_field_wins_over_the_old() {
        let new = cri::SecurityProfile {
            profile_type: 1,
            localhost_ref: String::new(),
        };
        assert_eq!(
            profile("apparmor", Some(new), "localhost/x"),
            Ok(Some(SecurityProfile::Unconfined))
        );
    }

    #[test]
    fn unknown_numbers_are_refused_by_the_fields_name() {
        let context = cri::LinuxSandboxSecurityContext {
            namespace_options: Some(cri::NamespaceOption {
                pid: 9,
                ..Default::default()
            }),
            ..Default::default()
        };
        let text = pod(context).unwrap_err().to_string();
        assert!(text.starts_with("namespace_options.pid: 9 "), "{text}");
        let context = cri::LinuxContainerSecurityContext {
            seccomp: Some(cri::SecurityProfile {
                profile_type: -3,
                localhost_ref: String::new(),
            }),
            ..Default::default()
        };
        let text = container(context).unwrap_err().to_string();
        assert!(text.starts_with("seccomp.profile_type: -3 "), "{text}");
    }
}
