//! What can go wrong here, by kind and in words.

use std::path::PathBuf;

use coracle_sys::fork::ForkError;
use coracle_types::{Kind, Kinded};
use rustix::io::Errno;

use crate::step::{Failure, Step};

/// Why a command could not be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandProblem {
    /// There is no such file, or no such name in PATH.
    Missing,
    /// The file is there; the interpreter it names (`#!` line or dynamic loader) is not.
    InterpreterMissing,
    /// What it names as its interpreter is there and cannot be executed.
    InterpreterWrong,
    /// It is a directory.
    Directory,
    /// The user may not execute it, or its mount says noexec.
    NotExecutable,
    /// It is no program of this machine and has no `#!` line.
    WrongFormat,
    /// Arguments and environment are longer than the kernel takes.
    TooLong,
    /// Anything else that execve(2) says.
    Other,
}

impl CommandProblem {
    /// `about` is what the file says that it needs.
    pub(crate) fn of(step: Step, errno: Errno, about: &str) -> Self {
        // At the last step the file was seen to be there and executable: what is wrong is what it names.
        let names_another = step == Step::Exec && about.starts_with("its ");
        match errno {
            Errno::NOENT | Errno::NOTDIR if step == Step::Exec => Self::InterpreterMissing,
            // EIO: it is shorter than a program's header.
            Errno::ACCESS | Errno::PERM | Errno::NOEXEC | Errno::ISDIR | Errno::IO if names_another => {
                Self::InterpreterWrong
            }
            Errno::NOENT | Errno::NOTDIR => Self::Missing,
            Errno::ISDIR => Self::Directory,
            Errno::ACCESS | Errno::PERM => Self::NotExecutable,
            Errno::NOEXEC => Self::WrongFormat,
            Errno::TOOBIG => Self::TooLong,
            Errno::LIBBAD => Self::InterpreterWrong,
            _ => Self::Other,
        }
    }

    /// The detail of a failure: the command, and what is to be told about it.
    pub(crate) fn detail(command: &str, about: &str) -> String {
        // No command holds a NUL.
        format!("{command}\0{about}")
    }

    /// As a shell counts it: 127 for what is not there, 126 for what cannot be executed.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Missing => 127,
            _ => 126,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Missing => "no such file in the container: check command, args and the image's entrypoint",
            Self::InterpreterMissing => {
                "the file exists, the interpreter it names (`#!` line or dynamic loader) does not"
            }
            Self::InterpreterWrong => {
                "the file exists, the interpreter it names (`#!` line or dynamic loader) cannot be executed: it is no \
                 program for this machine, no file, or not executable for this user"
            }
            Self::Directory => "it is a directory: name a program",
            Self::NotExecutable => {
                "permission denied: not executable for this user (chmod +x in the image), or its file system is \
                 mounted noexec"
            }
            Self::WrongFormat => {
                "exec format error: it is no program for this machine and has no `#!` line; take the image for this \
                 platform"
            }
            Self::TooLong => {
                "arguments and environment are too long for the kernel, which takes a quarter of the stack's limit \
                 (RLIMIT_STACK, 2 MiB of the usual 8): give fewer or shorter ones"
            }
            Self::Other => "the kernel refused to execute it",
        }
    }
}

/// An operation on a container that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification asks for what is wrong or not offered.
    #[error("specification: {field} {value:?}: {problem}")]
    Spec {
        /// Where, in the specification's own words (`linux.namespaces`).
        field: &'static str,
        /// What stands there.
        value: String,
        /// What is wrong and what to do.
        problem: String,
        /// Whether it is wrong or just not offered.
        kind: Kind,
    },
    /// A step failed.
    #[error("{step}: {detail}: {source}")]
    Step {
        /// Which.
        step: Step,
        /// On what.
        detail: String,
        /// The kernel's answer.
        source: Errno,
    },
    /// The command cannot be executed.
    #[error("cannot execute {command:?}: {}{} ({source})", .problem.words(), told(.about))]
    Command {
        /// The command as it was given.
        command: String,
        /// What the file or the search says; may be empty.
        about: String,
        /// What is wrong with it.
        problem: CommandProblem,
        /// The kernel's answer.
        source: Errno,
    },
    /// The child ended before it said anything.
    #[error(
        "the container's process ended at step {step:?} without a word: killed by the kernel (memory limit?) or by a seccomp profile that forbids what starting needs"
    )]
    ChildLost {
        /// The step it was at.
        step: Step,
    },
    /// The child was stuck and has been killed.
    #[error("step {step:?} was not done after {seconds} s; the process was killed")]
    Stuck {
        /// The step it was at.
        step: Step,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A process could not be made.
    #[error("making a process: {0}")]
    Fork(#[from] ForkError),
    /// A file of a cgroup could not be read or written.
    #[error("cgroup {}: {operation}: {source}{}", .path.display(), remedy_of_cgroup(.source))]
    Cgroup {
        /// What was tried, with the value.
        operation: String,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A seccomp profile could not be compiled.
    #[error("seccomp profile: {problem}")]
    Seccomp {
        /// What is wrong with it.
        problem: String,
    },
    /// A hook failed or took too long.
    #[error("{point} hook {}: {problem}", .path.display())]
    Hook {
        /// At which point of a container's life.
        point: &'static str,
        /// Its program.
        path: PathBuf,
        /// What happened.
        problem: String,
    },
}

impl Error {
    pub(crate) fn spec(field: &'static str, value: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Spec {
            field,
            value: cut(value.into()),
            problem: problem.into(),
            kind: Kind::InvalidArgument,
        }
    }

    pub(crate) fn unsupported(
        field: &'static str,
        value: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Spec {
            field,
            value: cut(value.into()),
            problem: problem.into(),
            kind: Kind::Unimplemented,
        }
    }

    /// What is wrong with the command, when it is the command.
    #[must_use]
    pub fn command_problem(&self) -> Option<CommandProblem> {
        match self {
            Self::Command { problem, .. } => Some(*problem),
            _ => None,
        }
    }
}

fn remedy_of_cgroup(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            "; it was removed while the container was there: create the container anew"
        }
        _ => "",
    }
}

fn told(about: &str) -> String {
    if about.is_empty() {
        String::new()
    } else {
        format!("; {about}")
    }
}

fn cut(value: String) -> String {
    if value.len() <= 200 {
        value
    } else {
        value.chars().take(200).collect::<String>() + "..."
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure.step {
            Step::FindCommand | Step::Exec => {
                let (command, about) = failure.detail.split_once('\0').unwrap_or((&failure.detail, ""));
                Self::Command {
                    command: command.to_owned(),
                    about: about.to_owned(),
                    problem: CommandProblem::of(failure.step, failure.errno, about),
                    source: failure.errno,
                }
            }
            step => Self::Step {
                step,
                detail: failure.detail,
                source: failure.errno,
            },
        }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Spec { kind, .. } => *kind,
            Self::Step { source, step, .. } => match *source {
                Errno::NOMEM | Errno::NOSPC | Errno::MFILE | Errno::NFILE | Errno::AGAIN => {
                    Kind::ResourceExhausted
                }
                Errno::PERM | Errno::ACCESS => Kind::PermissionDenied,
                Errno::NOENT if *step == Step::MakeMounts => Kind::NotFound,
                // What is mounted and what is there do not fit.
                Errno::NOTDIR | Errno::ISDIR if *step == Step::AttachMounts => Kind::InvalidArgument,
                _ => Kind::Internal,
            },
            Self::Command { problem, .. } => match problem {
                CommandProblem::Missing => Kind::NotFound,
                CommandProblem::NotExecutable => Kind::PermissionDenied,
                CommandProblem::Other => Kind::Internal,
                _ => Kind::InvalidArgument,
            },
            Self::Fork(error) => match error.errno() {
                Some(Errno::AGAIN | Errno::NOMEM) => Kind::ResourceExhausted,
                _ => Kind::Internal,
            },
            Self::Stuck { .. } => Kind::DeadlineExceeded,
            Self::Cgroup { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Kind::FailedPrecondition,
                std::io::ErrorKind::InvalidInput => Kind::InvalidArgument,
                std::io::ErrorKind::ResourceBusy => Kind::FailedPrecondition,
                _ => Kind::Internal,
            },
            Self::Seccomp { .. } => Kind::InvalidArgument,
            Self::ChildLost { .. } | Self::Hook { .. } => Kind::Internal,
        }
    }
}
