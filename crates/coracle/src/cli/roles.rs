//! What the roles take that the program starts by itself.

use clap::Args;

/// Arguments that a role reads by itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct PassedOn {
    /// As they stand
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) args: Vec<std::ffi::OsString>,
}

/// The demo's page.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoPageArgs {
    /// Port to listen on
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}
