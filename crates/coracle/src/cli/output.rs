//! How results are printed: the options that every command has.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use clap::builder::TypedValueParser as _;
use clap::{Args, ValueEnum};

/// Where the daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/run/coracle/coracle.sock";

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Socket of the daemon, or of any other CRI runtime
    #[arg(long, global = true, env = "CORACLE_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH",
        value_parser = clap::builder::OsStringValueParser::new().map(socket))]
    pub(crate) socket: PathBuf,
    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, value_name = "FORM")]
    pub(crate) output: Output,
    /// For screen readers and logs: no colour, no drawing, nothing redrawn, every value with its name
    #[arg(long, global = true, env = "CORACLE_PLAIN", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) plain: bool,
}

/// A socket by its path, or as clients of the CRI write it: `unix:///run/coracle/coracle.sock`.
fn socket(given: OsString) -> PathBuf {
    match given.as_bytes().strip_prefix(b"unix://") {
        Some(path) => OsStr::from_bytes(path).into(),
        None => given.into(),
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people; as many columns as fit
    Table,
    /// For people; every column
    Wide,
    /// For programs
    Json,
    /// For programs and people
    Yaml,
    /// Only names, as other commands take them
    Name,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_a_path_with_or_without_its_scheme() {
        for given in ["/run/c.sock", "unix:///run/c.sock"] {
            assert_eq!(socket(given.into()), PathBuf::from("/run/c.sock"));
        }
    }
}
