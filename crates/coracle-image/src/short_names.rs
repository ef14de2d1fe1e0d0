//! Names without a registry, as people type them: by the aliases and search list of registries.conf.
//!
//! Never for CRI: there a name without a registry is Docker Hub's, whatever a node's file says.

use std::path::PathBuf;

use crate::registry::hosts::MalformedHosts;
use crate::registry::hosts::conf::Conf;

/// What names without a registry mean on this node.
#[derive(Debug, Default)]
pub struct ShortNames(Conf);

/// A name that may mean several images, on a node where that is not to be guessed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} may be any of {}: give the whole name (short-name-mode is enforcing)", candidates.join(", "))]
pub struct AmbiguousName {
    /// As it was typed.
    pub name: String,
    /// What it may mean, best first.
    pub candidates: Vec<String>,
}

impl ShortNames {
    /// Reads files in the form of containers-registries.conf(5), with their `.d`.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn read(files: &[PathBuf]) -> Result<Self, MalformedHosts> {
        Conf::read(files).map(Self)
    }

    /// The names to try for what was typed, in this order; a name with a registry stands for itself.
    ///
    /// # Errors
    /// When it may mean several and `short-name-mode` is `enforcing`.
    pub fn candidates(&self, name: &str) -> Result<Vec<String>, AmbiguousName> {
        let Some(candidates) = self.0.candidates(name) else {
            return Ok(vec![name.to_owned()]);
        };
        if self.0.enforcing() && candidates.len() > 1 {
            return Err(AmbiguousName {
                name: name.to_owned(),
                candidates,
            });
        }
        Ok(candidates)
    }
}
