//! Commands in containers whose output is kept.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_proto::shim_ext::{CancelExecRequest, ExecCaptureRequest, exec_capture_event};
use coracle_types::{ContainerId, ExecId, Kind};
use tokio::time::timeout;

use crate::error::Error;
use crate::patience::Limit;
use crate::requests::{ExecOutput, ExecSync};
use crate::shim::{Shim, nanos, unbounded};

/// ttrpc takes messages of 4 MiB, and a process may have 6 MiB of arguments and environment.
const LARGE: usize = 1 << 20;
/// How long a command may be silent before the shim is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(30);

impl Shim {
    /// Runs a process in a container until it ends and keeps what it prints. Whoever drops the future has
    /// the process killed, with its whole tree.
    ///
    /// # Errors
    /// `DeadlineExceeded` when it was killed at its deadline, with its whole process tree.
    pub async fn exec_sync(&self, id: &ContainerId, exec: ExecSync) -> Result<ExecOutput, Error> {
        use exec_capture_event::Event;

        let of = Error::of("ExecCapture");
        let process = serde_json::to_vec(&exec.process).map_err(|source| Error::Encode {
            call: "ExecCapture",
            source,
        })?;
        let exec_id = ExecId::generate();
        let mut request = ExecCaptureRequest::new();
        request.container_id = id.to_string();
        let mut file = if process.len() > LARGE {
            let file = ProcessFile::write(&self.0.state_dir, &exec_id, &process)?;
            request.process_file = file.0.display().to_string();
            Some(file)
        } else {
            request.process = process;
            None
        };
        request.timeout_nanos = exec.timeout.map_or(0, nanos);
        request.limit = exec.limit as u64;
        request.exec_id = exec_id.to_string();
        let mut abandoned = Abandoned {
            shim: Some(self.clone()),
            container: id.clone(),
            exec: exec_id,
        };
        let mut events = self
            .0
            .extension
            .exec_capture(unbounded(), &request)
            .await
            .map_err(&of)?;
        let mut output = ExecOutput::default();
        loop {
            let event = match timeout(SILENCE, events.recv()).await {
                Ok(event) => event,
                Err(_) => {
                    self.ping(Limit::Call).await?;
                    continue;
                }
            };
            // It has been read by now.
            file.take();
            match event
                .inspect_err(|_| abandoned.is_over())
                .map_err(&of)?
                .and_then(|event| event.event)
            {
                Some(Event::Stdout(bytes)) => output.stdout.extend_from_slice(&bytes),
                Some(Event::Stderr(bytes)) => output.stderr.extend_from_slice(&bytes),
                Some(Event::End(end)) => {
                    abandoned.is_over();
                    output.code = end.code;
                    return Ok(output);
                }
                _ => break,
            }
        }
        abandoned.is_over();
        Err(Error::Call {
            call: "ExecCapture",
            kind: Kind::Unavailable,
            message: "the shim ended the stream without the process's end".to_owned(),
        })
    }
}

/// A process that no message can hold, on tmpfs until the shim has read it.
struct ProcessFile(PathBuf);

impl ProcessFile {
    fn write(directory: &Path, exec: &ExecId, process: &[u8]) -> Result<Self, Error> {
        let file = Self(directory.join(format!("exec-{exec}.json")));
        let written = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&file.0)
            .and_then(|mut open| open.write_all(process));
        match written {
            Ok(()) => Ok(file),
            Err(source) => Err(Error::ProcessFile {
                path: file.0.clone(),
                source,
            }),
        }
    }
}

impl Drop for ProcessFile {
    fn drop(&mut self) {
        // The pod's directory goes with the pod, and this with it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Has an exec killed when it is dropped before that is over: nobody waits for it any more.
struct Abandoned {
    shim: Option<Shim>,
    container: ContainerId,
    exec: ExecId,
}

impl Abandoned {
    fn is_over(&mut self) {
        self.shim = None;
    }
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        let (Some(shim), Ok(runtime)) = (self.shim.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let mut request = CancelExecRequest::new();
        request.container_id = self.container.to_string();
        request.exec_id = self.exec.to_string();
        runtime.spawn(async move {
            let cancel = shim.0.extension.cancel_exec(unbounded(), &request);
            if let Err(error) = shim.answered("CancelExec", Limit::Call, cancel).await {
                tracing::warn!(?shim, %error, "an exec that nobody waits for runs on");
            }
        });
    }
}
