//! Starting a keeper: one a program version, found by its socket, under a lock.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use coracle_types::Instance;
use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit};

use crate::client::Keeper;
use crate::error::Error;
use crate::program;
use crate::server::KeeperArgs;

/// Tells a keeper the limits of open files that its shims shall have: soft and hard, `1024:524288`.
pub(crate) const OPEN_FILES: &str = "CORACLE_OPEN_FILES";

/// As this process was started, when it has raised its own.
static OPEN_FILES_BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Lets the calling daemon open as many files as the hard limit has it, one and more a pod. Containers
/// are to have the limit that the daemon was started with: programs of old break when it is large
/// (select(2) ends at 1024 descriptors), or close them one by one.
///
/// # Errors
/// When the kernel refuses.
pub fn raise_open_files() -> io::Result<()> {
    let before = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: before.maximum,
        ..before
    };
    OPEN_FILES_BEFORE.get_or_init(|| before);
    Ok(rustix::process::setrlimit(Resource::Nofile, raised)?)
}

/// What a keeper is started as.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable's path.
    pub executable: PathBuf,
    /// Arguments that select the keeper's role, before its own.
    pub role: Vec<OsString>,
}

/// Where a keeper lives.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// `/run/coracle`; its `keeper` directory is made here.
    pub runtime_dir: PathBuf,
    /// Absolute cgroup of keeper and shims in every hierarchy, `/coracle.slice`.
    pub cgroup: String,
    /// Whose keeper it is, for its title.
    pub instance: Instance,
    /// What is executed.
    pub program: Program,
}

pub(crate) fn ensure(config: &KeeperConfig) -> Result<Keeper, Error> {
    let directory = config.runtime_dir.join("keeper");
    let empty = directory.join("empty");
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&empty)
        .map_err(Error::path("create", &empty))?;
    let version = version(&config.program.executable)?;
    let socket = directory.join(format!("{version}.sock"));
    let _lock = lock(&directory.join("lock"))?;
    let keeper = match Keeper::connect(&socket) {
        Ok(keeper) => {
            // It may have been told to leave when another program took its place for a while. One that does
            // not know the request is of a program that is not this one.
            let _ = keeper.stay();
            keeper
        }
        Err(_) => {
            start(config, &empty, &socket)?;
            Keeper::connect(&socket)?
        }
    };
    retire_others(&directory, &socket);
    Ok(keeper)
}

/// 16 digits that change with the program's file (FNV-1a over device, inode, size and times).
fn version(executable: &Path) -> Result<String, Error> {
    let meta = std::fs::metadata(executable).map_err(Error::path("stat", executable))?;
    let parts = [
        meta.dev(),
        meta.ino(),
        meta.size(),
        meta.mtime().cast_unsigned(),
        meta.mtime_nsec().cast_unsigned(),
    ];
    let digest = parts
        .iter()
        .flat_map(|part| part.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    Ok(format!("{digest:016x}"))
}

fn lock(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::path("open", path))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| Error::path("lock", path)(error.into()))?;
    Ok(file)
}

/// Starts the role; it listens before its first process ends.
fn start(config: &KeeperConfig, empty: &Path, socket: &Path) -> Result<(), Error> {
    let sealed = program::sealed(&config.program.executable, empty)?;
    let log_path = socket.with_extension("log");
    let mut log = OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(Error::path("open", &log_path))?;
    let before = log
        .seek(SeekFrom::End(0))
        .map_err(Error::path("seek", &log_path))?;
    let args = KeeperArgs {
        socket: socket.into(),
        cgroup: config.cgroup.clone(),
        instance: config.instance.clone(),
    };
    let mut command = Command::new(program::descriptor_path(&sealed.file));
    if let Some(limit) = OPEN_FILES_BEFORE.get() {
        command.env(OPEN_FILES, format_limit(limit));
    }
    // What the service manager told the daemon is not the keeper's, which outlives it.
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    let status = command
        .arg0("coracle-keeper")
        .args(&config.program.role)
        .args(args.to_arguments())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone().map_err(Error::path("duplicate", &log_path))?)
        .status()
        .map_err(Error::path("execute", &config.program.executable))?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let told = log
        .seek(SeekFrom::Start(before))
        .and_then(|_| log.take(2048).read_to_string(&mut said));
    let status = match told {
        Ok(length) if length > 0 => format!("{status}: {}", said.trim()),
        _ => status.to_string(),
    };
    Err(Error::StartFailed {
        status,
        log: log_path,
    })
}

fn format_limit(limit: &Rlimit) -> String {
    let word = |limit: Option<u64>| limit.map_or_else(|| "infinity".to_owned(), |limit| limit.to_string());
    format!("{}:{}", word(limit.current), word(limit.maximum))
}

/// Reads what [`OPEN_FILES`] says.
pub(crate) fn parse_limit(text: &str) -> Option<Rlimit> {
    let number = |word: &str| match word {
        "infinity" => Some(None),
        word => word.parse().ok().map(Some),
    };
    let (soft, hard) = text.split_once(':')?;
    Some(Rlimit {
        current: number(soft)?,
        maximum: number(hard)?,
    })
}

/// Keepers of other versions leave with their last pod; sockets that nobody answers on go.
fn retire_others(directory: &Path, own: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path == own || path.extension().is_none_or(|extension| extension != "sock") {
            continue;
        }
        match Keeper::connect(&path) {
            // A keeper that does not answer now is told by the next daemon.
            Ok(old) => drop(old.retire()),
            Err(Error::Unreachable { source, .. }) if source.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&path);
                let _ = std::fs::remove_file(path.with_extension("log"));
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_back() {
        for limit in [
            Rlimit {
                current: Some(1024),
                maximum: Some(524_288),
            },
            Rlimit {
                current: Some(1024),
                maximum: None,
            },
        ] {
            assert_eq!(parse_limit(&format_limit(&limit)), Some(limit));
        }
        assert!(parse_limit("1024").is_none() && parse_limit("a:b").is_none());
    }
}
