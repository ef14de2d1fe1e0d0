//! What a name without a registry means to a person on this node: the aliases and search list of its
//! registries.conf. CRI and manifests know neither; there such a name is Docker Hub's.

use coracle_image::ShortNames;

use crate::config::{Loaded, Sources};
use crate::terminal::{Status, Trouble};

/// The names to try, in this order.
///
/// # Errors
/// When a registries.conf cannot be used, or the node does not want short names to be guessed.
pub(crate) fn candidates(typed: &str) -> anyhow::Result<Vec<String>> {
    // Whoever may use the daemon's socket need not be able to read its configuration.
    let files = Loaded::read(&Sources::of_node()).map_or_else(
        |_| vec!["/etc/containers/registries.conf".into()],
        |loaded| loaded.config.registries_conf,
    );
    let names = ShortNames::read(&files)?;
    names.candidates(typed).map_err(|ambiguous| {
        Trouble::new(ambiguous.to_string())
            .next("give the whole name, with its registry")
            .status(Status::Ambiguous)
            .into()
    })
}
