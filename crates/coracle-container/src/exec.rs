//! A further process in a running container, under the same restrictions as its init.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coracle_sys::namespaces::{Namespace, Namespaces};
use coracle_types::ExecId;
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Pid, pidfd_send_signal};

use crate::cgroup::{Cgroup, Entrance, ExecCgroup};
use crate::channel::{FromChild, FromParent};
use crate::console;
use crate::create::{await_ready, fill_stdio, release};
use crate::error::Error;
use crate::init::{connect_io, stdio};
use crate::namespace::kind;
use crate::process::{ProcessPlan, own_root};
use crate::process_io::ProcessIo;
use crate::procfs::ProcFs;
use crate::spawn::{ChildSide, Layout, Request, Spawned, spawn};
use crate::step::{Failure, Progress, Step};

/// The container in which a process is wanted.
#[derive(Debug, Clone, Copy)]
pub struct ContainerProcess<'a> {
    /// Its init.
    pub pid: Pid,
    /// Descriptor of its init.
    pub pidfd: BorrowedFd<'a>,
    /// What it was made of.
    pub spec: &'a Spec,
    /// Where it lives.
    pub cgroup: &'a Cgroup,
}

/// Whether the process and its descendants can be killed apart from the container.
#[derive(Debug, Clone)]
pub enum ExecTree {
    /// It lives among the container's other processes.
    Shared,
    /// It gets a cgroup of its own below the container's, which the caller removes after its end.
    Own(ExecId),
}

/// A process that was executed.
#[derive(Debug)]
pub struct ExecProcess {
    pid: Pid,
    pidfd: OwnedFd,
    console: Option<OwnedFd>,
    tree: Option<ExecCgroup>,
    warnings: Vec<String>,
}

/// Executes `process` in a container and returns when its program runs.
///
/// # Errors
/// [`Error::Command`] when the program cannot be executed, else the step that failed; nothing is left then.
pub fn exec(
    target: &ContainerProcess<'_>,
    process: &Process,
    io: ProcessIo,
    tree: ExecTree,
) -> Result<ExecProcess, Error> {
    fill_stdio()?;
    let progress = Progress::new()?;
    progress.enter(Step::ReadSpec);
    let profile = target
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.seccomp().as_ref());
    let plan = ProcessPlan::new(process, profile, &io)?;
    progress.enter(Step::MakeCgroup);
    let tree = match &tree {
        ExecTree::Shared => None,
        ExecTree::Own(id) => target.cgroup.create_exec(id)?,
    };
    let result = exec_in(target, &plan, &io, &progress, tree.as_ref());
    match result {
        Ok(Begun {
            spawned,
            console,
            elsewhere,
        }) => Ok(ExecProcess {
            pid: spawned.pid,
            pidfd: spawned.pidfd,
            console,
            // One that nobody is in would tell that all are gone.
            tree: tree.filter(|tree| !elsewhere || tree.remove().is_err()),
            warnings: spawned.warnings,
        }),
        Err(error) => {
            if let Some(tree) = tree {
                let _ = tree.remove();
            }
            Err(error)
        }
    }
}

/// A process that was begun.
struct Begun {
    spawned: Spawned,
    console: Option<OwnedFd>,
    /// It is beside the container's init, not where it was to be.
    elsewhere: bool,
}

fn exec_in(
    target: &ContainerProcess<'_>,
    plan: &ProcessPlan,
    io: &ProcessIo,
    progress: &Progress,
    tree: Option<&ExecCgroup>,
) -> Result<Begun, Error> {
    let procfs = ProcFs::of_host()?;
    let layout = Layout {
        like: Some((target.pidfd, namespaces(target.spec))),
        ..Layout::default()
    };
    let mut entrance = target.cgroup.entrance(tree)?;
    let mut keep = Vec::new();
    keep.extend(stdio(io).into_iter().flatten());
    let attempt = |entrance: &Entrance| {
        let request = Request {
            layout: &layout,
            entrance: Some(entrance),
            progress,
            procfs: &procfs,
            oom_score_adj: plan.oom_score_adj,
            keep: keep.clone(),
        };
        spawn(&request, |side| run(plan, io, side))
    };
    let mut elsewhere = false;
    let mut spawned = match attempt(&entrance) {
        // The container's own init manager enabled controllers for its children: then no process may be in
        // the container's cgroup itself, and the init's is where others are.
        Err(error) if is_busy(&error) => {
            let own = target.cgroup.v2_directory_of(target.pid);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            entrance.v2 = match own.and_then(|own| open(&own, flags, Mode::empty()).ok()) {
                Some(directory) => Some(directory),
                None => return Err(error),
            };
            elsewhere = true;
            attempt(&entrance)?
        }
        result => result?,
    };
    let ended = await_ready(&spawned, progress, None).and_then(|(warnings, console)| {
        spawned.warnings.extend(warnings);
        release(&spawned.channel, Some(progress)).map(|()| console)
    });
    match ended {
        Ok(console) => Ok(Begun {
            spawned,
            console,
            elsewhere,
        }),
        Err(error) => {
            spawned.abandon();
            Err(error)
        }
    }
}

/// EOPNOTSUPP is what a threaded cgroup, or one above threaded ones, answers to whole processes.
fn is_busy(error: &Error) -> bool {
    let refused = |errno| matches!(errno, Errno::BUSY | Errno::OPNOTSUPP);
    match error {
        Error::Fork(error) => error.errno().is_some_and(refused),
        Error::Step {
            step: Step::JoinCgroup,
            source,
            ..
        } => refused(*source),
        _ => false,
    }
}

/// All namespaces that the container has for itself or with its pod; those of the node it is in already.
fn namespaces(spec: &Spec) -> Namespaces {
    let given = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let all: Namespaces = given
        .into_iter()
        .flatten()
        .map(|namespace| kind(namespace.typ()))
        .collect();
    all.with(Namespace::Mount).without(Namespace::Time)
}

/// In the child, inside the container's namespaces and root.
fn run(plan: &ProcessPlan, io: &ProcessIo, side: &ChildSide<'_>) -> Result<Infallible, Failure> {
    let progress = side.progress;
    let root = own_root(Step::JoinNamespaces)?;
    let console = if plan.terminal {
        progress.enter(Step::OpenConsole);
        Some(console::open(&root, plan.console_size, plan.uid)?)
    } else {
        None
    };
    progress.enter(Step::ConnectStdio);
    connect_io(io, console.as_ref(), plan)?;
    let mut warnings = Vec::new();
    let prepared = plan.prepare(progress, side.procfs, &root, &mut warnings)?;
    progress.enter(Step::Ready);
    side.tell(&FromChild::Ready {
        warnings,
        console: console.map(|console| console.master),
    })?;
    side.wait_for(FromParent::Start)?;
    Err(plan.execute(&prepared, progress))
}

impl ExecProcess {
    /// Its number in the caller's PID namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its descriptor.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What could not be applied and was gone on without.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Kills it and, with [`ExecTree::Own`], whatever descends from it. It is the caller's to reap.
    ///
    /// # Errors
    /// When the cgroup cannot be killed.
    pub fn kill_tree(&self) -> Result<(), Error> {
        let _ = pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        match &self.tree {
            Some(tree) => tree.kill(),
            None => Ok(()),
        }
    }

    /// Whether a process of its tree is left, the first one not counted once it is reaped. Without a tree
    /// of its own nobody can tell.
    #[must_use]
    pub fn tree_is_empty(&self) -> Option<bool> {
        self.tree.as_ref().map(ExecCgroup::is_empty)
    }

    /// Removes the cgroup of [`ExecTree::Own`] after killing what is left in it.
    ///
    /// # Errors
    /// When a process in it does not die.
    pub fn remove(self) -> Result<(), Error> {
        match self.tree {
            Some(tree) => tree.remove(),
            None => Ok(()),
        }
    }
}
