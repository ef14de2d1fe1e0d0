//! What went wrong: the object, the cause, the next step, and the exit status.

use std::fmt;
use std::process::ExitCode;

use coracle_proto::client::ClientError;
use coracle_types::{Kind, Kinded};

use super::tone::{Tone, clean};

/// How the program ends. Stands in `coracle --help` too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It could not be done, or something broken was found.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No runtime answers on the socket, or it may not be used.
    Unreachable = 3,
    /// There is no such object.
    NotFound = 4,
    /// A name means several objects.
    Ambiguous = 5,
    /// `run` or `exec` could not run what they were told to.
    NotRun = 125,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Words about a failure for a person: laid around its cause as `anyhow` context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    what: String,
    next: Vec<String>,
    status: Option<Status>,
}

impl Trouble {
    /// What could not be done, to which object.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            next: Vec::new(),
            status: None,
        }
    }

    /// What to do now; may be said several times.
    #[must_use]
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next.push(step.into());
        self
    }

    /// Whether the program ends so.
    pub(crate) fn is(&self, status: Status) -> bool {
        self.status == Some(status)
    }

    /// How the program ends; otherwise by the cause.
    #[must_use]
    pub(crate) fn status(mut self, status: Status) -> Self {
        self.status = Some(status);
        self
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Trouble {}

/// How a command ends that failed so.
pub(crate) fn status_of(error: &anyhow::Error) -> Status {
    if let Some(status) = error.downcast_ref::<Trouble>().and_then(|trouble| trouble.status) {
        return status;
    }
    let Some(error) = error.downcast_ref::<ClientError>() else {
        return Status::Failed;
    };
    match (error, error.kind()) {
        (_, Kind::Unavailable) => Status::Unreachable,
        // What a registry denies has nothing to do with the socket.
        (ClientError::Connect { .. }, Kind::PermissionDenied) => Status::Unreachable,
        (_, Kind::NotFound) => Status::NotFound,
        _ => Status::Failed,
    }
}

/// What was not said, by the sort of the cause.
fn advice(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::NotFound => {
            Some("`coracle ps --all`, `coracle pods --all` and `coracle images` show what there is")
        }
        Kind::Unimplemented => Some("the runtime on this socket does not offer this; coracle does"),
        Kind::DeadlineExceeded => {
            Some("`coracle ops` shows what the daemon is doing, and at which step it is")
        }
        Kind::Unavailable => Some("`coracle doctor sockets` looks at the socket and at the daemon"),
        Kind::RegistryUnavailable => Some("try again; `coracle doctor network` looks at this node's side"),
        Kind::Internal => Some("the daemon's log says more: journalctl -u coracle"),
        _ => None,
    }
}

/// The failure in lines: what, causes, next steps.
pub(crate) fn lines(error: &anyhow::Error) -> Vec<(&'static str, String)> {
    let mut lines = vec![("error", error.to_string())];
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let words = cause.to_string();
        // A cause that its effect quotes is not said twice.
        if !said.contains(&words) {
            lines.push(("because", words.clone()));
        }
        said = words;
    }
    let trouble = error.downcast_ref::<Trouble>();
    let told = trouble.map_or(&[][..], |trouble| &trouble.next);
    lines.extend(told.iter().map(|step| ("next", step.clone())));
    if told.is_empty()
        && let Some(step) = error
            .downcast_ref::<ClientError>()
            .and_then(|error| advice(error.kind()))
    {
        lines.push(("next", step.to_owned()));
    }
    lines
}

/// Says on standard error what failed, why, and what to do.
pub(crate) fn complain(error: &anyhow::Error) {
    anstream::eprint!("{}", told(error));
}

/// The failure as a terminal with colours shows it; where none are wanted the stream takes them out.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for (word, words) in lines(error) {
        let tone = match word {
            "error" => Tone::Bad,
            "next" => Tone::Heading,
            _ => Tone::Faint,
        };
        let style = tone.style();
        let mut parts = words.lines().map(clean);
        let first = parts.next().unwrap_or_default();
        text.push_str(&format!("{style}{word}{style:#}: {first}\n"));
        text.extend(parts.map(|part| format!("  {part}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_tells_object_cause_and_next_step() {
        let status = tonic::Status::not_found("no pod has the id 12");
        let cause = anyhow::Error::new(ClientError::of("StopPodSandbox")(status));
        let error = cause.context(Trouble::new("cannot stop pod web"));
        let words: Vec<_> = lines(&error);
        assert_eq!(words[0], ("error", "cannot stop pod web".to_owned()));
        assert_eq!(
            words[1],
            ("because", "StopPodSandbox: no pod has the id 12".to_owned())
        );
        assert_eq!(words[2].0, "next");
        assert_eq!(status_of(&error), Status::NotFound);
        let told = Trouble::new("\"a\" means 2 objects")
            .next("give more digits")
            .status(Status::Ambiguous);
        let error = anyhow::Error::new(told);
        assert_eq!(lines(&error)[1], ("next", "give more digits".to_owned()));
        assert_eq!(status_of(&error), Status::Ambiguous);
    }

    fn refused(call: &'static str, code: tonic::Code, words: &str) -> anyhow::Error {
        anyhow::Error::new(ClientError::of(call)(tonic::Status::new(code, words)))
    }

    #[test]
    fn failures_as_they_are_shown() {
        use tonic::Code;
        let nothing = Trouble::new("there is no pod, container or image \"wbe\"")
            .next("`coracle pods --all`, `coracle ps --all` and `coracle images` show what there is")
            .status(Status::NotFound);
        let several =
            Trouble::new("\"a\" means 2 objects:\npod/shop/web  aaaa\npod/shop/evil\u{1b}[2J  aabb")
                .next("give more digits, or a name")
                .status(Status::Ambiguous);
        let failures = [
            anyhow::Error::new(nothing),
            anyhow::Error::new(several),
            refused(
                "PullImage",
                Code::Unavailable,
                "registry.test:443: connection refused",
            )
            .context("cannot pull registry.test/app:1"),
            refused(
                "Pull",
                Code::NotFound,
                "docker.io/library/nosuch:latest: not found",
            )
            .context("cannot pull nosuch"),
            refused(
                "StartContainer",
                Code::InvalidArgument,
                "\"/bin/nosuch\" is not in the image",
            ),
            refused(
                "StopContainer",
                Code::DeadlineExceeded,
                "stop.wait runs since 10.0 s",
            ),
            refused(
                "Explain",
                Code::Unimplemented,
                "unknown service coracle.admin.v1.Admin",
            ),
            refused("Audit", Code::Internal, "something broke"),
        ];
        let shown: Vec<String> = failures
            .iter()
            .map(|error| format!("{}== exit status {}\n", told(error), status_of(error) as u8))
            .collect();
        let coloured = shown.concat();
        let plain = anstream::adapter::strip_str(&coloured).to_string();
        assert!(!plain.contains('\u{1b}'), "{plain}");
        insta::assert_snapshot!(plain);
        insta::assert_snapshot!("failures_in_colour", shown[0].replace('\u{1b}', "␛"));
    }
}
