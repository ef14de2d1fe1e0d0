//! The Container Network Interface: configurations, results, and plugins' programs.

pub(crate) mod arguments;
pub(crate) mod chain;
pub(crate) mod configuration;
pub(crate) mod directory;
pub(crate) mod exec;
pub(crate) mod record;
pub(crate) mod result;
pub(crate) mod version;
