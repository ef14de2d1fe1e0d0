//! Profiles of the node: JSON in Docker's form, of which the runtime specification's is a part.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSeccompFilterFlag,
    LinuxSyscallBuilder,
};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;

use super::rules::Target;
use crate::error::SpecError;
use crate::regular_file;
use crate::text;

/// Largest profile: the default one is 20 KiB.
const PROFILE_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    syscalls: Option<Vec<Syscall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscall {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// Reads the profile at `reference`, an absolute path of the node with or without `localhost/` before
/// it, and writes it for `target`.
pub(super) fn load(reference: &str, target: &Target) -> Result<LinuxSeccomp, SpecError> {
    let path = reference.strip_prefix("localhost/").unwrap_or(reference);
    text::absolute("linux.security_context.seccomp.localhost_ref", path)?;
    let path = Path::new(path);
    let failed = |source: std::io::Error| SpecError::HostPath {
        operation: "reading seccomp profile",
        path: path.to_path_buf(),
        source,
    };
    let found = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| failed(error.into()))?;
    let bytes = regular_file::read(&found, PROFILE_MAX).map_err(failed)?;
    parse(path, &bytes, target)
}

/// The profile in `bytes` as it is for `target`.
pub(super) fn parse(path: &Path, bytes: &[u8], target: &Target) -> Result<LinuxSeccomp, SpecError> {
    let malformed = |source| SpecError::SeccompProfile {
        path: path.to_path_buf(),
        source,
    };
    let wrong = |reason: String| SpecError::SeccompRule {
        path: path.to_path_buf(),
        reason,
    };
    let profile: Profile = serde_json::from_slice(bytes).map_err(malformed)?;
    let explicit = profile.architectures.unwrap_or_default();
    let map = profile.arch_map.unwrap_or_default();
    if !explicit.is_empty() && !map.is_empty() {
        return Err(wrong("use either architectures or archMap".to_owned()));
    }
    let mut architectures = explicit;
    if let Some(entry) = map
        .into_iter()
        .find(|entry| libseccomp_name(entry.architecture) == target.architecture)
    {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.unwrap_or_default());
    }
    let mut rules = Vec::new();
    for mut rule in profile.syscalls.unwrap_or_default() {
        if !rule.name.is_empty() {
            if !rule.names.is_empty() {
                return Err(wrong(format!("use either name or names for {:.40?}", rule.name)));
            }
            rule.names.push(std::mem::take(&mut rule.name));
        }
        if !applies(&rule, target).map_err(wrong)? {
            continue;
        }
        if let Some(arg) = rule.args.iter().flatten().find(|arg| arg.index() > 5) {
            return Err(wrong(format!(
                "a system call has arguments 0 to 5, not {}",
                arg.index()
            )));
        }
        let mut builder = LinuxSyscallBuilder::default()
            .names(rule.names)
            .action(rule.action);
        if let Some(errno) = rule.errno_ret {
            builder = builder.errno_ret(errno);
        }
        if let Some(args) = rule.args.filter(|args| !args.is_empty()) {
            builder = builder.args(args);
        }
        rules.push(builder.build().map_err(|error| wrong(error.to_string()))?);
    }
    let mut seccomp = LinuxSeccompBuilder::default()
        .default_action(profile.default_action)
        .syscalls(rules)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    seccomp.set_default_errno_ret(profile.default_errno_ret);
    seccomp.set_architectures(Some(architectures).filter(|list| !list.is_empty()));
    seccomp.set_flags(profile.flags);
    seccomp.set_listener_path(profile.listener_path);
    seccomp.set_listener_metadata(profile.listener_metadata);
    Ok(seccomp)
}

/// One hit excludes; inclusion needs every capability, one of the architectures and the kernel.
fn applies(rule: &Syscall, target: &Target) -> Result<bool, String> {
    let default = Filter::default();
    let has = |name: &String| target.capabilities.contains(name);
    let excludes = rule.excludes.as_ref().unwrap_or(&default);
    if excludes
        .arches
        .iter()
        .flatten()
        .any(|arch| arch == target.architecture)
        || excludes.caps.iter().flatten().any(has)
        || excludes
            .min_kernel
            .as_deref()
            .map(version)
            .transpose()?
            .is_some_and(|least| target.kernel >= least)
    {
        return Ok(false);
    }
    let includes = rule.includes.as_ref().unwrap_or(&default);
    let arches = includes.arches.as_deref().unwrap_or_default();
    Ok(
        (arches.is_empty() || arches.iter().any(|arch| arch == target.architecture))
            && includes.caps.iter().flatten().all(has)
            && includes
                .min_kernel
                .as_deref()
                .map(version)
                .transpose()?
                .is_none_or(|least| target.kernel >= least),
    )
}

fn version(text: &str) -> Result<(u32, u32), String> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| format!("minKernel {text:.20?} is no version such as 4.8"))
}

/// The names that conditions use.
pub(super) fn libseccomp_name(arch: Arch) -> &'static str {
    match arch {
        Arch::ScmpArchX86_64 => "amd64",
        Arch::ScmpArchX86 => "x86",
        Arch::ScmpArchX32 => "x32",
        Arch::ScmpArchAarch64 => "arm64",
        Arch::ScmpArchArm => "arm",
        Arch::ScmpArchRiscv64 => "riscv64",
        Arch::ScmpArchLoongarch64 => "loongarch64",
        Arch::ScmpArchPpc64le => "ppc64le",
        Arch::ScmpArchS390x => "s390x",
        Arch::ScmpArchS390 => "s390",
        _ => "other",
    }
}
