//! Runs a plugin's program: bounded in time and output, and nothing it leaves behind can hold us up.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, OFlags, fcntl_setfl, memfd_create};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde_json::Value;

use super::arguments::search_path;
use crate::PluginError;

/// No CNI result is larger, in bytes.
const LARGEST_OUTPUT: usize = 1024 * 1024;
/// Of stderr the last part is kept, in bytes.
const STDERR_KEPT: usize = 4 * 1024;

/// Finds the program of a plugin's type.
pub(crate) fn find(kind: &str, dirs: &[PathBuf]) -> Result<PathBuf, PluginError> {
    dirs.iter()
        .map(|dir| dir.join(kind))
        .find(|path| {
            path.metadata()
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
        .ok_or_else(|| PluginError::NoProgram {
            searched: search_path(dirs).replace(':', ", "),
        })
}

/// Runs the program with the configuration on its stdin; what it wrote to stdout when it ended well.
pub(crate) fn run(
    program: &Path,
    environment: &[(&str, String)],
    config: &Value,
    deadline: Duration,
) -> Result<Vec<u8>, PluginError> {
    let failed = |operation| {
        move |source: io::Error| PluginError::Run {
            operation,
            program: program.into(),
            source,
        }
    };
    let input = in_memory(config.to_string().as_bytes()).map_err(failed("hand the configuration to"))?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CNI_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("run"))?;
    let watched = watch(&mut child, deadline);
    if !matches!(watched, Ok(Watched { end: End::Exited, .. })) {
        // The group is the plugin and whatever it started: all of it goes.
        if let Some(group) = Pid::from_raw(child.id().cast_signed()) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed("wait for"))?;
    let watched = watched.map_err(failed("read from"))?;
    let stderr = last_words(&watched.stderr);
    match watched.end {
        End::Deadline => Err(PluginError::Deadline {
            after: deadline,
            stderr,
        }),
        End::Flood => Err(PluginError::TooMuchOutput {
            limit: LARGEST_OUTPUT,
        }),
        End::Exited if status.success() => Ok(watched.stdout),
        End::Exited => Err(failure(&watched.stdout, status, stderr)),
    }
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("cni-config", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file)
}

struct Watched {
    end: End,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

enum End {
    Exited,
    Deadline,
    Flood,
}

/// Reads what the child writes until it exits. A descendant that keeps the pipes open is not waited for.
fn watch(child: &mut Child, deadline: Duration) -> io::Result<Watched> {
    let until = Instant::now() + deadline;
    let mut stdout = Pipe::new(child.stdout.take().map(OwnedFd::from))?;
    let mut stderr = Pipe::new(child.stderr.take().map(OwnedFd::from))?;
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or(io::ErrorKind::NotFound)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let end = loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break End::Deadline;
        }
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(
            stdout
                .fd()
                .into_iter()
                .chain(stderr.fd())
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        let timeout = left.try_into().ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let exited = !fds[0].revents().is_empty();
        drop(fds);
        stdout.drain(LARGEST_OUTPUT)?;
        stderr.drain(STDERR_KEPT * 2)?;
        let excess = stderr.bytes.len().saturating_sub(STDERR_KEPT);
        stderr.bytes.drain(..excess);
        if stdout.bytes.len() > LARGEST_OUTPUT {
            break End::Flood;
        }
        if exited {
            break End::Exited;
        }
    };
    Ok(Watched {
        end,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
    })
}

struct Pipe {
    file: Option<File>,
    bytes: Vec<u8>,
}

impl Pipe {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        if let Some(fd) = &fd {
            fcntl_setfl(fd, OFlags::NONBLOCK)?;
        }
        Ok(Self {
            file: fd.map(File::from),
            bytes: Vec::new(),
        })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is there, up to a little more than `limit` held bytes.
    fn drain(&mut self, limit: usize) -> io::Result<()> {
        let mut chunk = [0; 4096];
        while self.bytes.len() <= limit {
            let Some(file) = &mut self.file else { return Ok(()) };
            match file.read(&mut chunk) {
                Ok(0) => self.file = None,
                Ok(length) => self.bytes.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// The CNI error on stdout, else how the program ended.
fn failure(stdout: &[u8], status: ExitStatus, stderr: String) -> PluginError {
    if let Ok(Value::Object(answer)) = serde_json::from_slice(stdout)
        && let Some(code) = answer.get("code").and_then(Value::as_u64)
    {
        let text = |key: &str| {
            answer
                .get(key)
                .and_then(Value::as_str)
                .map(printable)
                .unwrap_or_default()
        };
        let (message, details) = (text("msg"), text("details"));
        let message = if message.is_empty() {
            "failed without a message".into()
        } else {
            message
        };
        return PluginError::Reported {
            code,
            message,
            details,
        };
    }
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended in an unknown way".into(),
    };
    let said = if stderr.is_empty() {
        last_words(stdout)
    } else {
        stderr
    };
    PluginError::Died {
        status: ended,
        stderr: said,
    }
}

/// Foreign words for an error text: printable, and not many.
pub(crate) fn printable(text: &str) -> String {
    let plain: String = text
        .chars()
        .take(2_000)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    plain.trim().into()
}

fn last_words(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(
        &bytes[bytes.len().saturating_sub(1_000)..],
    ))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    struct Script {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    fn script(body: &str) -> Script {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugin");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Script { _dir: dir, path }
    }

    fn run_script(body: &str, deadline: Duration) -> Result<String, PluginError> {
        let script = script(body);
        let environment = [("CNI_COMMAND", "ADD".to_owned())];
        let config = serde_json::json!({ "long": "x".repeat(200_000) });
        run(&script.path, &environment, &config, deadline).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    const AMPLE: Duration = Duration::from_secs(60);

    #[test]
    fn a_program_gets_its_configuration_and_environment() {
        assert_eq!(
            run_script("wc -c; echo $CNI_COMMAND", AMPLE).unwrap(),
            "200011\nADD\n"
        );
        assert_eq!(run_script("echo unread", AMPLE).unwrap(), "unread\n");
    }

    #[test]
    fn errors_come_in_the_plugins_words() {
        let reported = run_script(
            r#"echo '{"code":11,"msg":"later\u0007","details":"busy"}'; exit 1"#,
            AMPLE,
        )
        .unwrap_err();
        assert_eq!(reported.to_string(), "later: busy (CNI error 11)");
        let died = run_script("echo rubbish; echo oh no >&2; exit 3", AMPLE)
            .unwrap_err()
            .to_string();
        assert!(died.contains("exit code 3") && died.contains("oh no"), "{died}");
        let killed = run_script("kill -9 $$", AMPLE).unwrap_err().to_string();
        assert!(killed.contains("signal 9"), "{killed}");
    }

    #[test]
    fn a_hanging_program_is_killed_with_its_children() {
        let script = script("sleep 1000 & echo $! > \"$PIDFILE\"; echo working >&2; wait");
        let pidfile = script.path.with_extension("pid");
        let environment = [("PIDFILE", pidfile.display().to_string())];
        let error = run(
            &script.path,
            &environment,
            &Value::Null,
            Duration::from_millis(300),
        )
        .unwrap_err();
        assert!(
            matches!(&error, PluginError::Deadline { stderr, .. } if stderr == "working"),
            "{error}"
        );
        let child = fs::read_to_string(pidfile).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", child.trim()));
        // Killed, and then reaped by whoever is its new parent.
        while fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z")) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_descendant_that_keeps_the_pipes_is_not_waited_for() {
        let started = Instant::now();
        assert_eq!(run_script("sleep 70 & echo done", AMPLE).unwrap(), "done\n");
        assert!(started.elapsed() < AMPLE);
    }

    #[test]
    fn a_flood_ends_the_program() {
        assert!(matches!(
            run_script("yes", AMPLE),
            Err(PluginError::TooMuchOutput { .. })
        ));
        assert!(run_script("yes | head -c 3000000 >&2; exit 1", AMPLE).is_err());
    }

    #[test]
    fn only_executable_files_are_programs() {
        let script = script("");
        let dir = script.path.parent().unwrap().to_owned();
        assert!(find("plugin", std::slice::from_ref(&dir)).is_ok());
        fs::set_permissions(&script.path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = find("plugin", &["/nowhere".into(), dir]).unwrap_err().to_string();
        assert!(error.contains("/nowhere, "), "{error}");
    }
}
