//! Debian's docker-registry, on loopback with storage of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::client::RegistryClient;
use crate::image::Image;
use crate::node::{Node, Service};
use crate::wait;

/// bcrypt of [`super::PASSWORD`]; docker-registry accepts no other scheme.
const HTPASSWD: &str = "coracle:$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";

/// Who may use the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody.
    Open,
    /// Only [`super::USER`] with [`super::PASSWORD`], by basic auth. Pushing happens before the login
    /// is asked for: the registry is started twice on the same storage.
    Login,
}

/// A running docker-registry; ended when dropped.
#[derive(Debug)]
pub struct Distribution {
    node: Node,
    storage: PathBuf,
    _directory: TempDir,
    address: SocketAddr,
    service: Option<Service>,
}

impl Distribution {
    /// Starts one inside `node`, on a free port of the node's loopback.
    ///
    /// # Errors
    /// When Debian's package docker-registry is not installed or the registry does not come up.
    pub async fn start(node: &Node) -> Result<Self> {
        let directory = TempDir::new_in(node.directory())?;
        // Free in the node at this moment, and nobody but this node's owner opens ports there.
        let listener: TcpListener = node.listen(0)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.local_addr()?.port()));
        drop(listener);
        let storage = directory.path().join("storage");
        let mut registry = Self {
            node: node.clone(),
            storage,
            _directory: directory,
            address,
            service: None,
        };
        registry.restart(Access::Open).await?;
        Ok(registry)
    }

    /// Ends it and starts it again on the same storage and port, with or without login.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn restart(&mut self, access: Access) -> Result<()> {
        self.service = None;
        let directory = self._directory.path();
        std::fs::write(directory.join("htpasswd"), HTPASSWD)?;
        let mut config = format!(
            "version: 0.1\nlog:\n  level: warn\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {}\n",
            self.storage.display(),
            self.address
        );
        if access == Access::Login {
            let htpasswd = directory.join("htpasswd");
            config += &format!(
                "auth:\n  htpasswd:\n    realm: coracle\n    path: {}\n",
                htpasswd.display()
            );
        }
        let file = directory.join("config.yml");
        std::fs::write(&file, config)?;
        let mut command = self.node.command("docker-registry");
        command.arg("serve").arg(&file);
        // Its traces would be sent to nobody.
        command.env("OTEL_TRACES_EXPORTER", "none");
        let (node, address) = (self.node.clone(), self.address);
        let service = tokio::task::block_in_place(|| {
            Service::start(&node, "registry", command, || node.connect(address).is_ok())
        })
        .context("is Debian's package docker-registry installed? `make setup` installs it")?;
        self.service = Some(service);
        let client = self.client();
        wait::until_async("the registry to answer", Duration::from_secs(10), || async {
            Ok(client.is_up().await.then_some(()))
        })
        .await
    }

    /// `127.0.0.1:PORT`, as the node reaches it.
    #[must_use]
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Speaks to it from this process.
    #[must_use]
    pub fn client(&self) -> RegistryClient {
        RegistryClient::new(self.address, Some(self.node.clone()))
    }

    /// Pushes an image; gives the reference to pull it by.
    ///
    /// # Errors
    /// When the registry refuses.
    pub async fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<String> {
        self.client().push(image, repository, tag).await?;
        Ok(format!("{}/{repository}:{tag}", self.authority()))
    }
}
