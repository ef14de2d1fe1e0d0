//! Ctrl-C, SIGTERM and a terminal that goes, for commands that must put away what they made before they leave.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::terminal;

/// A signal so soon after another is the same wish: timeout(1) sends one to the process and one to its group.
const ONE_WISH: Duration = Duration::from_millis(300);

/// While this is held, the signals do not end the process.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    background: bool,
    last: Option<Instant>,
}

impl Signals {
    /// Begins to listen; to be called before anything is made.
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            background: false,
            last: None,
        })
    }

    /// For a process that outlives its terminal.
    pub(super) fn in_background(self) -> Self {
        Self {
            background: true,
            ..self
        }
    }

    /// Whether one came and was seen.
    pub(super) fn came(&self) -> bool {
        self.last.is_some()
    }

    /// The number of the next one.
    pub(super) async fn number(&mut self) -> u8 {
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => 2,
                _ = self.terminate.recv() => 15,
                _ = self.hangup.recv() => 1,
            };
            let again = self.last.is_some_and(|last| last.elapsed() < ONE_WISH);
            let outlived = self.background && number == 1;
            if !again && !outlived {
                self.last = Some(Instant::now());
                return number;
            }
        }
    }

    /// The next one, as the exit code of a process that it ended.
    pub(super) async fn next(&mut self) -> ExitCode {
        ExitCode::from(128 + self.number().await)
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
