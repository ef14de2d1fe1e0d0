//! The environment of a container's process: whose entry wins, in which order, and bytes that are no UTF-8.

use coracle_types::container::ContainerConfig;

use crate::error::SpecError;
use crate::input::{ContainerInput, ImageSettings};
use crate::text;
use crate::users::ResolvedUser;

/// What Docker and containerd search when neither image nor request says.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `NAME` and value in bytes, in the order in which names first appeared.
#[derive(Debug, Default)]
pub(crate) struct Environment(Vec<(String, Vec<u8>)>);

impl Environment {
    /// Replaces a name where it stands, or appends it.
    fn set(&mut self, name: &str, value: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value.to_vec(),
            None => self.0.push((name.to_owned(), value.to_vec())),
        }
    }

    /// An image's entry; one without `=` takes the name away, as containerd reads it.
    fn set_entry(&mut self, entry: &str) {
        match entry.split_once('=') {
            Some((name, value)) => self.set(name, value.as_bytes()),
            None => self.0.retain(|(known, _)| known != entry),
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
    }

    /// `NAME=value` each. JSON holds only UTF-8: other bytes become U+FFFD here and are kept in
    /// [`Self::raw`].
    pub(crate) fn entries(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect()
    }

    /// The entries whose values are not UTF-8.
    pub(crate) fn raw(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .filter(|(_, value)| std::str::from_utf8(value).is_err())
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }
}

/// Default PATH, TERM with a terminal, HOSTNAME, then the image's entries, then the request's; HOME
/// from the image's passwd when nobody set it, because an OCI runtime is not told where home is.
pub(crate) fn environment(input: &ContainerInput<'_>) -> Result<Environment, SpecError> {
    let mut environment = Environment::default();
    environment.set("PATH", DEFAULT_PATH.as_bytes());
    if input.container.tty {
        environment.set("TERM", b"xterm");
    }
    let hostname = if input.pod.hostname.is_empty() {
        &input.host.hostname
    } else {
        &input.pod.hostname
    };
    environment.set("HOSTNAME", hostname.as_bytes());
    validate_image(input.image)?;
    for entry in &input.image.env {
        environment.set_entry(entry);
    }
    for (name, value) in &input.container.envs {
        environment.set(name, value);
    }
    if environment.get("HOME").is_none_or(<[u8]>::is_empty) {
        environment.set("HOME", home(input.user).as_bytes());
    }
    Ok(environment)
}

fn home(user: &ResolvedUser) -> &str {
    if user.home.is_empty() { "/" } else { &user.home }
}

fn validate_image(image: &ImageSettings) -> Result<(), SpecError> {
    for entry in &image.env {
        let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
        validate_entry("Env of the image", name, value.as_bytes())?;
    }
    Ok(())
}

/// Names and values of the request's environment.
pub(crate) fn validate(container: &ContainerConfig) -> Result<(), SpecError> {
    container
        .envs
        .iter()
        .try_for_each(|(name, value)| validate_entry("envs", name, value))
}

/// Values may hold newlines (certificates do), but HOME ends up in files and shells line by line.
fn validate_entry(field: &str, name: &str, value: &[u8]) -> Result<(), SpecError> {
    text::required(&format!("{field} name"), name, text::ARGUMENT_MAX)?;
    if name.contains('=') {
        return Err(SpecError::field(
            format!("{field} name"),
            name,
            "remove the '=' from the name",
        ));
    }
    let shown = String::from_utf8_lossy(&value[..value.len().min(320)]);
    let field = format!("{field}[{name}]");
    if name == "HOME" || name == "HOSTNAME" {
        text::plain(&field, &String::from_utf8_lossy(value), text::PATH_MAX)?;
    }
    if value.contains(&0) {
        return Err(SpecError::field(
            field,
            shown,
            "remove the NUL byte: the kernel would cut the value there",
        ));
    }
    if name.len() + 1 + value.len() > text::ARGUMENT_MAX {
        let remedy = format!(
            "give at most {} bytes: the kernel refuses longer entries",
            text::ARGUMENT_MAX
        );
        return Err(SpecError::field(field, shown, remedy));
    }
    Ok(())
}
