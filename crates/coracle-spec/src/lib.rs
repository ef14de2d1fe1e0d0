//! From a CRI configuration and an image to an OCI runtime specification.
//!
//! Owns the policy of a container's shape: arguments, environment, user, capabilities, namespaces,
//! mounts, devices, limits, seccomp and LSM labels; and the checks that refuse a request before
//! anything is made of it. [`container_spec`] is the whole of it; [`validate_pod`] and
//! [`validate_container`] come first and need no image.
//!
//! Must never start a process, mount, talk to a network or keep state. What it reads: the passwd and
//! group files of an image (through `openat2`, [`resolve_user`]), seccomp profiles of the node,
//! device nodes, and what the kernel offers ([`Host::probe`]). What it writes: only directories of
//! host paths that a volume asks for and that are not there ([`ensure_mount_sources`]).
//!
//! Layout on disk: none of its own.

mod annotations;
mod apparmor;
mod capabilities;
mod container_spec;
mod devices;
mod environment;
mod error;
mod host;
mod image_sub_path;
mod image_volumes;
mod input;
mod labels;
mod mount_sources;
mod mounts;
mod namespaces;
mod pod_files;
mod process;
mod regular_file;
mod resources;
mod seccomp;
mod sysctls;
mod text;
mod users;
mod validate_container;
mod validate_pod;

pub use annotations::{RAW_ENVIRONMENT, raw_environment};
pub use apparmor::{APPARMOR_PROFILE, apparmor_profile};
pub use container_spec::container_spec;
pub use error::SpecError;
pub use host::{AppArmor, CgroupVersion, Host, Selinux};
pub use image_sub_path::check_image_sub_path;
pub use input::{ContainerInput, DeviceOwnership, HandlerDefaults, ImageSettings, Paths};
pub use labels::selinux_label;
pub use mount_sources::ensure_mount_sources;
pub use pod_files::{hostname_file, hosts_file, resolv_conf};
pub use process::{exec_process, validate_exec};
pub use resources::{linux_resources, validate_resources};
pub use seccomp::default_seccomp;
pub use sysctls::pod_sysctls;
pub use users::{ResolvedUser, resolve_user};
pub use validate_container::{stop_signal, validate_container};
pub use validate_pod::validate_pod;

#[cfg(test)]
mod tests;
