//! Ending a process that somebody wrote down, and no other.

use std::io;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Kills process `pid` if it is the one that was made `started` ticks after boot (proc_pid_stat(5), field
/// 22); one that is gone is no error.
///
/// # Errors
/// What the kernel says.
pub fn kill_recorded(pid: i32, started: u64) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other?,
    };
    // Looked at afterwards: the descriptor is of whoever had the pid then.
    if started_at(pid) != Some(started) {
        return Ok(());
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn started_at(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name before it may hold anything but ends with the last parenthesis.
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_process_with_the_pid_is_left_alone() {
        let mut child = std::process::Command::new("sleep")
            .arg("100")
            .spawn()
            .expect("sleep");
        let pid = i32::try_from(child.id()).expect("a pid");
        let started = started_at(Pid::from_raw(pid).expect("a pid")).expect("it runs");
        kill_recorded(pid, started + 1).expect("nothing to do");
        assert!(child.try_wait().expect("waited").is_none(), "it was killed");
        kill_recorded(pid, started).expect("killed");
        assert!(!child.wait().expect("waited").success());
    }
}
