//! Images made of programs that Debian's packages have put on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Compression, Image, ImageBuilder, Layer};

/// Users that the images know; `nobody` and `www-data` are asked for by name in tests.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    daemon:x:1:1:daemon:/usr/sbin:/sbin/nologin\n\
    www-data:x:33:33:www-data:/var/www:/sbin/nologin\n\
    default-user:x:1000:1000:default:/home:/bin/sh\n\
    nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n";

const GROUP: &str = "root:x:0:\ndaemon:x:1:\nwww-data:x:33:\ndefault-user:x:1000:\nnogroup:x:65534:\n\
    group-defined-in-image:x:50000:default-user\n";

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program of the host lies; `package` is named when it is nowhere.
///
/// # Errors
/// When it is not installed.
pub(super) fn find(program: &str, package: &str) -> Result<PathBuf> {
    ["/bin", "/usr/bin", "/sbin", "/usr/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
        .with_context(|| format!("{program} is not installed (Debian's package {package}; `make setup`)"))
}

/// A root file system with busybox, each applet a hard link in /bin, users and the usual directories.
/// Not busybox-static: its shell prefers its own applets to files, so a masked /bin/ls would still run.
///
/// # Errors
/// When Debian's package busybox is not installed.
pub fn busybox_root() -> Result<Layer> {
    let program = find("busybox", "busybox")?;
    let listed = Command::new(&program)
        .arg("--list")
        .output()
        .context("cannot run busybox")?;
    ensure!(listed.status.success(), "busybox --list: {}", listed.status);
    let mut layer = Layer::new()
        .directory("/tmp", 0o1777)
        .directory("/root", 0o700)
        .directory("/home", 0o755)
        .directory("/proc", 0o555)
        .directory("/sys", 0o555)
        .directory("/dev", 0o755)
        .directory("/var/run", 0o755)
        .directory("/var/tmp", 0o1777)
        .file("/etc/passwd", 0o644, PASSWD)
        .file("/etc/group", 0o644, GROUP)
        .host_program(&program, "/bin/busybox")?;
    for applet in String::from_utf8(listed.stdout)?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        layer = layer.hard_link(&format!("/bin/{applet}"), "/bin/busybox");
    }
    Ok(layer.hard_link("/usr/bin/env", "/bin/busybox"))
}

/// busybox alone, with a shell as default command.
///
/// # Errors
/// As [`busybox_root`].
pub fn busybox() -> Result<Image> {
    Ok(builder(busybox_root()?).cmd(&["/bin/sh"]).build())
}

/// What other runtimes want as their pods' first container: busybox, waiting to be told to go.
///
/// # Errors
/// As [`busybox_root`].
pub fn pause() -> Result<Image> {
    let wait = [
        "/bin/sh",
        "-c",
        "trap 'exit 0' TERM INT; tail -f /dev/null & wait",
    ];
    Ok(builder(busybox_root()?).entrypoint(&wait).build())
}

/// An image of one gzip layer with the usual PATH.
pub(super) fn builder(layer: Layer) -> ImageBuilder {
    ImageBuilder::new()
        .layer(layer.build(), Compression::Gzip)
        .env(PATH)
}
