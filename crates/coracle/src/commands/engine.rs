//! An engine of our own, for `coracle run` without a daemon: it and all it made end with the command.

use std::path::PathBuf;

use anyhow::Context;
use coracle_proto::client::Client;

use crate::config::{Loaded, Sources};
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
        // Of the node's configuration it takes registries and networks, but nobody's names.
        let sources = Sources::of_node()
            .with("instance", &name)
            .with("root", &format!("/var/lib/{name}"))
            .with("state", &format!("/run/{name}"))
            .with("socket", &format!("/run/{name}/coracle.sock"))
            .with("cgroup.driver", "cgroupfs")
            .with("cgroup.default_parent", &format!("/{name}/pods"))
            .with("cgroup.runtime", &format!("/{name}.slice"))
            .with("metrics.address", "");
        let config = Loaded::read(&sources)?.config;
        let directories = [config.root.clone(), config.state.clone()];
        let daemon = Daemon::start(&config, None).await?;
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
