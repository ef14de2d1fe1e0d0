//! The images that critest asks for by name, built from Debian's packages.
//!
//! critest holds their names as constants, so they are served from a registry that mirrors the places
//! they claim to come from. One cannot be rebuilt: `test-image-digest`, which is named by digest.

use std::path::Path;

use anyhow::Result;

use super::debian::{builder, busybox_root, find};
use super::{Compression, Image, ImageBuilder, Layer, digest};
use crate::registry::RegistryClient;

/// The registries that critest's images claim to come from.
pub const HOSTS: [&str; 4] = ["registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws"];

/// A setuid program that prints its effective user, built by this crate's build script.
const NO_NEW_PRIVS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/effective_uid"));

const E2E: &str = "e2e-test-images";
const STAGING: &str = "k8s-staging-cri-tools";

/// An image with the name and tag that critest pulls it by.
#[derive(Debug, Clone)]
pub struct NamedImage {
    /// Its repository, without the registry's host.
    pub repository: String,
    /// Its tag.
    pub tag: &'static str,
    /// What is served.
    pub image: Image,
}

/// Builds all of them; takes a second or two.
///
/// # Errors
/// When a Debian package is missing; it is named.
pub fn all() -> Result<Vec<NamedImage>> {
    let tools = tools_root()?.build();
    // Compressed once, as it is the lowest layer of most.
    let (diff_id, tools) = (digest(&tools), Compression::Gzip.blob(tools));
    let tools = |name: &str| {
        let mark = Layer::new().file("/image", 0o644, name);
        ImageBuilder::new()
            .raw_layer(tools.clone(), diff_id.as_str())
            .layer(mark.build(), Compression::Gzip)
            .env("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .cmd(&["/bin/sh"])
    };
    let mut images = Vec::new();
    let mut add = |place: &str, name: &str, tag: &'static str, image: Image| {
        let repository = if place.is_empty() {
            name.to_owned()
        } else {
            format!("{place}/{name}")
        };
        images.push(NamedImage {
            repository,
            tag,
            image,
        });
    };
    add(E2E, "busybox", "1.29-2", tools("busybox").build());
    add(E2E, "nginx", "1.14-2", nginx(80)?);
    add(E2E, "httpd", "2.4.39-4", httpd()?);
    add(E2E, "nonewprivs", "1.3", no_new_privs()?);
    add(
        STAGING,
        &format!("hostnet-nginx-{}", go_architecture()),
        "latest",
        nginx(12003)?,
    );
    for name in [
        "test-image-1",
        "test-image-2",
        "test-image-3",
        "test-image-latest",
    ] {
        add(STAGING, name, "latest", tools(name).build());
    }
    for tag in ["test", "all"] {
        add(
            STAGING,
            "test-image-tag",
            tag,
            tools(&format!("test-image-tag:{tag}")).build(),
        );
    }
    for tag in ["1", "2", "3"] {
        add(STAGING, "test-image-tags", tag, tools("test-image-tags").build());
    }
    for (name, user) in [
        ("test-image-user-uid", "1002"),
        ("test-image-user-username", "www-data"),
        ("test-image-user-uid-group", "1003:1004"),
        ("test-image-user-username-group", "www-data:1004"),
        ("test-image-predefined-group", "1000"),
    ] {
        add(STAGING, name, "latest", tools(name).user(user).build());
    }
    for tag in ["3.9", "3.10"] {
        // 3.10 is what containerd wants for its own first container of a pod; no `sleep` may be in it,
        // for a spec looks for one in the pod's processes.
        let wait = [
            "/bin/sh",
            "-c",
            "trap 'exit 0' TERM INT; tail -f /dev/null & wait",
        ];
        add(
            "",
            "pause",
            tag,
            tools(&format!("pause:{tag}")).cmd(&wait).build(),
        );
    }
    Ok(images)
}

/// Builds all and pushes them.
///
/// # Errors
/// When a package is missing or the registry refuses.
pub async fn push_all(registry: &RegistryClient) -> Result<()> {
    let images = tokio::task::spawn_blocking(all).await??;
    for named in images {
        registry.push(&named.image, &named.repository, named.tag).await?;
    }
    Ok(())
}

/// As Go calls this machine; part of an image's name.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// busybox and what it lacks: critest runs `pgrep` and `ipcs`.
fn tools_root() -> Result<Layer> {
    busybox_root()?
        .host_program(&find("pgrep", "procps")?, "/usr/bin/pgrep")?
        .host_program(&find("ipcs", "util-linux")?, "/usr/bin/ipcs")?
        .host_program(&find("ipcmk", "util-linux")?, "/usr/bin/ipcmk")
}

/// nginx as the upstream image is: master process as PID 1, pid file where tests look for it.
///
/// # Errors
/// When Debian's package nginx-light or busybox is not installed.
pub fn nginx(port: u16) -> Result<Image> {
    let config = format!(
        "user www-data;\nworker_processes 1;\npid /var/run/nginx.pid;\nerror_log /dev/stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log /dev/stdout;\n  server {{\n    listen {port};\n    root /usr/share/nginx/html;\n  }}\n}}\n"
    );
    let layer = busybox_root()?
        .host_program(&find("nginx", "nginx-light")?, "/usr/sbin/nginx")?
        .directory("/var/lib/nginx", 0o755)
        .directory("/var/log/nginx", 0o755)
        .file("/etc/nginx/nginx.conf", 0o644, config)
        .file(
            "/usr/share/nginx/html/index.html",
            0o644,
            "<h1>Welcome to nginx!</h1>\n",
        );
    Ok(builder(layer)
        .cmd(&["nginx", "-g", "daemon off;"])
        .setting("StopSignal", "SIGTERM")
        .build())
}

/// Apache under the upstream image's program name, which shows in its log.
fn httpd() -> Result<Image> {
    const CONFIG: &str = "ServerRoot /usr/local/apache2\nServerName localhost\nListen 80\n\
        LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
        LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
        LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n\
        PidFile /var/run/httpd.pid\nErrorLog /proc/self/fd/2\nLogLevel notice\nUser daemon\nGroup daemon\n\
        DocumentRoot /usr/local/apache2/htdocs\nDirectoryIndex index.html\n";
    let mut layer = busybox_root()?.host_program(&find("apache2", "apache2-bin")?, "/usr/local/bin/httpd")?;
    for module in ["mpm_event", "authz_core", "dir"] {
        let path = format!("/usr/lib/apache2/modules/mod_{module}.so");
        layer = layer.host_program(Path::new(&path), &path)?;
    }
    let layer = layer
        .file("/usr/local/apache2/conf/httpd.conf", 0o644, CONFIG)
        .file(
            "/usr/local/apache2/htdocs/index.html",
            0o644,
            "<html><body><h1>It works!</h1></body></html>\n",
        );
    let command = [
        "httpd",
        "-D",
        "FOREGROUND",
        "-f",
        "/usr/local/apache2/conf/httpd.conf",
    ];
    Ok(builder(layer).cmd(&command).build())
}

fn no_new_privs() -> Result<Image> {
    let layer = busybox_root()?.file("/bin/effective-uid", 0o4755, NO_NEW_PRIVS);
    Ok(builder(layer).cmd(&["/bin/effective-uid"]).build())
}
