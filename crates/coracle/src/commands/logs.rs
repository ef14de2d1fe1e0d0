//! `logs`: reads a container's CRI log (`<time> <stream> <P|F> <text>` a line).

use std::collections::VecDeque;
use std::fs::Metadata;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{ContainerState, ContainerStatus, ContainerStatusRequest};
use coracle_types::{Kind, Kinded};
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncSeekExt, BufReader};

use super::find::Objects;
use super::reach::RETRY;
use crate::cli::LogsArgs;
use crate::terminal::{self, Screen};

/// How often a followed log is looked at: a person does not see a shorter pause.
const PAUSE: Duration = Duration::from_millis(100);

/// How a log is shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// With the time of each line.
    pub(crate) timestamps: bool,
}

/// Shows a log.
pub(crate) async fn show(client: &Client, args: &LogsArgs, screen: &Screen) -> anyhow::Result<()> {
    screen.has_one_form("what a container printed is shown as it is", &[])?;
    let container = Objects::load(client).await?.container(&args.object)?;
    let style = Style {
        timestamps: args.timestamps,
    };
    let status = status(client, &container.id).await?;
    if status.log_path.is_empty() {
        anyhow::bail!("container {} was made without a log", args.object);
    }
    let mut log = Log::open(Path::new(&status.log_path)).await?;
    match args.tail {
        None => log.show(style, !args.follow).await?,
        Some(count) => {
            let mut last = VecDeque::new();
            while let Some(line) = log.next(!args.follow).await? {
                last.push_back(line);
                if last.len() > count {
                    last.pop_front();
                }
            }
            last.iter().try_for_each(|line| print(line, style))?;
        }
    }
    if args.follow {
        follow_log(client, &container.id, log, style).await?;
    }
    Ok(())
}

/// Shows a log as it grows, until the container has ended; gives its status then.
pub(crate) async fn follow(client: &Client, id: &str, path: &Path) -> anyhow::Result<ContainerStatus> {
    follow_log(client, id, Log::open(path).await?, Style::default()).await
}

async fn follow_log(
    client: &Client,
    id: &str,
    mut log: Log,
    style: Style,
) -> anyhow::Result<ContainerStatus> {
    let mut away = false;
    loop {
        // Asked before the last read: what was written before the end is then still shown.
        let asked = match status(client, id).await {
            Err(error) if error.kind() == Kind::Unavailable => {
                if !away {
                    terminal::remark(format!("waits for the runtime; the container runs on: {error}"));
                }
                None
            }
            asked => Some(asked?),
        };
        away = asked.is_none();
        let ended = asked.filter(|status| status.state() == ContainerState::ContainerExited);
        log.show(style, ended.is_some()).await?;
        if let Some(status) = ended {
            return Ok(status);
        }
        tokio::time::sleep(if away { RETRY } else { PAUSE }).await;
    }
}

/// A log as it grows, over rotations: whoever rotates it renames the file and has another opened in its place.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    reader: BufReader<File>,
    /// What was read of a record whose end is not written yet.
    begun: Vec<u8>,
    /// At the last look another file stood in its place.
    replaced: bool,
}

impl Log {
    /// Opens it.
    pub(super) async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await.map_err(|error| {
            let words = format!("open the log {}: {error}", path.display());
            io::Error::new(error.kind(), words)
        })?;
        Ok(Self {
            path: path.to_owned(),
            reader: BufReader::new(file),
            begun: Vec::new(),
            replaced: false,
        })
    }

    /// The next line with its end; `None` when there is none now. At the last look nothing is left for the next.
    pub(super) async fn next(&mut self, last: bool) -> io::Result<Option<Vec<u8>>> {
        loop {
            if !self.begun.ends_with(b"\n") {
                self.reader.read_until(b'\n', &mut self.begun).await?;
            }
            if self.begun.ends_with(b"\n") {
                return Ok(Some(std::mem::take(&mut self.begun)));
            }
            if !self.turn(last).await? {
                let rest = last && !self.begun.is_empty();
                return Ok(rest.then(|| std::mem::take(&mut self.begun)));
            }
        }
    }

    /// Goes on with the file that stands in the old one's place, if there is one.
    async fn turn(&mut self, last: bool) -> io::Result<bool> {
        let own = self.reader.get_ref().metadata().await?;
        let same = |other: &Metadata| (other.dev(), other.ino()) == (own.dev(), own.ino());
        let Some(_) = tokio::fs::metadata(&self.path)
            .await
            .ok()
            .filter(|other| !same(other))
        else {
            self.replaced = false;
            // Whoever has copied it may have cut it off in place: it begins anew.
            if own.len() < self.reader.stream_position().await? {
                self.reader.rewind().await?;
                self.begun.clear();
                return Ok(own.len() > 0);
            }
            return Ok(false);
        };
        // The last words may still be on their way into the old file: it is read once more.
        if !self.replaced && !last {
            self.replaced = true;
            return Ok(false);
        }
        // Gone again meanwhile: the next look finds what comes in its place.
        let Ok(file) = File::open(&self.path).await else {
            return Ok(false);
        };
        self.reader = BufReader::new(file);
        self.replaced = false;
        if !self.begun.is_empty() {
            self.begun.push(b'\n');
        }
        Ok(true)
    }

    async fn show(&mut self, style: Style, last: bool) -> io::Result<()> {
        while let Some(line) = self.next(last).await? {
            print(&line, style)?;
        }
        Ok(())
    }
}

/// A container's status.
pub(crate) async fn status(client: &Client, id: &str) -> Result<ContainerStatus, ClientError> {
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

#[cfg(test)]
mod tests {
    use std::fs::{OpenOptions, rename, write};

    use super::*;

    async fn all(log: &mut Log, last: bool) -> String {
        let mut text = Vec::new();
        while let Some(line) = log.next(last).await.unwrap() {
            text.extend(line);
        }
        String::from_utf8(text).unwrap()
    }

    fn append(path: &Path, text: &str) {
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    #[tokio::test]
    async fn a_log_that_is_cut_off_in_place_begins_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        write(&path, "a\nb\nc\nhalf").unwrap();
        let mut log = Log::open(&path).await.unwrap();
        assert_eq!(all(&mut log, false).await, "a\nb\nc\n");
        write(&path, "").unwrap();
        assert_eq!(all(&mut log, false).await, "");
        append(&path, "d\n");
        assert_eq!(all(&mut log, false).await, "d\n");
    }

    #[tokio::test]
    async fn a_log_is_followed_over_rotations_and_loses_no_line() {
        let directory = tempfile::tempdir().unwrap();
        let (path, old) = (directory.path().join("0.log"), directory.path().join("0.log.old"));
        write(&path, "a\nb").unwrap();
        let mut log = Log::open(&path).await.unwrap();
        assert_eq!(
            all(&mut log, false).await,
            "a\n",
            "half a record waits for its end"
        );
        append(&path, "b\n");
        assert_eq!(all(&mut log, false).await, "bb\n");
        rename(&path, &old).unwrap();
        append(&old, "c\n");
        assert_eq!(all(&mut log, false).await, "c\n");
        write(&path, "e\n").unwrap();
        assert_eq!(all(&mut log, false).await, "", "last words may be on their way");
        append(&old, "d\n");
        assert_eq!(all(&mut log, false).await, "d\ne\n");
        append(&path, "f\n");
        assert_eq!(all(&mut log, false).await, "f\n");
        rename(&path, &old).unwrap();
        append(&old, "g");
        write(&path, "h\ni").unwrap();
        assert_eq!(all(&mut log, true).await, "g\nh\ni", "at the end nothing is left");
    }
}
