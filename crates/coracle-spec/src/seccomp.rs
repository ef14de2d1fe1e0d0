//! Seccomp filters of containers: the default profile, profiles of the node, or none.

mod profile;
mod rules;
mod table;

use oci_spec::runtime::{Arch, Capabilities, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompBuilder};

use coracle_types::security::SecurityProfile;

use crate::capabilities;
use crate::error::SpecError;
use crate::input::ContainerInput;
use rules::Target;

const EPERM: u32 = 1;
#[cfg(target_arch = "x86_64")]
const NATIVE: Arch = Arch::ScmpArchX86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Arch = Arch::ScmpArchAarch64;
#[cfg(target_arch = "riscv64")]
const NATIVE: Arch = Arch::ScmpArchRiscv64;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
const NATIVE: Arch = Arch::ScmpArchNative;

/// Other ABIs that a native kernel runs, too.
fn with_sub_architectures(native: Arch) -> Vec<Arch> {
    match native {
        Arch::ScmpArchX86_64 => vec![native, Arch::ScmpArchX86, Arch::ScmpArchX32],
        Arch::ScmpArchAarch64 => vec![native, Arch::ScmpArchArm],
        Arch::ScmpArchS390x => vec![native, Arch::ScmpArchS390],
        native => vec![native],
    }
}

/// The filter of a container: a privileged one has none, and a request without a profile has the
/// handler's for that case, which is none, too, unless configured (CRI: a nil profile is unconfined).
pub(crate) fn container_seccomp(
    input: &ContainerInput<'_>,
    bounding: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SpecError> {
    let security = &input.container.security;
    if security.privileged {
        return Ok(None);
    }
    let profile = security
        .seccomp
        .as_ref()
        .or(input.defaults.unset_seccomp.as_ref());
    let (asked, reference) = match profile {
        None | Some(SecurityProfile::Unconfined) => return Ok(None),
        Some(SecurityProfile::RuntimeDefault) => ("RuntimeDefault", None),
        Some(SecurityProfile::Localhost(reference)) => (reference.as_str(), Some(reference)),
    };
    if !input.host.seccomp {
        return Err(SpecError::unsupported(
            "linux.security_context.seccomp",
            asked,
            "this kernel has no seccomp; use Unconfined if the pod may run without",
        ));
    }
    match reference {
        None => Ok(Some(default_seccomp(bounding, input.host.kernel))),
        Some(reference) => profile::load(reference, &target(bounding, input.host.kernel)).map(Some),
    }
}

/// The default profile for a container with these capabilities on this machine: what is not allowed
/// is answered with EPERM, and clone3 with ENOSYS so that the C library uses clone.
#[must_use]
pub fn default_seccomp(bounding: &Capabilities, kernel: (u32, u32)) -> LinuxSeccomp {
    default_for(&target(bounding, kernel), NATIVE)
}

fn target(bounding: &Capabilities, kernel: (u32, u32)) -> Target {
    Target {
        capabilities: bounding
            .iter()
            .map(|capability| capabilities::name(*capability))
            .collect(),
        architecture: profile::libseccomp_name(NATIVE),
        kernel,
    }
}

fn default_for(target: &Target, native: Arch) -> LinuxSeccomp {
    let always = table::ALWAYS.iter().flat_map(|group| group.split_whitespace());
    let mut syscalls = vec![rules::syscall(
        always,
        LinuxSeccompAction::ScmpActAllow,
        None,
        None,
    )];
    syscalls.extend(
        table::conditional()
            .iter()
            .filter_map(|rule| rule.for_target(target)),
    );
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActErrno)
        .default_errno_ret(EPERM)
        .architectures(with_sub_architectures(native))
        .syscalls(syscalls)
        .build()
        .expect("action and rules are set")
}

#[cfg(test)]
mod tests;
