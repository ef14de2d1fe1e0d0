//! What containers print, a line at a time behind their names, and what is said about them.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;

use super::storage::end_of;
use crate::commands::logs::Log;
use crate::terminal;

/// How often a log is looked at: a person does not see a shorter pause.
const PAUSE: Duration = Duration::from_millis(100);

/// Where what a pod does is shown.
#[derive(Debug, Clone)]
pub(super) struct Output {
    /// The pod's name where several run, else empty.
    pod: String,
    /// Whether containers' lines are shown, too.
    lines: bool,
}

impl Output {
    /// Shows lines behind `pod`, or nothing but remarks.
    pub(super) fn new(pod: String, lines: bool) -> Self {
        Self { pod, lines }
    }

    /// Says something about the pod or, when `container` is not empty, one of its containers.
    pub(super) fn say(&self, container: &str, words: impl std::fmt::Display) {
        terminal::remark(format!("{}: {words}", self.label(container)));
    }

    fn label(&self, container: &str) -> String {
        match (self.pod.as_str(), container) {
            ("", "") => "pod".to_owned(),
            ("", container) => container.to_owned(),
            (pod, "") => pod.to_owned(),
            (pod, container) => format!("{pod}/{container}"),
        }
    }

    /// Shows a container's log until `ended` is true and all of it was shown.
    pub(super) fn follow(&self, container: &str, log: &Path) -> Follower {
        let (end, ended) = watch::channel(false);
        let (lines, label, log) = (self.lines, self.label(container), log.to_owned());
        let task = tokio::spawn(async move {
            if lines {
                // Whoever reads our output may leave; the pod goes on.
                let _ = show(&label, &log, ended).await;
            }
        });
        Follower { end, task }
    }
}

/// A log that is being shown.
#[derive(Debug)]
pub(super) struct Follower {
    end: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    /// Waits until all of it was shown.
    pub(super) async fn finish(self) {
        let _ = self.end.send(true);
        let _ = self.task.await;
    }
}

async fn show(label: &str, log: &Path, ended: watch::Receiver<bool>) -> io::Result<()> {
    let mut log = Log::open(log).await?;
    let mut line = Vec::new();
    loop {
        let last = *ended.borrow();
        while let Some(raw) = log.next(last).await? {
            let mut fields = raw.splitn(4, |byte| *byte == b' ').skip(1);
            let (stream, tag, text) = (fields.next(), fields.next(), fields.next().unwrap_or_default());
            line.extend_from_slice(text.strip_suffix(b"\n").unwrap_or(text));
            if tag != Some(b"P") {
                write(label, stream == Some(b"stderr"), &line)?;
                line.clear();
            }
        }
        if last {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn write(label: &str, to_stderr: bool, line: &[u8]) -> io::Result<()> {
    let mut whole = format!("{label} | ").into_bytes();
    whole.extend_from_slice(line);
    whole.push(b'\n');
    if to_stderr {
        io::stderr().write_all(&whole)
    } else {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&whole)?;
        stdout.flush()
    }
}

/// The last line of a log, for containers that left no last words.
pub(super) fn last_line(log: &Path) -> String {
    let text = end_of(log);
    let line = text.lines().next_back().unwrap_or_default();
    line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, SeekFrom};

    use super::*;

    #[test]
    fn only_the_end_of_a_log_is_read_for_its_last_line() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        // A terabyte that takes no space: who read it whole would not come back.
        file.as_file().set_len(1 << 40).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"\nt stdout F first\nt stderr F the end\n")
            .unwrap();
        assert_eq!(last_line(file.path()), "the end");
        assert_eq!(last_line(Path::new("/none")), "");
    }
}
