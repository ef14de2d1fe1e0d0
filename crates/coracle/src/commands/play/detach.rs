//! `--detach`: a process of its own watches the pods, and this one returns when they are ready.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, bail};

use super::load::{self, Sources};
use super::storage;
use crate::cli::{Global, RunArgs};
use crate::commands::signals::Signals;
use crate::terminal::{self, Screen};

/// What the watching process says before the pods' ids.
const READY: &str = "ready";
/// Bytes that are shown of the log of one that failed.
const SHOWN: u64 = 64 << 10;

/// Starts the watching process and waits until it says that the pods are ready.
pub(super) async fn run(
    args: &RunArgs,
    sources: &Sources,
    global: &Global,
    screen: &Screen,
) -> anyhow::Result<ExitCode> {
    let log = storage::watch_log()?;
    let mut signals = Signals::listen()?;
    let mut child = start(args, global, &log).context("start the process that watches the pods")?;
    if let (Some(mut stdin), Some(text)) = (child.stdin.take(), &sources.stdin) {
        stdin
            .write_all(text.as_bytes())
            .context("hand over standard input")?;
    }
    let pid = child.id();
    // From here on a signal is passed on, so that nothing half made stays.
    let waited = tokio::task::spawn_blocking(move || wait(&mut child));
    let (ids, succeeded) = tokio::select! {
        told = waited => told??,
        code = signals.next() => {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            }
            return Ok(code);
        }
    };
    let said = said(&log);
    if ids.is_empty() {
        let _ = std::fs::remove_file(&log);
        if !succeeded {
            bail!("the pods are not ready and not running:\n{}", said.trim());
        }
    }
    for line in said.lines() {
        terminal::remark(line);
    }
    if ids.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for id in ids {
        screen.done("pod", &id)?;
    }
    terminal::remark(format!(
        "process {pid} watches: it probes and restarts, ends with the pods, and writes to {}",
        log.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn start(args: &RunArgs, global: &Global, log: &Path) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("--socket")
        .arg(&global.socket)
        .arg("run")
        .arg("--watch")
        .arg(log);
    for name in args.manifests() {
        let path = if name == "-" {
            PathBuf::from(name)
        } else {
            load::absolute(&name)?
        };
        command.arg("--file").arg(path);
    }
    for path in &args.manifest.configmap {
        command.arg("--configmap").arg(std::path::absolute(path)?);
    }
    for (given, option) in [(args.manifest.replace, "--replace"), (args.keep, "--keep")] {
        if given {
            command.arg(option);
        }
    }
    let log = std::fs::File::options().append(true).open(log)?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .current_dir("/")
        // Ctrl-C at the terminal is not meant for it.
        .process_group(0);
    Ok(command.spawn()?)
}

/// The pods' ids, or none when the process ended before they were ready, and whether it ended well.
fn wait(child: &mut Child) -> anyhow::Result<(Vec<String>, bool)> {
    let stdout = child
        .stdout
        .take()
        .context("the process has no standard output")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    if words.next().as_deref() != Some(READY) {
        let status = child.wait()?;
        return Ok((Vec::new(), status.success()));
    }
    Ok((words.collect(), true))
}

fn said(log: &Path) -> String {
    let mut text = String::new();
    let file = std::fs::File::open(log);
    let _ = file.and_then(|file| file.take(SHOWN).read_to_string(&mut text));
    text
}

/// Tells whoever waits that the pods are ready; who waits no longer does not mind.
pub(super) fn tell_ready(ids: &[String]) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{READY} {}", ids.join(" "));
    let _ = stdout.flush();
}
