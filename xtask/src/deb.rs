//! `make deb`: a Debian package from the built program, the files of packaging/ and what the program makes.
//!
//! `dpkg-deb` alone packs it. Manual pages, completions and the default configuration come from the program
//! itself, so that none of them can tell of another one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{build, workspace};

/// The group of packaging/systemd/coracle.sysusers, which the packaged configuration gives the socket to.
const GROUP: &str = "coracle";

#[derive(Args)]
pub(crate) struct Options {
    /// Version of the package [default: the workspace's]
    #[arg(long)]
    version: Option<String>,
    /// Another program to pack, an older one for instance; documented by the one of this source
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where the package goes
    #[arg(long, default_value = "target/deb")]
    out: PathBuf,
}

impl Options {
    /// A package in `out`.
    pub(crate) fn of(version: Option<String>, program: Option<PathBuf>, out: PathBuf) -> Self {
        Self {
            version,
            program,
            out,
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let documenting = build::release()?;
    let packed = options.program.clone().unwrap_or_else(|| documenting.clone());
    let version = options
        .version
        .clone()
        .unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned());
    let out = workspace().join(&options.out);
    fs::create_dir_all(&out)?;
    let package = Package {
        stage: tempfile::tempdir().context("a staging directory")?,
        version,
        architecture: said("dpkg", &["--print-architecture"])?.trim().to_owned(),
    };
    package.program(&packed)?;
    package.documentation(&documenting)?;
    package.configuration(&documenting, options.program.is_none())?;
    package.units()?;
    package.control()?;
    let file = out.join(format!(
        "coracle_{}_{}.deb",
        package.version, package.architecture
    ));
    let mut pack = Command::new("dpkg-deb");
    pack.args(["--root-owner-group", "-Zxz", "--build"])
        .arg(package.stage.path())
        .arg(&file);
    build::run(&mut pack)
}

struct Package {
    stage: tempfile::TempDir,
    version: String,
    architecture: String,
}

impl Package {
    fn put(&self, to: &str, content: &[u8], mode: u32) -> Result<()> {
        let path = self.stage.path().join(to);
        let parent = path.parent().context("a directory")?;
        fs::create_dir_all(parent)?;
        fs::write(&path, content).with_context(|| format!("write {to}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        // Directories are 0755 whatever the builder's umask.
        let mut directory = parent;
        while directory.starts_with(self.stage.path()) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
            directory = directory.parent().context("a directory")?;
        }
        Ok(())
    }

    fn template(&self, name: &str) -> Result<String> {
        let text = fs::read_to_string(workspace().join("packaging").join(name))
            .with_context(|| format!("read packaging/{name}"))?;
        Ok(text
            .replace("@VERSION@", &self.version)
            .replace("@ARCHITECTURE@", &self.architecture)
            .replace("@INSTALLED_SIZE@", &(size(self.stage.path())? / 1024).to_string())
            .replace("@DATE@", said("date", &["-R"])?.trim()))
    }

    fn program(&self, program: &Path) -> Result<()> {
        let content = fs::read(program).with_context(|| format!("read {}", program.display()))?;
        self.put("usr/bin/coracle", &content, 0o755)
    }

    fn documentation(&self, program: &Path) -> Result<()> {
        let program = program.to_str().context("the program's path is not UTF-8")?;
        let pages = tempfile::tempdir()?;
        let directory = pages.path().to_str().context("a path that is UTF-8")?;
        said(program, &["generate", "man", directory])?;
        for page in fs::read_dir(pages.path())? {
            let page = page?;
            let name = page.file_name().to_string_lossy().into_owned();
            let packed = gzipped(&page.path())?;
            self.put(&format!("usr/share/man/man1/{name}.gz"), &packed, 0o644)?;
        }
        for (shell, path) in [
            ("bash", "usr/share/bash-completion/completions/coracle"),
            ("zsh", "usr/share/zsh/vendor-completions/_coracle"),
            ("fish", "usr/share/fish/vendor_completions.d/coracle.fish"),
        ] {
            let script = said(program, &["generate", "completions", shell])?;
            self.put(path, script.as_bytes(), 0o644)?;
        }
        let documents = "usr/share/doc/coracle";
        for (name, from) in [
            ("copyright", "packaging/debian/copyright"),
            ("NOTICE", "NOTICE"),
            ("operations.md", "docs/operations.md"),
            ("configuration.md", "docs/configuration.md"),
            ("examples/crictl.yaml", "packaging/crictl.yaml"),
            ("tour.md", "docs/tour.md"),
        ] {
            let content = fs::read(workspace().join(from)).with_context(|| format!("read {from}"))?;
            self.put(&format!("{documents}/{name}"), &content, 0o644)?;
        }
        let overrides = fs::read(workspace().join("packaging/debian/lintian-overrides"))?;
        self.put("usr/share/lintian/overrides/coracle", &overrides, 0o644)?;
        let changelog = tempfile::NamedTempFile::new()?;
        fs::write(changelog.path(), self.template("debian/changelog")?)?;
        // A version without a hyphen is a native package's, whose changelog has this name.
        let packed = gzipped(changelog.path())?;
        self.put(&format!("{documents}/changelog.gz"), &packed, 0o644)
    }

    /// The program's defaults, all commented out but the socket's group, which the package makes.
    /// Another program may not know these keys: it gets none.
    fn configuration(&self, program: &Path, own: bool) -> Result<()> {
        let program = program.to_str().context("the program's path is not UTF-8")?;
        let defaults = said(program, &["config", "default"])?;
        let mut given = false;
        let lines = defaults.lines().map(|line| {
            if line.trim_start_matches(['#', ' ']).starts_with("socket_group =") {
                given = true;
                format!("socket_group = \"{GROUP}\"\n")
            } else {
                format!("{line}\n")
            }
        });
        let text: String = lines.collect();
        ensure!(
            given,
            "`coracle config default` has no line for socket_group:\n{defaults}"
        );
        // Where fragments and registries' hosts.toml go: there to be found, and gone with a purge when empty.
        for directory in ["etc/coracle/config.d", "etc/coracle/certs.d"] {
            let path = self.stage.path().join(directory);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        let text = if own { text } else { "# All defaults.\n".to_owned() };
        self.put("etc/coracle/config.toml", text.as_bytes(), 0o644)?;
        self.put("DEBIAN/conffiles", b"/etc/coracle/config.toml\n", 0o644)
    }

    fn units(&self) -> Result<()> {
        for (name, to) in [
            (
                "systemd/coracle.service",
                "usr/lib/systemd/system/coracle.service",
            ),
            ("systemd/coracle.sysusers", "usr/lib/sysusers.d/coracle.conf"),
            ("systemd/coracle.tmpfiles", "usr/lib/tmpfiles.d/coracle.conf"),
        ] {
            self.put(to, self.template(name)?.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    fn control(&self) -> Result<()> {
        for (name, mode) in [
            ("postinst", 0o755),
            ("prerm", 0o755),
            ("postrm", 0o755),
            ("control", 0o644),
        ] {
            let text = self.template(&format!("debian/{name}"))?;
            self.put(&format!("DEBIAN/{name}"), text.as_bytes(), mode)?;
        }
        Ok(())
    }
}

/// Bytes of all files below a directory.
fn size(directory: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() {
            size(&entry.path())?
        } else {
            about.len()
        };
    }
    Ok(bytes)
}

/// Without name and time, so that the same content packs to the same bytes.
fn gzipped(path: &Path) -> Result<Vec<u8>> {
    output(Command::new("gzip").args(["-9nc"]).arg(path))
}

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    Ok(String::from_utf8(output(Command::new(program).args(arguments))?)?)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {name}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}
