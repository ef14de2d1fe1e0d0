//! An engine of our own, for `coracle run` without a daemon: it and all it made end with the command.

use std::path::PathBuf;

use anyhow::Context;
use coracle_proto::client::Client;

use crate::config::Config;
use crate::serve::Daemon;

/// A daemon in this process, on directories of its own.
pub(crate) struct Foreground {
    daemon: Daemon,
    client: Client,
    directories: [PathBuf; 2],
}

impl Foreground {
    /// Starts it under a name that no other daemon has.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let name = format!("coracle-run-{}", std::process::id());
        let mut config = Config::default();
        config.instance = name.parse()?;
        config.root = format!("/var/lib/{name}").into();
        config.state = format!("/run/{name}").into();
        config.socket = config.state.join("coracle.sock");
        config.settle_names();
        let directories = [config.root.clone(), config.state.clone()];
        let daemon = Daemon::start(config).await?;
        let client = Client::connect(daemon.socket()).await?;
        Ok(Self {
            daemon,
            client,
            directories,
        })
    }

    /// The way to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Ends it and removes all that carries its name.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        drop(self.client);
        self.daemon.remove().await?;
        for directory in self.directories {
            std::fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
        }
        Ok(())
    }
}
