//! The way to a runtime, and words for when there is none: which socket, why not, and what to do.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::VersionRequest;
use coracle_types::{Kind, Kinded};
use rustix::io::Errno;

use crate::cli::DEFAULT_SOCKET;
use crate::config::{Loaded, Sources};
use crate::terminal::{Status, Trouble};

/// Where runtimes of other houses listen.
const OTHERS: [(&str, &str); 3] = [
    ("containerd", "/run/containerd/containerd.sock"),
    ("CRI-O", "/run/crio/crio.sock"),
    ("cri-dockerd", "/run/cri-dockerd.sock"),
];
const UNITS: [&str; 3] = [
    "/etc/systemd/system/coracle.service",
    "/usr/lib/systemd/system/coracle.service",
    "/lib/systemd/system/coracle.service",
];

/// How long to wait before a runtime is asked again that did not answer; its daemon may be starting.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How long who wants the end at once waits for one that does not answer.
pub(super) const GIVE_UP: Duration = Duration::from_secs(10);

/// A runtime that takes connections and says nothing for so long hangs: even one that is busy answers what it is called.
const SILENCE: Duration = Duration::from_secs(15);

/// A connection to the runtime on `socket`.
pub(crate) async fn connect(socket: &Path) -> anyhow::Result<Client> {
    match Client::connect(socket).await {
        Ok(client) => heard(client, SILENCE).await,
        Err(error) => {
            let trouble = explain(socket, &error);
            Err(anyhow::Error::new(error).context(trouble))
        }
    }
}

/// The same where a command can do without; `None` when nobody listens there. Any other failure is one.
pub(crate) async fn daemon(socket: &Path) -> anyhow::Result<Option<Client>> {
    match Client::connect(socket).await {
        Ok(client) => heard(client, SILENCE).await.map(Some),
        Err(error) if is_absent(socket, &error) => Ok(None),
        Err(error) => {
            let trouble = explain(socket, &error);
            Err(anyhow::Error::new(error).context(trouble))
        }
    }
}

/// The same client once its runtime has said anything.
async fn heard(client: Client, limit: Duration) -> anyhow::Result<Client> {
    let mut runtime = client.runtime();
    let asked = runtime.version(VersionRequest::default());
    if tokio::time::timeout(limit, asked).await.is_ok() {
        return Ok(client);
    }
    let mut trouble = Trouble::new(format!(
        "the runtime at {} takes connections and did not answer within {} s",
        client.socket().display(),
        limit.as_secs()
    ));
    let is_service = client.socket() == Path::new(DEFAULT_SOCKET);
    if is_service && UNITS.iter().any(|unit| Path::new(unit).exists()) {
        trouble = trouble
            .next("start it again, pods run on: systemctl restart coracle")
            .next("what it did last: journalctl -u coracle -e");
    } else {
        trouble = trouble.next("end its process with SIGKILL and start it again: pods run on");
    }
    Err(trouble.status(Status::Unreachable).into())
}

/// Whether the runtime did not answer, which says nothing of what it was asked about.
pub(super) fn is_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let call = cause.downcast_ref::<ClientError>();
        call.is_some_and(|error| error.kind() == Kind::Unavailable)
    })
}

/// Whether there is no socket, or one on which nobody listens any more.
fn is_absent(socket: &Path, error: &ClientError) -> bool {
    let ClientError::Connect { reason, .. } = error else {
        return false;
    };
    let is = |errno: Errno| *reason == std::io::Error::from(errno).to_string();
    // The kernel refuses a connection to a file that is no socket in the same words.
    let no_socket = || std::fs::metadata(socket).is_ok_and(|found| !found.file_type().is_socket());
    is(Errno::NOENT) || (is(Errno::CONNREFUSED) && !no_socket())
}

fn explain(socket: &Path, error: &ClientError) -> Trouble {
    let at = socket.display();
    if error.kind() == Kind::InvalidArgument {
        return Trouble::new(format!("--socket {at} cannot be a socket"))
            .next("name a shorter path, in UTF-8")
            .status(Status::Usage);
    }
    let trouble = match std::fs::metadata(socket) {
        Err(seen) if seen.kind() == ErrorKind::PermissionDenied => refused(socket),
        Err(_) => elsewhere(start(Trouble::new(format!(
            "no daemon runs: there is no socket {at}"
        )))),
        Ok(meta) if !meta.file_type().is_socket() => {
            Trouble::new(format!("{at} is no socket")).next("name the runtime's socket with --socket")
        }
        Ok(_) if error.kind() == Kind::PermissionDenied => refused(socket),
        Ok(_) => start(Trouble::new(format!(
            "no daemon runs: the socket {at} is there, but nobody listens on it"
        ))),
    };
    trouble.status(Status::Unreachable)
}

/// How the daemon is started here.
fn start(trouble: Trouble) -> Trouble {
    let (_, mistakes) = Loaded::read_what_can_be(&Sources::of_node());
    let trouble = match mistakes.len() {
        0 => trouble,
        1 => trouble.next("mend its configuration, which has a mistake: coracle config check"),
        count => trouble.next(format!(
            "mend its configuration, which has {count} mistakes: coracle config check"
        )),
    };
    if UNITS.iter().any(|unit| Path::new(unit).exists()) {
        trouble
            .next("start it: systemctl start coracle")
            .next("why it does not run: systemctl status coracle; journalctl -u coracle -e")
    } else {
        trouble.next("start it, as root: coracle serve")
    }
}

/// Runtimes that are there instead: the node's own daemon where it was configured, then others.
fn elsewhere(trouble: Trouble) -> Trouble {
    let (loaded, _) = Loaded::read_what_can_be(&Sources::of_node());
    let configured = loaded.config.socket;
    let own = [configured, DEFAULT_SOCKET.into()].map(|path| ("coracle", path));
    let others = OTHERS.map(|(name, path)| (name, PathBuf::from(path)));
    let mut there: Vec<_> = own
        .into_iter()
        .chain(others)
        .filter(|(_, path)| path.exists())
        .collect();
    there.dedup();
    there.into_iter().fold(trouble, |trouble, (name, path)| {
        trouble.next(format!(
            "or speak to {name}, whose socket is there: --socket {}",
            path.display()
        ))
    })
}

/// Whose it is, who asks, and how the two come together.
fn refused(socket: &Path) -> Trouble {
    let mut barrier: PathBuf = socket.to_owned();
    // The first directory on the way that may not be entered hides all that follows.
    for ancestor in socket.ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
        if std::fs::metadata(ancestor.join(".")).is_err() {
            barrier = ancestor.to_owned();
            break;
        }
    }
    let user = rustix::process::geteuid().as_raw();
    let mut trouble = Trouble::new(format!(
        "user {} may not use the socket {}",
        name_of("/etc/passwd", user),
        socket.display()
    ));
    if let Ok(meta) = std::fs::metadata(&barrier) {
        let group = name_of("/etc/group", meta.gid());
        let mode = meta.permissions().mode() & 0o7777;
        let owner = name_of("/etc/passwd", meta.uid());
        trouble = trouble.next(format!(
            "{} belongs to {owner}:{group} with mode {mode:04o}: run this as root (sudo)",
            barrier.display()
        ));
        if mode & 0o070 != 0 && group != "root" {
            trouble = trouble.next(format!(
                "or have root make you a member of the group, and log in anew: usermod -aG {group} {}",
                name_of("/etc/passwd", user)
            ));
        }
    }
    trouble
}

/// The name that a file of users or groups gives an id; the id itself when it gives none.
fn name_of(file: &str, id: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let named = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| id.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::{lines, status_of};

    async fn said(socket: &Path) -> (String, Status) {
        let error = connect(socket).await.expect_err("nobody listens here");
        let lines = lines(&error);
        let words: Vec<_> = lines
            .iter()
            .map(|(word, text)| format!("{word}: {text}"))
            .collect();
        (words.join("\n"), status_of(&error))
    }

    #[tokio::test]
    async fn only_a_socket_that_is_missing_or_dead_means_that_there_is_no_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(at("dead.sock")).unwrap());
        std::fs::write(at("file"), "").unwrap();
        for absent in [at("none.sock"), at("none/none.sock"), at("dead.sock")] {
            assert!(daemon(&absent).await.unwrap().is_none(), "{absent:?}");
        }
        for wrong in [at("file"), at("file/below.sock"), at(&"x".repeat(120))] {
            assert!(daemon(&wrong).await.is_err(), "{wrong:?}");
        }
        let denied = |reason: &str| ClientError::Connect {
            socket: at("dead.sock"),
            reason: reason.to_owned(),
            kind: Kind::PermissionDenied,
        };
        assert!(!is_absent(
            &at("dead.sock"),
            &denied("Permission denied (os error 13)")
        ));
    }

    #[tokio::test]
    async fn a_runtime_that_hangs_is_told_from_one_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let silent = directory.path().join("silent.sock");
        let _listens = std::os::unix::net::UnixListener::bind(&silent).unwrap();
        let client = Client::connect(&silent).await.unwrap();
        let error = heard(client, Duration::from_millis(50)).await.unwrap_err();
        let words = format!("{:?}", lines(&error));
        assert!(
            words.contains("did not answer") && words.contains("pods run on"),
            "{words}"
        );
        assert_eq!(status_of(&error), Status::Unreachable);
    }

    #[tokio::test]
    async fn the_socket_the_cause_and_the_next_step_are_told() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none.sock");
        let (words, status) = said(&missing).await;
        assert!(
            words.contains("there is no socket") && words.contains("next: start it"),
            "{words}"
        );
        assert_eq!(status, Status::Unreachable);
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(said(&file).await.0.contains("is no socket"));
        let dead = directory.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let (words, _) = said(&dead).await;
        assert!(
            words.contains("nobody listens") && words.contains("refused"),
            "{words}"
        );
        let (words, status) = said(&directory.path().join("x".repeat(120))).await;
        assert!(words.contains("cannot be a socket"), "{words}");
        assert_eq!(status, Status::Usage);
    }
}
