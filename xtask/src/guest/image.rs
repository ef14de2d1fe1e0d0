//! The guest's disk and its booted state, made once for each choice of packages, kernel and machine.
//!
//! Below `target/guest/<kernel>-<key>/`: `lock` (held alone while it is made, shared while it is used),
//! `base.raw` (the root file system), `vmlinuz`, `initrd`, `booted.qcow2` (what booting wrote), `state`
//! (the machine at the moment its agent waits for an order; written last, so its presence says that all
//! is there). Nothing outlives a change of the key: what no run holds is taken away by the next making.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::kernel::Kernel;
use super::machine::{APPEND, CARRIED_SIZE, MACHINE, Machine, Parts};
use super::{packages, sources};
use crate::build;

const AGENT: &str = include_str!("agent.sh");
const UNIT: &str = include_str!("agent.service");
const CUSTOMIZE: &str = include_str!("customize.sh");

/// Room of the root file system; sparse.
const SIZE: &str = "12G";

/// A translated machine boots in a quarter of a minute, on a busy host in minutes.
const BOOT: Duration = Duration::from_secs(600);

/// A booted guest to resume, which nobody takes away while this lives.
#[derive(Debug)]
pub(super) struct Image {
    directory: PathBuf,
    kernel: Kernel,
    _lock: File,
}

impl Image {
    /// Takes what is there, or makes it: minutes, and the network.
    pub(super) fn ensure(cache: &Path, kernel: &Kernel) -> Result<Self> {
        let directory = cache.join(format!("{}-{:016x}", kernel.word(), key(kernel)?));
        std::fs::create_dir_all(&directory)?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock_shared()?;
        let image = Self {
            directory,
            kernel: kernel.clone(),
            _lock: lock.try_clone()?,
        };
        if image.state().exists() {
            return Ok(image);
        }
        lock.unlock()?;
        lock.lock().context("waiting for another making of the guest")?;
        if !image.state().exists() {
            clean(cache, &image.directory, kernel);
            image.make()?;
        }
        lock.lock_shared()?;
        Ok(image)
    }

    /// The state to resume.
    pub(super) fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// The disk as it was when the state was kept.
    pub(super) fn disk(&self) -> PathBuf {
        self.directory.join("booted.qcow2")
    }

    /// The kernel, and what it starts from.
    pub(super) fn kernel(&self) -> (PathBuf, Option<PathBuf>) {
        match &self.kernel {
            Kernel::Image(path) => (path.clone(), None),
            _ => (
                self.directory.join("vmlinuz"),
                Some(self.directory.join("initrd")),
            ),
        }
    }

    fn make(&self) -> Result<()> {
        let begin = Instant::now();
        println!("Making the guest in {} (once) ...", self.directory.display());
        packages::install_for_host()?;
        let base = self.directory.join("base.raw");
        // It may be there of a making whose boot failed.
        if !base.exists() {
            self.install(&base)?;
        }
        println!("{:.0} s: packages and disk", begin.elapsed().as_secs_f64());
        self.boot(&base)?;
        println!("{:.0} s: booted and kept", begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// Makes the disk of packages; it is named last.
    fn install(&self, base: &Path) -> Result<()> {
        let root = self.directory.join("root");
        let _ = std::fs::remove_dir_all(&root);
        self.unpack(&root)?;
        for name in ["vmlinuz", "initrd.img"] {
            let link = std::fs::read_link(root.join(name))
                .with_context(|| format!("the packages brought no /{name}"))?;
            let to = self.directory.join(name.trim_end_matches(".img"));
            std::fs::copy(root.join(link), to)?;
        }
        let part = self.directory.join("base.part");
        disk(&root, &part, SIZE)?;
        std::fs::rename(part, base)?;
        std::fs::remove_dir_all(&root)?;
        Ok(())
    }

    /// Runs mmdebstrap.
    fn unpack(&self, root: &Path) -> Result<()> {
        for (name, text) in [
            ("agent.sh", AGENT),
            ("agent.service", UNIT),
            ("customize.sh", CUSTOMIZE),
        ] {
            std::fs::write(self.directory.join(name), text)?;
        }
        let customize = self.directory.join("customize.sh");
        std::fs::set_permissions(&customize, std::fs::Permissions::from_mode(0o755))?;
        let backports = self.kernel == Kernel::Backports;
        let mut command = Command::new("mmdebstrap");
        command.args([
            "--quiet",
            "--variant=minbase",
            "--mode=root",
            "--format=directory",
        ]);
        for path in ["man", "doc", "info", "locale"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        command.arg(format!("--include={}", packages::of_guest().join(",")));
        match &self.kernel {
            Kernel::Package(path) => command.arg(format!("--include={}", path.display())),
            Kernel::Backports => command.arg(format!(
                "--include={}/{}-backports",
                packages::kernel(),
                sources::SUITE
            )),
            // A bare kernel has no use for modules, but the disk is made in the same way.
            Kernel::Debian | Kernel::Image(_) => command.arg(format!("--include={}", packages::kernel())),
        };
        command.arg(format!("--customize-hook={}", customize.display()));
        command.arg(sources::SUITE).arg(root);
        if let Some(text) = sources::of_this_machine(backports) {
            let list = self.directory.join("sources");
            std::fs::write(&list, text)?;
            command.arg(list);
        } else {
            ensure!(
                !backports,
                "this machine's own package sources are not of {}, so it is unknown where its backports are: \
                 give KERNEL= the path of a kernel's .deb",
                sources::SUITE
            );
        }
        build::run(&mut command)
    }

    /// Boots once and keeps the state.
    fn boot(&self, base: &Path) -> Result<()> {
        let carried = self.directory.join("empty.raw");
        let empty = tempfile::tempdir()?;
        disk(empty.path(), &carried, CARRIED_SIZE)?;
        throw_away(base, "raw", &self.disk())?;
        let (kernel, initrd) = self.kernel();
        let parts = Parts {
            kernel: &kernel,
            initrd: initrd.as_deref(),
            disk: &self.disk(),
            carried: &carried,
            state: None,
        };
        for socket in ["qmp", "ctl", "out"] {
            let _ = std::fs::remove_file(self.directory.join(socket));
        }
        let begin = Instant::now();
        let mut machine = Machine::start(&parts, &self.directory, BOOT)?;
        machine.ready()?;
        println!(
            "{:.1} s: from QEMU's start to the agent",
            begin.elapsed().as_secs_f64()
        );
        let part = self.directory.join("state.part");
        machine.qmp().keep(&part)?;
        machine.quit()?;
        std::fs::rename(part, self.state())?;
        Ok(())
    }
}

/// Makes an ext4 image of a directory.
pub(super) fn disk(from: &Path, image: &Path, size: &str) -> Result<()> {
    let _ = std::fs::remove_file(image);
    let mut command = Command::new("mke2fs");
    command.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d"]);
    command.arg(from).arg(image).arg(size);
    command.stdout(std::process::Stdio::null());
    build::run(&mut command)
}

/// Makes a disk that begins as another one, which stays as it is.
pub(super) fn throw_away(from: &Path, format: &str, disk: &Path) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]);
    build::run(command.arg(from).arg(disk))
}

/// Whatever the disk or the state depends on.
fn key(kernel: &Kernel) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    (AGENT, UNIT, CUSTOMIZE, SIZE).hash(&mut hasher);
    (MACHINE, APPEND, CARRIED_SIZE).hash(&mut hasher);
    (packages::of_guest(), packages::kernel()).hash(&mut hasher);
    if let Kernel::Package(path) | Kernel::Image(path) = kernel {
        let data = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        (path, data.len(), data.modified()?).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Takes away what was made for other keys of this kernel and is in nobody's use.
fn clean(cache: &Path, own: &Path, kernel: &Kernel) {
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path != own) {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let same = name
            .strip_prefix(kernel.word())
            .is_some_and(|rest| rest.starts_with('-'));
        let lock = File::open(path.join("lock"));
        if same && lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}
