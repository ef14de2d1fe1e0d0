//! The daemon's socket: whether it answers, what it says of itself, who may use it.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::State::{Broken, Costs, Unknown};
use crate::{Daemon, Finding, Subject, Topic};

/// `sun_path` holds 108 bytes with its terminating zero (unix(7)).
const LONGEST: usize = 107;

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut findings = vec![daemon(subject)];
    if let Daemon::Answers { conditions, .. } = &subject.daemon {
        findings.extend(conditions.iter().map(|condition| {
            let name = match condition.name.as_str() {
                "RuntimeReady" => "takes pods",
                "NetworkReady" => "has a network",
                _ => "condition",
            };
            let holds = if condition.holds { "yes" } else { "no" };
            finding(name, format!("{holds} ({})", condition.name)).unless(
                condition.holds,
                Broken,
                condition.message.clone(),
                "see the daemon's log: journalctl -u coracle",
            )
        }));
    }
    findings.extend([permissions(subject), length(subject)]);
    findings
}

fn finding(name: &'static str, seen: impl Into<String>) -> Finding {
    Finding::ok(Topic::Sockets, name, seen)
}

fn daemon(subject: &Subject) -> Finding {
    match &subject.daemon {
        Daemon::Answers { version, .. } => finding(
            "daemon",
            format!("{version} answers at {}", subject.socket.display()),
        ),
        Daemon::Refused => finding("daemon", "this user may not use its socket").but(
            Unknown,
            "whether it answers is not seen from here",
            match subject
                .configuration
                .as_ref()
                .map(|one| one.socket_group.as_str())
            {
                None | Some("") => "run this as root".to_owned(),
                Some(group) => format!("run this as root, or join the group: usermod -aG {group} USER"),
            },
        ),
        Daemon::Silent(words) => finding("daemon", words.clone()).but(
            Costs,
            "no pod can be started or stopped; those that run go on",
            "start it: systemctl start coracle, or as root: coracle serve",
        ),
        Daemon::Hangs(words) => finding("daemon", words.clone()).but(
            Broken,
            "no pod can be started or stopped; those that run go on",
            "start it again, pods run on: systemctl restart coracle, or end it with SIGKILL and, as root: coracle serve",
        ),
    }
}

fn permissions(subject: &Subject) -> Finding {
    const NAME: &str = "who may use it";
    let meta = match std::fs::metadata(subject.path(&subject.socket)) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return finding(NAME, "root, and who may pass through its directory");
        }
        Err(_) => return finding(NAME, "no socket yet"),
    };
    let mode = meta.permissions().mode() & 0o7777;
    let seen = format!(
        "user {}, group {}, mode {mode:04o}",
        named(subject, "/etc/passwd", meta.uid()),
        named(subject, "/etc/group", meta.gid())
    );
    finding(NAME, seen).unless(
        mode & 0o006 == 0,
        Broken,
        "every user of this node may start privileged pods, and so become root",
        format!(
            "chmod o-rw {}; set socket_mode in the configuration",
            subject.socket.display()
        ),
    )
}

fn length(subject: &Subject) -> Finding {
    let length = subject.socket.as_os_str().len();
    finding("length of its path", format!("{length} of {LONGEST} bytes")).unless(
        length <= LONGEST,
        Broken,
        "nobody can listen or connect there",
        "name a shorter one with --socket",
    )
}

/// The name that a file of users or groups gives an id; the id itself when it gives none.
fn named(subject: &Subject, file: &str, id: u32) -> String {
    let text = subject.text(file).unwrap_or_default();
    let name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| id.to_string())
}
