//! Where records go: standard error, or the journal's socket.

use std::io::{IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;

use super::record::Record;
use crate::cli::LogFormat;

/// Where the journal listens (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/socket";

/// How records leave this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Output {
    /// Lines on standard error, which is no terminal.
    Text,
    /// Lines with colour.
    Terminal,
    /// JSON objects on standard error.
    Json,
    /// Datagrams to the journal.
    Journal,
}

impl From<u8> for Output {
    fn from(number: u8) -> Self {
        [Self::Text, Self::Terminal, Self::Json, Self::Journal]
            .into_iter()
            .find(|output| *output as u8 == number)
            .unwrap_or(Self::Text)
    }
}

impl Output {
    /// What a format comes to in this process.
    pub(super) fn of(format: LogFormat) -> Self {
        match format {
            LogFormat::Json => Self::Json,
            LogFormat::Journald => Self::Journal,
            LogFormat::Auto if stderr_is_journal() => Self::Journal,
            LogFormat::Auto | LogFormat::Text
                if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() =>
            {
                Self::Terminal
            }
            LogFormat::Auto | LogFormat::Text => Self::Text,
        }
    }
}

impl Output {
    /// A shim's, whose standard error is a file: its keeper inherited the variable from a service.
    pub(super) fn of_shim() -> Self {
        if std::env::var_os("JOURNAL_STREAM").is_some() {
            Self::Journal
        } else {
            Self::Text
        }
    }
}

/// `JOURNAL_STREAM` has device and inode of the journal's stream; a process whose standard error was
/// led elsewhere since inherits the variable all the same (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Some(named) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|about| named == format!("{}:{}", about.dev(), about.ino()))
}

/// Writes a record. Where nobody takes it, it is lost: there is nowhere left to say so.
pub(super) fn write(record: &Record, output: Output, identifier: &str) {
    let mut line = match output {
        Output::Text => record.text(false),
        Output::Terminal => record.text(true),
        Output::Json => record.json(),
        Output::Journal if journal(record, identifier) => return,
        // The journal takes a leading <4> for the priority (sd-daemon(3)).
        Output::Journal => format!("<{}>{}", record.priority(), record.sentence()),
    };
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Whether the journal took it: not when there is none, when it does not keep up, or when the record is
/// too large for a datagram.
fn journal(record: &Record, identifier: &str) -> bool {
    let send = || {
        let socket = UnixDatagram::unbound()?;
        // A daemon must not wait for its log.
        socket.set_nonblocking(true)?;
        socket.send_to(&record.journal(identifier), JOURNAL)
    };
    send().is_ok()
}
