//! What is told of containers that ran when the node went down.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use coracle_store::regular::{self, Access};
use coracle_types::time::UnixNanos;

use crate::policy::ContainerPhase;
use crate::record::ContainerRecord;

/// How much of a log's end is looked at, in bytes.
const TAIL: u64 = 8 << 10;
/// Longest last line that is told, in characters.
const LINE: usize = 512;

/// Ends a container that lived in another boot; says whether there was something to end.
pub(super) fn end_with_the_boot(container: &mut ContainerRecord) -> bool {
    if !matches!(
        container.phase,
        ContainerPhase::Starting | ContainerPhase::Running | ContainerPhase::Stopping
    ) {
        return false;
    }
    container.phase = ContainerPhase::Exited;
    container.finished_at = UnixNanos::now().max(container.started_at);
    container.exit_code = 255;
    "Unknown".clone_into(&mut container.reason);
    container.message = match container.log_path.as_deref().and_then(last_line) {
        Some(line) => format!("the node went down while it ran; the last line of its log: {line}"),
        None => "the node went down while it ran; it left no last line in its log".to_owned(),
    };
    true
}

/// The text of the last line of a log in the CRI format (`time stream tag text`), as far as it is whole.
/// A pod that sees the directory of logs may have put a link or a FIFO there: neither is followed.
fn last_line(path: &Path) -> Option<String> {
    let mut file = regular::open(path, Access::Read).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let words = |line: &str| line.splitn(4, ' ').nth(3).map(str::to_owned);
    let line = text.lines().rev().find_map(words)?;
    Some(line.chars().take(LINE).collect())
}

#[cfg(test)]
mod tests {
    use coracle_types::PodSandboxId;

    use super::*;
    use crate::record::tests::container;

    #[test]
    fn the_last_line_of_the_log_is_told_and_an_end_is_told_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("main.log");
        let lines =
            "2026-01-01T00:00:00Z stdout F first\n2026-01-01T00:00:01Z stderr F out of luck\n2026-01-01T00";
        std::fs::write(&log, lines).expect("written");
        let mut record = container(&PodSandboxId::generate());
        record.phase = ContainerPhase::Running;
        record.log_path = Some(log);
        assert!(end_with_the_boot(&mut record));
        assert!(record.message.ends_with(": out of luck"), "{}", record.message);
        let ended = record.clone();
        assert!(!end_with_the_boot(&mut record));
        assert_eq!(record, ended);
    }
}
