//! `save` and `load`: images to and from archives.

use std::fs::{File, Permissions};
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use coracle_proto::admin::{self, save_event};
use coracle_proto::client::{Client, ClientError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::images;
use crate::cli::{LoadArgs, SaveArgs, SaveFormat};
use crate::terminal::{self, Screen, Status, Trouble};

/// Bytes of an archive in one message.
const CHUNK: usize = 1 << 20;
/// Messages on their way.
const QUEUE: usize = 2;

/// Loads images: what has a name is read by the daemon where it lies, standard input is sent to it.
pub(crate) async fn load(client: &Client, args: &LoadArgs, screen: &Screen) -> anyhow::Result<()> {
    if args.input != Path::new("-") {
        return images::import(client, &args.input, screen).await;
    }
    if io::stdin().is_terminal() {
        return Err(Trouble::new("standard input is a terminal, not an archive")
            .next("coracle load -i FILE, or coracle load < FILE")
            .status(Status::Usage)
            .into());
    }
    let (sender, receiver) = mpsc::channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || -> io::Result<()> {
        let mut input = io::stdin().lock();
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            if input.by_ref().take(CHUNK as u64).read_to_end(&mut chunk)? == 0 {
                return Ok(());
            }
            if sender.blocking_send(admin::LoadRequest { chunk }).is_err() {
                // The daemon has ended the call and says why.
                return Ok(());
            }
        }
    });
    let reply = client.admin().load(ReceiverStream::new(receiver)).await;
    let images = reply
        .map_err(ClientError::of("Load"))
        .context("cannot load images from standard input")?;
    reading.await?.context("read standard input")?;
    let rows: Vec<_> = images.into_inner().images.into_iter().map(images::row).collect();
    screen.listing(&images::listing(rows.iter(), false, "it has no image".to_owned()))
}

/// Where an archive goes. What is not whole in the end goes away.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    Output,
    /// Written under another name first.
    File(PathBuf),
    /// A device, a pipe or a socket's other end: written to, never replaced.
    Stream(PathBuf),
    Directory(PathBuf),
}

/// Writes images to an archive.
pub(crate) async fn save(client: &Client, args: &SaveArgs, screen: &Screen) -> anyhow::Result<()> {
    let target = target(args)?;
    let mut names = Vec::with_capacity(args.images.len());
    for image in &args.images {
        names.push(images::known_name(client, image).await?);
    }
    let request = admin::SaveRequest {
        images: names,
        form: match args.format {
            SaveFormat::OciArchive | SaveFormat::OciDir => admin::ArchiveForm::Oci,
            SaveFormat::DockerArchive => admin::ArchiveForm::Docker,
        }
        .into(),
        offline: args.offline,
        credentials: images::credentials(args.username.as_deref())?,
    };
    let cannot = || Trouble::new(format!("cannot save {}", args.images.join(" ")));
    let reply = client.admin().save(request).await;
    let mut events = reply
        .map_err(ClientError::of("Save"))
        .with_context(cannot)?
        .into_inner();
    let (sender, receiver) = mpsc::channel(QUEUE);
    let writing = tokio::task::spawn_blocking(move || write(target, receiver));
    let received = async {
        while let Some(event) = events.message().await.map_err(ClientError::of("Save"))? {
            let chunk = match event.event {
                Some(save_event::Event::Chunk(chunk)) => chunk,
                Some(save_event::Event::Note(note)) => {
                    terminal::remark(note);
                    continue;
                }
                None => continue,
            };
            if sender.send(Ok(chunk)).await.is_err() {
                // The writer says why.
                break;
            }
        }
        anyhow::Ok(())
    };
    let received = received.await;
    if received.is_err() {
        // What was written so far is no archive; the writer may have ended already.
        let _ = sender.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
    }
    drop(sender);
    let written = writing.await?;
    received.with_context(cannot)?;
    written.with_context(|| format!("write {}", args.file.display()))?;
    if args.file != Path::new("-") {
        screen.done("saved", &args.file.to_string_lossy())?;
    }
    Ok(())
}

fn target(args: &SaveArgs) -> anyhow::Result<Target> {
    let usage = |what: String, next: &str| -> anyhow::Error {
        Trouble::new(what).next(next).status(Status::Usage).into()
    };
    let to_output = args.file == Path::new("-");
    if args.format == SaveFormat::OciDir {
        if to_output {
            return Err(usage(
                "a directory cannot be written to standard output".to_owned(),
                "name one with --file",
            ));
        }
        let empty = std::fs::read_dir(&args.file).map(|mut entries| entries.next().is_none());
        match empty {
            Ok(true) => {}
            Ok(false) => {
                return Err(usage(
                    format!("{} is not empty", args.file.display()),
                    "name another directory",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(usage(
                    format!("{}: {error}", args.file.display()),
                    "name another directory",
                ));
            }
        }
        return Ok(Target::Directory(args.file.clone()));
    }
    if to_output {
        if io::stdout().is_terminal() {
            return Err(usage(
                "standard output is a terminal".to_owned(),
                "coracle save IMAGE --file FILE, or coracle save IMAGE > FILE (-o is the form of what is printed)",
            ));
        }
        return Ok(Target::Output);
    }
    place(&args.file).map_err(|(what, next)| usage(format!("{} {what}", args.file.display()), next))
}

/// Where a file of that name is to be written: what links lead to is meant. Else what is wrong and what to do.
fn place(file: &Path) -> Result<Target, (&'static str, &'static str)> {
    // Followed by the kernel: the links of /proc (and so /dev/stdout) lead to what has no path.
    match std::fs::metadata(file) {
        Ok(found) if found.is_dir() => Err(("is a directory", "name a file, or give --format oci-dir")),
        Ok(found) if found.is_file() => Ok(match std::fs::canonicalize(file) {
            Ok(file) => Target::File(file),
            Err(_) => Target::Stream(file.to_owned()),
        }),
        Ok(_) => Ok(Target::Stream(file.to_owned())),
        Err(_) if file.is_symlink() => Err(("is a link that leads nowhere", "name the file itself")),
        Err(_) => Ok(Target::File(file.to_owned())),
    }
}

type Chunks = mpsc::Receiver<io::Result<Vec<u8>>>;

fn write(target: Target, mut chunks: Chunks) -> io::Result<()> {
    match target {
        Target::Output => pour(&mut chunks, &mut io::stdout().lock()),
        Target::File(whole) => {
            let directory = match whole.parent() {
                Some(directory) if directory != Path::new("") => directory,
                _ => Path::new("."),
            };
            // Of a name that nobody can have put a link at; gone unless it becomes the archive.
            let mut partial = tempfile::Builder::new()
                .prefix(".coracle-save-")
                .permissions(Permissions::from_mode(0o666))
                .tempfile_in(directory)?;
            pour(&mut chunks, partial.as_file_mut())?;
            partial.as_file().sync_all()?;
            partial.persist(&whole)?;
            Ok(())
        }
        Target::Stream(path) => pour(&mut chunks, &mut File::options().write(true).open(path)?),
        Target::Directory(directory) => {
            let source = Pieces {
                chunks,
                rest: io::Cursor::new(Vec::new()),
            };
            unpack(&directory, source)
        }
    }
}

fn pour(chunks: &mut Chunks, out: &mut impl Write) -> io::Result<()> {
    while let Some(chunk) = chunks.blocking_recv() {
        out.write_all(&chunk?)?;
    }
    out.flush()
}

/// The archive as a reader.
struct Pieces {
    chunks: Chunks,
    rest: io::Cursor<Vec<u8>>,
}

impl io::Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.rest.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            match self.chunks.blocking_recv() {
                Some(chunk) => self.rest = io::Cursor::new(chunk?),
                None => return Ok(0),
            }
        }
    }
}

/// A layout's files, which have plain names: anything else is not the daemon's.
fn unpack(directory: &Path, source: impl io::Read) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    let mut archive = tar::Archive::new(source);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || !entry.header().entry_type().is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{name:?} is no file of a layout"),
            ));
        }
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(directory))?;
        let mut file = File::create_new(path)?;
        io::copy(&mut entry, &mut file)?;
        file.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn links_are_followed_and_what_is_no_file_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::canonicalize(directory.path()).unwrap().join(name);
        std::fs::write(at("file"), "").unwrap();
        mknodat(CWD, at("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        for (link, target) in [("to-file", "file"), ("to-pipe", "pipe"), ("to-nothing", "none")] {
            symlink(target, at(link)).unwrap();
        }
        assert_eq!(place(&at("file")), Ok(Target::File(at("file"))));
        assert_eq!(place(&at("new")), Ok(Target::File(at("new"))));
        assert_eq!(place(&at("to-file")), Ok(Target::File(at("file"))));
        for stream in ["pipe", "to-pipe"] {
            assert_eq!(place(&at(stream)), Ok(Target::Stream(at(stream))));
        }
        let full = Path::new("/dev/full");
        assert_eq!(place(full), Ok(Target::Stream(full.to_owned())));
        // A pipe by a link of /proc, as /dev/stdout is one: it has no path.
        let (reader, _writer) = io::pipe().unwrap();
        let stdout = PathBuf::from(format!(
            "/proc/self/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&reader)
        ));
        assert_eq!(place(&stdout), Ok(Target::Stream(stdout.clone())));
        assert!(place(&at("to-nothing")).is_err() && place(directory.path()).is_err());
    }
}
