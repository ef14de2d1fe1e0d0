//! The process of a container, and further processes run beside it.

use std::path::PathBuf;

use coracle_types::container::ContainerConfig;
use oci_spec::runtime::{Process, ProcessBuilder, Spec, User, UserBuilder};

use crate::capabilities;
use crate::environment::Environment;
use crate::error::SpecError;
use crate::input::{ContainerInput, ImageSettings};
use crate::labels::ProcessLabels;
use crate::text;

/// What a shell and most programs expect; said so that no runtime leaves its own.
const UMASK: u32 = 0o022;

/// The first process of the container.
pub(crate) fn container_process(
    input: &ContainerInput<'_>,
    environment: &Environment,
    labels: &ProcessLabels,
) -> Result<Process, SpecError> {
    let security = &input.container.security;
    let mut process = ProcessBuilder::default()
        .terminal(input.container.tty)
        .user(user(input))
        .args(arguments(input.container, input.image)?)
        .env(environment.entries())
        .cwd(working_directory(input.container, input.image)?)
        .capabilities(capabilities::linux_capabilities(
            security,
            input.defaults,
            input.host,
        )?)
        .no_new_privileges(security.no_new_privs)
        .oom_score_adj(oom_score_adj(input))
        .build()
        .expect("every field of the builder has a default");
    process.set_rlimits(Some(input.defaults.rlimits.clone()).filter(|limits| !limits.is_empty()));
    process.set_apparmor_profile(labels.apparmor.clone());
    process.set_selinux_label(labels.selinux.clone());
    Ok(process)
}

fn user(input: &ContainerInput<'_>) -> User {
    UserBuilder::default()
        .uid(input.user.uid)
        .gid(input.user.gid)
        .umask(UMASK)
        .additional_gids(input.user.additional_gids.clone())
        .build()
        .expect("every field of the builder has a default")
}

/// `command` replaces the entrypoint and, with it, the image's command; `args` alone replace the
/// image's command only. An entrypoint of one empty string is none, as `ENTRYPOINT [""]` resets it.
fn arguments(container: &ContainerConfig, image: &ImageSettings) -> Result<Vec<String>, SpecError> {
    let mut line = Vec::new();
    if container.command.is_empty() {
        if image.entrypoint.as_slice() != [""] {
            line.extend_from_slice(&image.entrypoint);
        }
        let arguments = if container.args.is_empty() {
            &image.cmd
        } else {
            &container.args
        };
        line.extend_from_slice(arguments);
        line.iter()
            .try_for_each(|text| text::argument("Entrypoint or Cmd of the image", text))?;
    } else {
        line.extend_from_slice(&container.command);
        line.extend_from_slice(&container.args);
    }
    if line.is_empty() {
        return Err(SpecError::NoCommand);
    }
    Ok(line)
}

/// The request's, else the image's, else `/`. A relative one of an image starts at the root, as
/// builders mean it; the request's was checked to be absolute.
fn working_directory(container: &ContainerConfig, image: &ImageSettings) -> Result<PathBuf, SpecError> {
    if !container.working_dir.is_empty() {
        return Ok(PathBuf::from(&container.working_dir));
    }
    text::plain("WorkingDir of the image", &image.working_dir, text::PATH_MAX)?;
    Ok(PathBuf::from(text::cleaned(&image.working_dir)))
}

/// Without `CAP_SYS_RESOURCE` nobody can go below the daemon's own value; the kernel would refuse.
fn oom_score_adj(input: &ContainerInput<'_>) -> i32 {
    let asked = input.container.resources.oom_score_adj.clamp(-1000, 1000);
    i32::try_from(asked).map_or(0, |asked| asked.max(input.host.lowest_oom_score_adj))
}

/// A further process in the container of `spec`: it inherits user and groups, environment, working
/// directory, all capability sets, limits, labels and `no_new_privs` of the first one (and with
/// the specification its seccomp filter); with a terminal `TERM` is set if it is not.
///
/// A specification without a process gives one of root with no capabilities.
#[must_use]
pub fn exec_process(spec: &Spec, command: &[String], terminal: bool) -> Process {
    let mut process = spec.process().clone().unwrap_or_else(powerless);
    process.set_args(Some(command.to_vec()));
    process.set_command_line(None);
    process.set_terminal(Some(terminal));
    process.set_console_size(None);
    if terminal {
        let mut environment = process.env().clone().unwrap_or_default();
        if !environment.iter().any(|entry| entry.starts_with("TERM=")) {
            environment.push("TERM=xterm".to_owned());
        }
        process.set_env(Some(environment));
    }
    process
}

fn powerless() -> Process {
    let mut process = Process::default();
    process
        .set_capabilities(None)
        .set_rlimits(None)
        .set_cwd(PathBuf::from("/"));
    process
}

/// Command, arguments and working directory of the request.
/// Refuses the command of an exec that no process could have.
///
/// # Errors
/// [`SpecError::Field`] for `cmd`.
pub fn validate_exec(command: &[String]) -> Result<(), SpecError> {
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::field("cmd", "", "name the program to run"));
    }
    command.iter().try_for_each(|word| text::argument("cmd", word))?;
    let total: usize = command.iter().map(|word| word.len() + 1).sum();
    if total > text::COMMAND_LINE_MAX {
        return Err(SpecError::field(
            "cmd",
            format!("{total} bytes"),
            format!(
                "give at most {} bytes in all: the kernel starts nothing with more",
                text::COMMAND_LINE_MAX
            ),
        ));
    }
    Ok(())
}

pub(crate) fn validate(container: &ContainerConfig) -> Result<(), SpecError> {
    container
        .command
        .iter()
        .try_for_each(|text| text::argument("command", text))?;
    container
        .args
        .iter()
        .try_for_each(|text| text::argument("args", text))?;
    if container.command.first().is_some_and(String::is_empty) {
        return Err(SpecError::field("command", "", "name the program to run"));
    }
    if !container.working_dir.is_empty() {
        text::absolute("working_dir", &container.working_dir)?;
    }
    Ok(())
}
