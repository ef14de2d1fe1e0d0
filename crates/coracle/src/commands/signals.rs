//! Ctrl-C and SIGTERM for commands that must put away what they made before they leave.

use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal;

/// Both signals; while this is held they do not end the process.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// Whether one came and was seen.
    pub(super) came: bool,
}

impl Signals {
    /// Begins to listen; to be called before anything is made.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            came: false,
        })
    }

    /// The next one, as the exit code of a process that it ended.
    pub(super) async fn next(&mut self) -> ExitCode {
        let code = tokio::select! {
            _ = self.interrupt.recv() => 130,
            _ = self.terminate.recv() => 143,
        };
        self.came = true;
        ExitCode::from(code)
    }

    /// Waits for work that the daemon goes on with whoever leaves, so that what it makes can be taken away: a
    /// first signal is remembered, and only a second gives the work up.
    pub(super) async fn patiently<T>(
        &mut self,
        work: impl Future<Output = T>,
    ) -> (Option<T>, Option<ExitCode>) {
        tokio::pin!(work);
        let code = tokio::select! {
            done = &mut work => return (Some(done), None),
            code = self.next() => code,
        };
        terminal::remark("stopping; once more stops at once");
        tokio::select! {
            done = &mut work => (Some(done), Some(code)),
            _ = self.next() => (None, Some(code)),
        }
    }
}
