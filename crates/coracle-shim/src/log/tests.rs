//! The writer on real pipes and files.

use std::fs;
use std::io::Write as _;

use rustix::fs::{FileType, Mode};
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

struct Rig {
    directory: tempfile::TempDir,
    path: PathBuf,
    pool: Pool,
}

impl Rig {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.log");
        Self {
            directory,
            path,
            pool: Pool::default(),
        }
    }

    fn start(&mut self) -> (LogWriter, fs::File, fs::File) {
        let (stdout, out) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let (stderr, err) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        let sources = Sources {
            stdout,
            stderr: Some(stderr),
        };
        let writer = LogWriter::start(&mut self.pool, &self.path, sources).expect("a writer");
        (writer, out.into(), err.into())
    }

    /// Stream, tag and text of each line.
    fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.directory.path().join(name)).expect("the log");
        text.lines()
            .map(|line| line.split_once(' ').expect("a time").1.to_owned())
            .collect()
    }
}

async fn ended(mut writer: LogWriter, pool: &mut Pool) {
    writer.close().await;
    writer.recycle(pool);
}

#[tokio::test(flavor = "current_thread")]
async fn both_streams_are_in_the_log_when_a_drain_is_answered() {
    let mut rig = Rig::new();
    let (writer, mut out, mut err) = rig.start();
    out.write_all(b"a\nb\nc").expect("write");
    err.write_all(b"oops\n").expect("write");
    drop(out);
    writer.drain().await;
    let mut lines = rig.lines("0.log");
    lines.sort();
    assert_eq!(lines, ["stderr F oops", "stdout F a", "stdout F b", "stdout F c"]);
    ended(writer, &mut rig.pool).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_holder_that_goes_on_writing_does_not_delay_the_drain() {
    let mut rig = Rig::new();
    let (writer, out, _err) = rig.start();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood = std::thread::spawn({
        let (stop, mut out) = (std::sync::Arc::clone(&stop), out);
        move || {
            while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                let _ = out.write_all(&[b'y', b'\n'].repeat(4096));
            }
        }
    });
    for _ in 0..20 {
        writer.drain().await;
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    flood.join().expect("it stops");
    ended(writer, &mut rig.pool).await;
    assert!(
        rig.lines("0.log")
            .iter()
            .all(|line| line == "stdout F y" || line.starts_with("stdout P"))
    );
}

#[tokio::test(flavor = "current_thread")]
async fn a_reopened_log_takes_what_follows_and_nothing_is_lost() {
    let mut rig = Rig::new();
    let (writer, mut out, _err) = rig.start();
    out.write_all(b"before\n").expect("write");
    writer.drain().await;
    fs::rename(&rig.path, rig.directory.path().join("0.log.1")).expect("rename");
    writer.reopen().expect("reopen");
    out.write_all(b"after\n").expect("write");
    writer.drain().await;
    assert_eq!(rig.lines("0.log.1"), ["stdout F before"]);
    assert_eq!(rig.lines("0.log"), ["stdout F after"]);
    ended(writer, &mut rig.pool).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_piece_that_was_drained_is_ended_with_its_stream() {
    let mut rig = Rig::new();
    let (writer, mut out, _err) = rig.start();
    out.write_all(b"half").expect("write");
    writer.drain().await;
    drop(out);
    ended(writer, &mut rig.pool).await;
    assert_eq!(rig.lines("0.log"), ["stdout P half", "stdout F "]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_writers_memory_serves_the_next() {
    let mut rig = Rig::new();
    for round in 0..3 {
        let (writer, mut out, _err) = rig.start();
        out.write_all(format!("{round}\n").as_bytes()).expect("write");
        ended(writer, &mut rig.pool).await;
        assert_eq!(rig.pool.0.len(), 1);
    }
    assert_eq!(rig.lines("0.log"), ["stdout F 0", "stdout F 1", "stdout F 2"]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_disk_is_counted_and_stalls_nobody() {
    let rig = Rig::new();
    let (stdout, out) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    let sources = Sources { stdout, stderr: None };
    let mut pool = Pool::default();
    let writer = LogWriter::start(&mut pool, &rig.path, sources).expect("a writer");
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    writer
        .slot
        .with_files(|files| coracle_sys::replace::replace_descriptor(&files.log, full.into()))
        .expect("files")
        .expect("swap");
    let mut out = fs::File::from(out);
    for _ in 0..100 {
        out.write_all(&[b'z'; 4096]).expect("the pipe is read");
    }
    writer.drain().await;
    assert!(writer.lost() >= 100 * 4096);
    ended(writer, &mut pool).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_log_that_cannot_be_written_is_refused_by_name() {
    let rig = Rig::new();
    for path in ["missing/0.log", "fifo", "link", "."] {
        let path = rig.directory.path().join(path);
        match path.file_name().and_then(|name| name.to_str()) {
            Some("fifo") => {
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &path, FileType::Fifo, mode, 0).expect("mkfifo");
            }
            Some("link") => std::os::unix::fs::symlink("/etc/passwd", &path).expect("symlink"),
            _ => {}
        }
        let error = open(&path).expect_err("refused").to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
