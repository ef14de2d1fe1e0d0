//! Where a process reads and writes: parsed from shim v2's URIs, opened, handed over.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use coracle_container::Stdio;
use coracle_proto::shim_ext::{LOG_SCHEME, STDIN_PIPE};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::Error;
use crate::log::Sources;

/// One end of a process's input or output as shim v2 spells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stream {
    /// `/dev/null`.
    Null,
    /// A CRI log at this path.
    Log(PathBuf),
    /// A pipe whose other end the shim keeps.
    Pipe,
    /// A FIFO or file of the client's, handed to the process as it is.
    Path(PathBuf),
}

impl Stream {
    pub(crate) fn parse(field: &'static str, uri: &str) -> Result<Self, Error> {
        if uri.is_empty() {
            return Ok(Self::Null);
        }
        if uri == STDIN_PIPE {
            return Ok(Self::Pipe);
        }
        let (log, path) = match uri.strip_prefix(LOG_SCHEME) {
            Some(path) => (true, path),
            None => (
                false,
                uri.strip_prefix("file://")
                    .or(uri.strip_prefix("fifo://"))
                    .unwrap_or(uri),
            ),
        };
        if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
            return Err(Error::field(field, uri, "give an absolute path without `..`"));
        }
        Ok(if log {
            Self::Log(path.into())
        } else {
            Self::Path(path.into())
        })
    }

    pub(crate) fn log(&self) -> Option<&Path> {
        match self {
            Self::Log(path) => Some(path),
            _ => None,
        }
    }
}

/// The three streams of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Streams {
    pub(crate) stdin: Stream,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
}

/// The shim's ends and the process's.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) process: Stdio,
    /// To be copied into the log.
    pub(crate) sources: Option<Sources>,
    /// Writing end of standard input.
    pub(crate) stdin: Option<OwnedFd>,
}

impl Streams {
    pub(crate) fn parse(stdin: &str, stdout: &str, stderr: &str) -> Result<Self, Error> {
        let streams = Self {
            stdin: Stream::parse("stdin", stdin)?,
            stdout: Stream::parse("stdout", stdout)?,
            stderr: Stream::parse("stderr", stderr)?,
        };
        match (streams.stdout.log(), streams.stderr.log()) {
            (Some(out), Some(err)) if out != err => Err(Error::field(
                "stderr",
                stderr,
                "a CRI log takes both streams in one file: give stdout's",
            )),
            (None, Some(_)) => Err(Error::field(
                "stderr",
                stderr,
                "a CRI log takes standard output too",
            )),
            _ => Ok(streams),
        }
    }

    /// The CRI log that is wanted.
    pub(crate) fn log(&self) -> Option<&Path> {
        self.stdout.log()
    }

    pub(crate) fn open(&self) -> Result<Opened, Error> {
        let (stdin, kept) = match &self.stdin {
            Stream::Pipe => {
                let (read, write) = pipe()?;
                (read, Some(write))
            }
            Stream::Path(path) => (open_client(path, OFlags::RDONLY)?, None),
            Stream::Null | Stream::Log(_) => (null()?, None),
        };
        let (stdout, copied_out) = output(&self.stdout)?;
        let (stderr, copied_err) = match &self.stderr {
            Stream::Null if copied_out.is_some() => output(&self.stdout)?,
            other => output(other)?,
        };
        let sources = copied_out.map(|stdout| Sources {
            stdout,
            stderr: copied_err,
        });
        Ok(Opened {
            process: Stdio {
                stdin,
                stdout,
                stderr,
            },
            sources,
            stdin: kept,
        })
    }
}

fn output(stream: &Stream) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    match stream {
        Stream::Log(_) | Stream::Pipe => {
            let (read, write) = pipe()?;
            Ok((write, Some(read)))
        }
        // Opened for both ways: a FIFO whose reader is away blocks its writer instead of killing it.
        Stream::Path(path) => Ok((open_client(path, OFlags::RDWR | OFlags::APPEND)?, None)),
        Stream::Null => Ok((null()?, None)),
    }
}

/// Reading and writing end, close-on-exec.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(Error::system("make a pipe"))
}

pub(crate) fn null() -> Result<OwnedFd, Error> {
    let null = File::options().read(true).write(true).open("/dev/null");
    Ok(null.map_err(Error::file("open", "/dev/null"))?.into())
}

/// Opens without waiting for the other end, then blocks as a process expects.
fn open_client(path: &Path, access: OFlags) -> Result<OwnedFd, Error> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(Error::file("open", path))?;
    let kind = FileType::from_raw_mode(
        rustix::fs::fstat(&opened)
            .map_err(Error::file("stat", path))?
            .st_mode,
    );
    if !matches!(kind, FileType::Fifo | FileType::RegularFile) {
        let text = path.display().to_string();
        return Err(Error::field(
            "stdin, stdout or stderr",
            &text,
            "it is neither a FIFO nor a file",
        ));
    }
    let flags = rustix::fs::fcntl_getfl(&opened).map_err(Error::file("fcntl", path))?;
    rustix::fs::fcntl_setfl(&opened, flags - OFlags::NONBLOCK).map_err(Error::file("fcntl", path))?;
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_told_apart() {
        for (uri, stream) in [
            ("", Stream::Null),
            ("coracle-pipe:", Stream::Pipe),
            ("cri-log:///var/log/0.log", Stream::Log("/var/log/0.log".into())),
            ("/run/fifo", Stream::Path("/run/fifo".into())),
            ("file:///tmp/x", Stream::Path("/tmp/x".into())),
        ] {
            assert_eq!(Stream::parse("stdout", uri).expect("parsed"), stream);
        }
        for bad in ["relative", "cri-log://relative", "/a/../b", "binary:///bin/sh"] {
            assert!(Stream::parse("stdout", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_log_takes_both_streams() {
        assert!(Streams::parse("", "cri-log:///a", "cri-log:///b").is_err());
        assert!(Streams::parse("", "", "cri-log:///b").is_err());
        let streams = Streams::parse("", "cri-log:///a", "cri-log:///a").expect("one log");
        let opened = streams.open().expect("opened");
        assert!(opened.sources.is_some_and(|sources| sources.stderr.is_some()) && opened.stdin.is_none());
    }
}
