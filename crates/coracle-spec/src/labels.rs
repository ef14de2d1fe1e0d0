//! Labels of security modules: the AppArmor profile and the SELinux context of a container.

use coracle_types::PodSandboxId;
use coracle_types::security::{SecurityProfile, SelinuxOptions};

use crate::error::SpecError;
use crate::host::{AppArmor, Selinux};
use crate::input::ContainerInput;
use crate::text;

const LOADED_PROFILES: &str = "/sys/kernel/security/apparmor/profiles";

/// What the process and its mounts are labelled with.
#[derive(Debug, Default)]
pub(crate) struct ProcessLabels {
    pub(crate) apparmor: Option<String>,
    pub(crate) selinux: Option<String>,
    pub(crate) mount: Option<String>,
}

/// Labels of the container, checked against what the node has.
pub(crate) fn labels(input: &ContainerInput<'_>) -> Result<ProcessLabels, SpecError> {
    let mut labels = ProcessLabels {
        apparmor: apparmor(input)?,
        ..Default::default()
    };
    if input.host.selinux == Selinux::Enabled {
        let own = input.container.security.selinux.as_ref();
        let options = own.filter(|own| **own != SelinuxOptions::default());
        let options = options
            .or(input.pod.security.selinux.as_ref())
            .cloned()
            .unwrap_or_default();
        labels.mount = Some(selinux_label(
            &SelinuxOptions {
                type_: "container_file_t".to_owned(),
                role: "object_r".to_owned(),
                ..options.clone()
            },
            input.pod_id,
        ));
        // A privileged container runs unconfined, in the daemon's own context.
        if !input.container.security.privileged {
            labels.selinux = Some(selinux_label(&options, input.pod_id));
        }
    }
    Ok(labels)
}

/// `user:role:type:level`; empty parts take the container policy's defaults. Without a level two
/// categories are derived from the pod's id, so that a pod's containers share files and pods rarely
/// meet: 523,776 pairs, a collision leaves two pods separated by everything but SELinux.
#[must_use]
pub fn selinux_label(options: &SelinuxOptions, pod: &PodSandboxId) -> String {
    let part = |given: &str, default: &str| {
        if given.is_empty() {
            default.to_owned()
        } else {
            given.to_owned()
        }
    };
    let level = if options.level.is_empty() {
        let bits = |range| u32::from_str_radix(&pod.as_str()[range], 16).unwrap_or(0) % 1024;
        let (one, other) = (bits(0..8), bits(8..16));
        let other = if one == other { (one + 1) % 1024 } else { other };
        format!("s0:c{},c{}", one.min(other), one.max(other))
    } else {
        options.level.clone()
    };
    format!(
        "{}:{}:{}:{level}",
        part(&options.user, "system_u"),
        part(&options.role, "system_r"),
        part(&options.type_, "container_t")
    )
}

/// `None` and `RuntimeDefault` mean the handler's profile where AppArmor is on, and nothing where it
/// is not. A profile of the node that cannot be applied is an error: the pod relies on it.
fn apparmor(input: &ContainerInput<'_>) -> Result<Option<String>, SpecError> {
    const FIELD: &str = "linux.security_context.apparmor";
    match &input.container.security.apparmor {
        Some(SecurityProfile::Unconfined) => Ok(None),
        Some(SecurityProfile::Localhost(reference)) => {
            let name = reference.strip_prefix("localhost/").unwrap_or(reference);
            if input.host.apparmor == AppArmor::Absent {
                return Err(SpecError::unsupported(
                    FIELD,
                    name,
                    "AppArmor is not enabled on this node; schedule the pod elsewhere or leave the profile out",
                ));
            }
            if name != "unconfined" && !is_loaded(name) {
                return Err(SpecError::unsupported(
                    FIELD,
                    name,
                    "load the profile with apparmor_parser first",
                ));
            }
            Ok(Some(name.to_owned()))
        }
        None | Some(SecurityProfile::RuntimeDefault) => Ok(match input.host.apparmor {
            AppArmor::Enabled if !input.container.security.privileged => {
                input.defaults.apparmor_profile.clone()
            }
            _ => None,
        }),
    }
}

/// Lines are `name (mode)`. A list that cannot be read settles nothing: the kernel decides at exec.
fn is_loaded(name: &str) -> bool {
    std::fs::read_to_string(LOADED_PROFILES).map_or(true, |list| {
        list.lines()
            .any(|line| line.rsplit_once(" (").map_or(line, |(loaded, _)| loaded) == name)
    })
}

/// Parts of a context hold no separators of their own.
pub(crate) fn validate_selinux(field: &str, options: Option<&SelinuxOptions>) -> Result<(), SpecError> {
    let Some(options) = options else { return Ok(()) };
    for (name, part) in [
        ("user", &options.user),
        ("role", &options.role),
        ("type", &options.type_),
        ("level", &options.level),
    ] {
        let allowed = |b: u8| {
            b.is_ascii_alphanumeric() || b"_.-".contains(&b) || (name == "level" && b":,".contains(&b))
        };
        if part.len() > 255 || !part.bytes().all(allowed) {
            return Err(SpecError::field(
                format!("{field}.{name}"),
                part,
                "use letters, digits, '_', '.', '-' (and ':' and ',' in a level)",
            ));
        }
    }
    Ok(())
}

/// Names of profiles of the node, for seccomp a path, for AppArmor a name.
pub(crate) fn validate_profile(field: &str, profile: Option<&SecurityProfile>) -> Result<(), SpecError> {
    match profile {
        Some(SecurityProfile::Localhost(reference)) => text::required(
            field,
            reference.strip_prefix("localhost/").unwrap_or(reference),
            text::PATH_MAX,
        ),
        _ => Ok(()),
    }
}
