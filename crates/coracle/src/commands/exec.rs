//! `exec`: ExecSync, with the command's own exit code.

use std::io::Write;
use std::process::ExitCode;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::ExecSyncRequest;
use coracle_types::{Kind, Kinded};
use serde::Serialize;

use super::config;
use super::find::Objects;
use crate::cli::{ExecArgs, Output};
use crate::terminal::{self, Screen, Trouble};

/// Bytes of output from which on it is asked whether all of it came.
const WORTH_ASKING: usize = 4096;

#[derive(Serialize)]
struct Outcome<'a> {
    exit_code: i32,
    stdout: std::borrow::Cow<'a, str>,
    stderr: std::borrow::Cow<'a, str>,
}

/// Runs the command and ends as it ended.
pub(crate) async fn run(client: &Client, args: &ExecArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let container = Objects::load(client).await?.container(&args.object)?;
    let request = ExecSyncRequest {
        container_id: container.id,
        cmd: args.command.clone(),
        timeout: i64::from(args.timeout),
    };
    let reply = client
        .runtime()
        .exec_sync(request)
        .await
        .map_err(ClientError::of("ExecSync"));
    let reply = reply
        .map_err(|error| {
            let words = format!("cannot run {:?} in container {}", args.command[0], args.object);
            let mut trouble = Trouble::new(words);
            if error.kind() == Kind::NotFound {
                let next = format!("what is there: coracle exec {} -- ls /bin", args.object);
                trouble = trouble.next(next);
            }
            anyhow::Error::new(error).context(trouble)
        })?
        .into_inner();
    let longest = reply.stdout.len().max(reply.stderr.len());
    if longest >= WORTH_ASKING && config::max_exec_output(client).await == u64::try_from(longest).ok() {
        terminal::remark(format!(
            "its output reached exec.max_output, {longest} bytes: what came beyond is lost; have it write less, or to a file"
        ));
    }
    if matches!(screen.output, Output::Json | Output::Yaml) {
        screen.value(&Outcome {
            exit_code: reply.exit_code,
            stdout: String::from_utf8_lossy(&reply.stdout),
            stderr: String::from_utf8_lossy(&reply.stderr),
        })?;
    } else {
        std::io::stdout().write_all(&reply.stdout)?;
        std::io::stderr().write_all(&reply.stderr)?;
    }
    Ok(exit_code(reply.exit_code))
}

/// A process's exit code as ours.
pub(crate) fn exit_code(code: i32) -> ExitCode {
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}
