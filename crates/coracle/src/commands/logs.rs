//! `logs`: reads a container's CRI log (`<time> <stream> <P|F> <text>` a line).

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{ContainerState, ContainerStatus, ContainerStatusRequest};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::find::Objects;
use crate::cli::LogsArgs;

/// How often a followed log is looked at: a person does not see a shorter pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How a log is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// With the time of each line.
    pub(crate) timestamps: bool,
    /// Only the last lines.
    pub(crate) tail: Option<usize>,
}

/// Shows a log.
pub(crate) async fn show(client: &Client, args: &LogsArgs) -> anyhow::Result<()> {
    let container = Objects::load(client).await?.container(&args.object)?;
    let style = Style {
        timestamps: args.timestamps,
        tail: args.tail,
    };
    let status = status(client, &container.id).await?;
    if status.log_path.is_empty() {
        anyhow::bail!("container {} was made without a log", args.object);
    }
    let file = File::open(&status.log_path)
        .await
        .with_context(|| format!("open the log {}", status.log_path))?;
    let mut reader = BufReader::new(file);
    let mut lines = Vec::new();
    while let Some(line) = next(&mut reader).await? {
        lines.push(line);
        if style.tail.is_some_and(|tail| lines.len() > tail.max(1) * 2) {
            lines.drain(..lines.len() - style.tail.unwrap_or_default());
        }
    }
    let from = lines.len().saturating_sub(style.tail.unwrap_or(usize::MAX));
    for line in &lines[from..] {
        print(line, style)?;
    }
    if args.follow {
        follow_reader(client, &container.id, reader, style).await?;
    }
    Ok(())
}

/// Shows a log as it grows, until the container has ended; gives its status then.
pub(crate) async fn follow(client: &Client, id: &str, path: &Path) -> anyhow::Result<ContainerStatus> {
    let file = File::open(path)
        .await
        .with_context(|| format!("open the log {}", path.display()))?;
    follow_reader(client, id, BufReader::new(file), Style::default()).await
}

async fn follow_reader(
    client: &Client,
    id: &str,
    mut reader: BufReader<File>,
    style: Style,
) -> anyhow::Result<ContainerStatus> {
    loop {
        // Asked before the last read: what was written before the end is then still shown.
        let status = status(client, id).await?;
        while let Some(line) = next(&mut reader).await? {
            print(&line, style)?;
        }
        if status.state() == ContainerState::ContainerExited {
            return Ok(status);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A container's status.
pub(crate) async fn status(client: &Client, id: &str) -> anyhow::Result<ContainerStatus> {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: false,
    };
    let reply = client
        .runtime()
        .container_status(request)
        .await
        .map_err(ClientError::of("ContainerStatus"))?;
    Ok(reply.into_inner().status.unwrap_or_default())
}

async fn next(reader: &mut BufReader<File>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    Ok((reader.read_until(b'\n', &mut line).await? > 0).then_some(line))
}

fn print(line: &[u8], style: Style) -> io::Result<()> {
    let mut fields = line.splitn(4, |byte| *byte == b' ');
    let (Some(time), Some(stream), Some(tag), Some(text)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return io::stdout().write_all(line);
    };
    // A partial line goes on in the next record.
    let text = if tag == b"P" {
        text.strip_suffix(b"\n").unwrap_or(text)
    } else {
        text
    };
    let write = |mut to: Box<dyn Write>| {
        if style.timestamps {
            to.write_all(time)?;
            to.write_all(b" ")?;
        }
        to.write_all(text)?;
        to.flush()
    };
    if stream == b"stderr" {
        write(Box::new(io::stderr()))
    } else {
        write(Box::new(io::stdout()))
    }
}
