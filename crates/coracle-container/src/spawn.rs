//! A child in the namespaces and the cgroup it shall have, with a channel to it.
//!
//! ```text
//! parent: socket pair, (joins the PID namespace for its children), clone3, maps ids, oom score
//!   child: signals, descriptors, session, cgroup, namespaces, then `body`
//! ```
//! Namespaces that exist are joined while the child still has the node's privileges, a user namespace last;
//! new ones inside a joined user namespace are made after that, and a new PID namespace there needs a
//! second process, which takes the first one's place (CLONE_PARENT).

use std::convert::Infallible;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use coracle_sys::fork::{self, CloneRequest, ForkError, Forked};
use coracle_sys::namespaces::{Namespace, Namespaces, join, join_process, unshare};
use coracle_sys::process::{close_all_but, forbid_inspection};
use coracle_sys::{ids, netdev, seqpacket, signals};
use coracle_types::security::IdMapping;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::cgroup::Entrance;
use crate::channel::{FromChild, FromParent, Silence, hear_child, hear_parent, tell_child, tell_parent};
use crate::console::new_session;
use crate::error::Error;
use crate::procfs::ProcFs;
use crate::step::{At as _, Failure, Progress, Step};

/// Longest that a child may take from one message to the next before it is killed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Namespaces of a child.
#[derive(Debug, Default)]
pub(crate) struct Layout<'a> {
    /// Made for it.
    pub(crate) new: Namespaces,
    /// Joined by link.
    pub(crate) join: Vec<(Namespace, OwnedFd)>,
    /// Joined as a process has them.
    pub(crate) like: Option<(BorrowedFd<'a>, Namespaces)>,
    /// Mappings of a new user namespace.
    pub(crate) uids: Vec<IdMapping>,
    /// Mappings of a new user namespace.
    pub(crate) gids: Vec<IdMapping>,
}

impl Layout<'_> {
    fn joins(&self, kind: Namespace) -> bool {
        self.join.iter().any(|(joined, _)| *joined == kind)
            || self.like.is_some_and(|(_, namespaces)| namespaces.has(kind))
    }

    /// Whether the child lives in a user namespace that is not the node's.
    pub(crate) fn has_user_namespace(&self) -> bool {
        self.new.has(Namespace::User) || self.joins(Namespace::User)
    }

    /// Whether a namespace is the child's (or its pod's) and not the node's.
    pub(crate) fn has(&self, kind: Namespace) -> bool {
        self.new.has(kind) || self.joins(kind)
    }

    /// What clone3 makes at once. The cgroup namespace takes its root from the cgroup of who makes it, so
    /// the child makes it when it is in its own; inside a joined user namespace everything comes later.
    fn at_clone(&self) -> Namespaces {
        if self.joins(Namespace::User) {
            Namespaces::NONE
        } else {
            self.new.without(Namespace::Cgroup)
        }
    }
}

/// What a child is made with.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) layout: &'a Layout<'a>,
    pub(crate) entrance: Option<&'a Entrance>,
    pub(crate) progress: &'a Progress,
    pub(crate) procfs: &'a ProcFs,
    pub(crate) oom_score_adj: Option<i32>,
    /// Descriptors that `body` needs; all others of the parent are closed.
    pub(crate) keep: Vec<BorrowedFd<'a>>,
}

/// A child that runs `body`.
#[derive(Debug)]
pub(crate) struct Spawned {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) channel: OwnedFd,
    pub(crate) warnings: Vec<String>,
}

/// The child's side.
#[derive(Debug)]
pub(crate) struct ChildSide<'a> {
    pub(crate) channel: BorrowedFd<'a>,
    pub(crate) progress: &'a Progress,
    pub(crate) procfs: &'a ProcFs,
}

impl ChildSide<'_> {
    pub(crate) fn tell(&self, message: &FromChild) -> Result<(), Failure> {
        tell_parent(self.channel, message).at(Step::Report, || "parent")
    }

    /// Waits for the parent's word; without a parent there is nothing left to do.
    pub(crate) fn wait_for(&self, expected: FromParent) -> Result<(), Failure> {
        match hear_parent(self.channel) {
            Ok(heard) if heard == expected => Ok(()),
            Err(Silence::Closed) => fork::exit(1),
            _ => Err(Failure::new(
                Step::Report,
                Errno::PROTO,
                "unexpected word of the parent",
            )),
        }
    }
}

/// Makes the child.
pub(crate) fn spawn(
    request: &Request<'_>,
    body: impl FnOnce(&ChildSide<'_>) -> Result<Infallible, Failure>,
) -> Result<Spawned, Error> {
    let progress = request.progress;
    forbid_inspection().at(Step::Clone, || "prctl PR_SET_DUMPABLE")?;
    let (ours, theirs) = seqpacket::pair().at(Step::Clone, || "socketpair")?;
    progress.enter(Step::Clone);
    let inside = InPidNamespace::enter(request.layout)?;
    let forked = clone(request);
    let child = match forked {
        Ok((Forked::InChild, in_cgroup)) => fork::run_child(|| {
            let side = ChildSide {
                channel: theirs.as_fd(),
                progress,
                procfs: request.procfs,
            };
            let done = enter(request, &side, in_cgroup).and_then(|()| body(&side));
            let Err(failure) = done;
            // On the shared page first: a filter may forbid to send.
            progress.fail(&failure);
            let _ = side.tell(&FromChild::Failed(failure));
            1
        }),
        Ok((Forked::Parent(child), _)) => {
            inside.leave()?;
            child
        }
        Err(error) => {
            inside.leave()?;
            return Err(error);
        }
    };
    drop(theirs);
    let mut spawned = Spawned {
        pid: child.pid,
        pidfd: child.pidfd,
        channel: ours,
        warnings: Vec::new(),
    };
    match accompany(request, &mut spawned) {
        Ok(()) => Ok(spawned),
        Err(error) => {
            spawned.abandon();
            Err(error)
        }
    }
}

/// In the v2 cgroup at once where the kernel does that; says whether it did.
fn clone(request: &Request<'_>) -> Result<(Forked, bool), Error> {
    let namespaces = request.layout.at_clone();
    let cgroup = request
        .entrance
        .and_then(|entrance| entrance.v2.as_ref())
        .map(|fd| fd.as_fd());
    match fork::clone3(&CloneRequest {
        namespaces,
        cgroup,
        sibling: false,
    }) {
        // Not EOPNOTSUPP, which is the cgroup's own word: a child that wrote itself in would hear the same, too late
        // for the caller to choose another.
        Err(ForkError::Kernel {
            source: Errno::INVAL | Errno::NOSYS,
            ..
        }) if cgroup.is_some() => Ok((
            fork::clone3(&CloneRequest {
                namespaces,
                cgroup: None,
                sibling: false,
            })?,
            false,
        )),
        result => Ok((result?, cgroup.is_some())),
    }
}

/// The parent's part while the child enters.
fn accompany(request: &Request<'_>, spawned: &mut Spawned) -> Result<(), Error> {
    let layout = request.layout;
    if let Some(score) = request.oom_score_adj {
        let path = format!("{}/oom_score_adj", spawned.pid.as_raw_nonzero());
        match request.procfs.write(&path, score.to_string().as_bytes()) {
            Ok(()) => {}
            Err(Errno::ACCESS | Errno::PERM) => spawned.warnings.extend(warn_once(score)),
            result => result.at(Step::OomScore, || format!("oom_score_adj {score}"))?,
        }
    }
    if layout.new.has(Namespace::User) && !layout.joins(Namespace::User) {
        map_ids(request.procfs, spawned.pid, &layout.uids, &layout.gids)?;
        tell_child(spawned.channel.as_fd(), FromParent::Continue).at(Step::MapIds, || "child")?;
    }
    if layout.joins(Namespace::User) && layout.new.has(Namespace::Pid) {
        let successor = match spawned.hear(request.progress)? {
            FromChild::Successor(pid) => Pid::from_raw(pid),
            _ => None,
        };
        let successor = successor.ok_or(Error::ChildLost {
            step: Step::NewNamespaces,
        })?;
        let _ = waitid(WaitId::PidFd(spawned.pidfd.as_fd()), WaitIdOptions::EXITED);
        spawned.pid = successor;
        spawned.pidfd = pidfd_open(successor, PidfdFlags::empty())
            .at(Step::NewNamespaces, || "pidfd of the successor")?;
        tell_child(spawned.channel.as_fd(), FromParent::Continue).at(Step::NewNamespaces, || "child")?;
    }
    Ok(())
}

/// Lowering needs CAP_SYS_RESOURCE, which a restricted node lacks for every container alike: one word is
/// enough.
fn warn_once(score: i32) -> Option<String> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static SAID: AtomicBool = AtomicBool::new(false);
    (!SAID.swap(true, Ordering::Relaxed)).then(|| {
        format!("oom_score_adj {score} could not be set and the runtime's own stays; lowering it needs CAP_SYS_RESOURCE. Not said again")
    })
}

impl Spawned {
    /// The next word of the child; its failure, its death and its silence become errors.
    pub(crate) fn hear(&self, progress: &Progress) -> Result<FromChild, Error> {
        match hear_child(self.channel.as_fd(), PATIENCE) {
            Ok(FromChild::Failed(failure)) => Err(failure.into()),
            Ok(message) => Ok(message),
            Err(Silence::Closed) => Err(match progress.failure() {
                Some(failure) => failure.into(),
                None => Error::ChildLost {
                    step: progress.current(),
                },
            }),
            Err(Silence::TimedOut) => Err(Error::Stuck {
                step: progress.current(),
                seconds: PATIENCE.as_secs(),
            }),
            Err(Silence::Broken(errno)) => Err(Failure::new(Step::Report, errno, "channel").into()),
        }
    }

    /// Kills and reaps it.
    pub(crate) fn abandon(self) {
        kill_and_reap(self.pidfd.as_fd());
    }
}

pub(crate) fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = pidfd_send_signal(pidfd, Signal::KILL);
    while matches!(
        waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED),
        Err(Errno::INTR)
    ) {}
}

/// The child's part until it is where it shall be.
fn enter(request: &Request<'_>, side: &ChildSide<'_>, in_cgroup: bool) -> Result<(), Failure> {
    let (layout, progress) = (request.layout, request.progress);
    signals::reset();
    let mut keep = request.keep.clone();
    keep.extend([side.channel, request.procfs.fd()]);
    keep.extend(layout.join.iter().map(|(_, link)| link.as_fd()));
    keep.extend(layout.like.map(|(pidfd, _)| pidfd));
    if let Some(entrance) = request.entrance {
        keep.extend(entrance.v2.as_ref().map(|fd| fd.as_fd()));
        keep.extend(entrance.tasks.iter().map(|fd| fd.as_fd()));
    }
    close_all_but(&keep).at(Step::CloseDescriptors, || "close_range")?;
    new_session()?;
    if let Some(entrance) = request.entrance {
        progress.enter(Step::JoinCgroup);
        join_cgroup(entrance, in_cgroup)?;
    }
    if layout.new.has(Namespace::User) && !layout.joins(Namespace::User) {
        progress.enter(Step::MapIds);
        side.wait_for(FromParent::Continue)?;
        become_root()?;
    }
    progress.enter(Step::JoinNamespaces);
    join_all(layout)?;
    progress.enter(Step::NewNamespaces);
    make_rest(layout, side)?;
    if layout.new.has(Namespace::Net) {
        progress.enter(Step::Loopback);
        netdev::loopback_up().at(Step::Loopback, || "lo")?;
    }
    Ok(())
}

fn join_cgroup(entrance: &Entrance, in_cgroup: bool) -> Result<(), Failure> {
    let step = Step::JoinCgroup;
    for tasks in &entrance.tasks {
        rustix::io::write(tasks, b"0").at(step, || "tasks")?;
    }
    if let Some(directory) = entrance.v2.as_ref().filter(|_| !in_cgroup) {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let procs = openat(directory, "cgroup.procs", flags, Mode::empty()).at(step, || "cgroup.procs")?;
        rustix::io::write(&procs, b"0").at(step, || "cgroup.procs")?;
    }
    Ok(())
}

/// A user namespace comes last: until then the node's privileges allow to join whatever a pod has.
fn join_all(layout: &Layout<'_>) -> Result<(), Failure> {
    let step = Step::JoinNamespaces;
    if let Some((pidfd, namespaces)) = layout.like {
        let rest = namespaces.without(Namespace::Pid);
        if !rest.is_empty() {
            join_process(pidfd, rest).at(step, || "namespaces of the container's init")?;
        }
    }
    let (last, first): (Vec<_>, Vec<_>) = layout.join.iter().partition(|(kind, _)| *kind == Namespace::User);
    for (kind, link) in first.into_iter().chain(last) {
        // The parent was in the PID namespace when it made this process.
        if *kind != Namespace::Pid {
            join(link.as_fd(), *kind).at(step, || kind.file())?;
        }
    }
    if layout.joins(Namespace::User) {
        become_root()
    } else {
        Ok(())
    }
}

fn make_rest(layout: &Layout<'_>, side: &ChildSide<'_>) -> Result<(), Failure> {
    let step = Step::NewNamespaces;
    if !layout.joins(Namespace::User) {
        let cgroup = layout.new.has(Namespace::Cgroup);
        let rest = if cgroup {
            Namespaces::NONE.with(Namespace::Cgroup)
        } else {
            return Ok(());
        };
        return unshare(rest).at(step, || "cgroup namespace");
    }
    if !layout.new.has(Namespace::Pid) {
        return if layout.new.is_empty() {
            Ok(())
        } else {
            unshare(layout.new).at(step, || "unshare")
        };
    }
    let request = CloneRequest {
        namespaces: layout.new,
        cgroup: None,
        sibling: true,
    };
    match fork::clone3(&request) {
        Err(error) => Err(Failure::new(
            step,
            error.errno().unwrap_or(Errno::BUSY),
            error.to_string(),
        )),
        Ok(Forked::Parent(successor)) => {
            let told = side.tell(&FromChild::Successor(successor.pid.as_raw_nonzero().get()));
            fork::exit(i32::from(told.is_err()))
        }
        Ok(Forked::InChild) => {
            new_session()?;
            side.wait_for(FromParent::Continue)
        }
    }
}

/// User and group 0 of the user namespace just entered, without groups of the node.
fn become_root() -> Result<(), Failure> {
    let step = Step::MapIds;
    let hint = || "0 (does the mapping of the user namespace contain it?)";
    ids::set_group(0).at(step, hint)?;
    ids::set_user(0).at(step, hint)?;
    match ids::set_groups(&[]) {
        Err(Errno::PERM) | Ok(()) => Ok(()),
        Err(errno) => Err(Failure::new(step, errno, "groups")),
    }
}

/// Writes the mappings of a new user namespace.
pub(crate) fn map_ids(
    procfs: &ProcFs,
    pid: Pid,
    uids: &[IdMapping],
    gids: &[IdMapping],
) -> Result<(), Failure> {
    for (file, mappings) in [("uid_map", uids), ("gid_map", gids)] {
        let lines: Vec<String> = mappings
            .iter()
            .map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.length))
            .collect();
        let text = lines.concat();
        procfs
            .write(&format!("{}/{file}", pid.as_raw_nonzero()), text.as_bytes())
            .at(Step::MapIds, || {
                format!("{file}: {}", text.trim().replace('\n', ", "))
            })?;
    }
    Ok(())
}

/// While it lives, children are made in another PID namespace (a thread stays in its own).
#[derive(Debug)]
struct InPidNamespace {
    own: Option<OwnedFd>,
}

impl InPidNamespace {
    fn enter(layout: &Layout<'_>) -> Result<Self, Error> {
        let step = Step::JoinNamespaces;
        let by_link = layout.join.iter().find(|(kind, _)| *kind == Namespace::Pid);
        let like = layout
            .like
            .filter(|(_, namespaces)| namespaces.has(Namespace::Pid));
        if by_link.is_none() && like.is_none() {
            return Ok(Self { own: None });
        }
        let own = open(
            "/proc/self/ns/pid",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .at(step, || "own PID namespace")?;
        match (by_link, like) {
            (Some((kind, link)), _) => join(link.as_fd(), *kind).at(step, || "pid")?,
            (None, Some((pidfd, _))) => {
                join_process(pidfd, Namespaces::NONE.with(Namespace::Pid))
                    .at(step, || "pid of the container")?;
            }
            (None, None) => {}
        }
        Ok(Self { own: Some(own) })
    }

    fn leave(self) -> Result<(), Error> {
        if let Some(own) = self.own {
            join(own.as_fd(), Namespace::Pid).at(Step::JoinNamespaces, || "back to the own PID namespace")?;
        }
        Ok(())
    }
}
