//! Profiles of AppArmor on their way into the kernel.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// A profile that is not in the kernel.
#[derive(Debug, thiserror::Error)]
#[error("load an AppArmor profile: {reason}")]
pub struct ProfileNotLoaded {
    /// What was in the way.
    pub reason: String,
}

/// In the order of the search: Debian's place first, since a service's PATH may lack it.
const PARSERS: [&str; 4] = [
    "/sbin/apparmor_parser",
    "/usr/sbin/apparmor_parser",
    "/bin/apparmor_parser",
    "/usr/bin/apparmor_parser",
];

/// How long the parser may take: what waits for it must not wait for ever.
const DEADLINE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Puts profiles, in apparmor.d(5)'s language, into the kernel in place of those of their names. Processes
/// under these get the new rules at once.
///
/// # Errors
/// Where `apparmor_parser` is not installed, what it refuses, and when it does not end.
pub fn load(profiles: &str) -> Result<(), ProfileNotLoaded> {
    let failed = |reason: String| ProfileNotLoaded { reason };
    let parser = PARSERS
        .iter()
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| failed("apparmor_parser is not installed".to_owned()))?;
    let in_the_way = |error: std::io::Error| failed(format!("{parser}: {error}"));
    // Not from a cache, which is another program's directory; replacing what is loaded.
    let mut child = Command::new(parser)
        .args(["--skip-cache", "--replace", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(in_the_way)?;
    let input = child.stdin.take();
    let written = input.map_or(Ok(()), |mut input| input.write_all(profiles.as_bytes()));
    if !ends(&child).map_err(in_the_way)? {
        let _ = child.kill();
        let _ = child.wait();
        return Err(failed(format!(
            "{parser} did not end within {} s",
            DEADLINE.tv_sec
        )));
    }
    let output = child.wait_with_output().map_err(in_the_way)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(format!(
            "{parser} ended with {}: {}",
            output.status,
            said.trim()
        )));
    }
    written.map_err(in_the_way)
}

/// Whether a child ends in time. It says less than a pipe holds, so that nothing of it waits for us.
fn ends(child: &Child) -> std::io::Result<bool> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    Ok(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&DEADLINE))? > 0)
}
