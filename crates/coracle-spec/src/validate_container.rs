//! Checks of a container's configuration before anything is made of it.

use coracle_types::container::ContainerConfig;
use coracle_types::signal::Signal;

use crate::error::SpecError;
use crate::input::ImageSettings;
use crate::namespaces::{self, Owner};
use crate::{capabilities, devices, environment, labels, mounts, process, resources, text, users};

/// Mounts, devices or paths of one container; what the kernel does with so many is slow enough.
const LIST_MAX: usize = 4096;

/// Refuses a container that could not be made, or whose fields would mean something else in a file,
/// a path or a kernel interface.
///
/// # Errors
/// [`SpecError::Field`] with the first field that is wrong.
pub fn validate_container(container: &ContainerConfig) -> Result<(), SpecError> {
    text::component("metadata.name", &container.metadata.name, 253)?;
    text::required("image.image", &container.image.image, 4096)?;
    text::plain(
        "image.user_specified_image",
        &container.image.user_specified_image,
        4096,
    )?;
    process::validate(container)?;
    environment::validate(container)?;
    validate_sizes(container)?;
    for (index, mount) in container.mounts.iter().enumerate() {
        mounts::validate(index, mount)?;
    }
    for (index, device) in container.devices.iter().enumerate() {
        devices::validate(index, device)?;
    }
    for name in &container.cdi_devices {
        validate_cdi_name(name)?;
    }
    text::string_map("labels", &container.labels)?;
    text::string_map("annotations", &container.annotations)?;
    if !container.log_path.is_empty() {
        text::relative("log_path", &container.log_path)?;
        if container.log_path.split('/').any(|part| part.len() > 255) {
            return Err(SpecError::field(
                "log_path",
                &container.log_path,
                "give shorter names: 255 bytes a part at most",
            ));
        }
        if container.log_path.ends_with('/') || container.log_path.split('/').next_back() == Some(".") {
            return Err(SpecError::field(
                "log_path",
                &container.log_path,
                "name a file, not a directory",
            ));
        }
    }
    resources::validate_resources(&container.resources)?;
    validate_security(container)
}

fn validate_sizes(container: &ContainerConfig) -> Result<(), SpecError> {
    let security = &container.security;
    for (field, count) in [
        ("mounts", container.mounts.len()),
        ("devices", container.devices.len()),
        ("CDI_devices", container.cdi_devices.len()),
        ("linux.security_context.masked_paths", security.masked_paths.len()),
        (
            "linux.security_context.readonly_paths",
            security.readonly_paths.len(),
        ),
    ] {
        if count > LIST_MAX {
            let remedy = format!("give at most {LIST_MAX}");
            return Err(SpecError::field(field, format!("{count} entries"), remedy));
        }
    }
    let words = container
        .command
        .iter()
        .chain(&container.args)
        .map(|word| word.len() + 1);
    let entries = container
        .envs
        .iter()
        .map(|(name, value)| name.len() + value.len() + 2);
    let total: usize = words.chain(entries).sum();
    if total > text::COMMAND_LINE_MAX {
        return Err(SpecError::field(
            "command, args and envs",
            format!("{total} bytes"),
            format!(
                "give at most {} bytes in all: the kernel starts nothing with more",
                text::COMMAND_LINE_MAX
            ),
        ));
    }
    Ok(())
}

/// `vendor/class=device` (CDI specification, "Qualified device name").
fn validate_cdi_name(name: &str) -> Result<(), SpecError> {
    let word = |text: &str, also: &[u8]| {
        let letters = |b: u8| b.is_ascii_alphanumeric() || also.contains(&b);
        (1..=253).contains(&text.len()) && text.bytes().all(letters)
    };
    let well_formed = name.split_once('=').is_some_and(|(kind, device)| {
        word(device, b"_-.:")
            && kind
                .split_once('/')
                .is_some_and(|(vendor, class)| word(vendor, b"_-.") && word(class, b"_-"))
    });
    if well_formed {
        return Ok(());
    }
    Err(SpecError::field(
        "CDI_devices.name",
        name,
        "give vendor.com/class=device",
    ))
}

fn validate_security(container: &ContainerConfig) -> Result<(), SpecError> {
    const PREFIX: &str = "linux.security_context";
    let security = &container.security;
    users::validate(security)?;
    capabilities::validate(&security.capabilities)?;
    namespaces::validate(&security.namespaces, Owner::Container)?;
    for path in &security.masked_paths {
        text::absolute(&format!("{PREFIX}.masked_paths"), path)?;
    }
    for path in &security.readonly_paths {
        text::absolute(&format!("{PREFIX}.readonly_paths"), path)?;
    }
    labels::validate_selinux(&format!("{PREFIX}.selinux_options"), security.selinux.as_ref())?;
    labels::validate_profile(
        &format!("{PREFIX}.seccomp.localhost_ref"),
        security.seccomp.as_ref(),
    )?;
    labels::validate_profile(
        &format!("{PREFIX}.apparmor.localhost_ref"),
        security.apparmor.as_ref(),
    )
}

/// The signal that stops the container: the request's, else the image's, else TERM.
///
/// # Errors
/// [`SpecError::Field`] when the image names a signal that does not exist.
pub fn stop_signal(container: &ContainerConfig, image: &ImageSettings) -> Result<Signal, SpecError> {
    match container.stop_signal {
        Some(signal) => Ok(signal),
        None if image.stop_signal.is_empty() => Ok(Signal::TERM),
        None => image.stop_signal.parse().map_err(|_| {
            SpecError::field(
                "StopSignal of the image",
                &image.stop_signal,
                "give stop_signal in the request, or use an image that names a signal such as SIGTERM",
            )
        }),
    }
}
