//! The first process of a pod's shared PID namespace: a static program of a few KB that reaps.
//!
//! It can be seen and signalled by every container of the pod, so there is nothing to gain from it: an
//! empty read-only root, no capability, no descriptor, a filter that leaves it a handful of calls, and a
//! program that lies in a sealed memfd.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use coracle_sys::exec::{StringArray, exec_fd};
use coracle_sys::mount_attr::{Change, Depth, Flag};
use coracle_sys::process::{CloseRange, close_from};
use coracle_sys::{ids, memfd, programs, seccomp as filter, signals};
use oci_spec::runtime::{LinuxCapabilities, LinuxSeccomp};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::Pid;
use rustix::thread::{set_keep_capabilities, set_no_new_privs};

use crate::capabilities::Sets;
use crate::cgroup::Cgroup;
use crate::channel::{FromChild, FromParent};
use crate::create::{fill_stdio, release};
use crate::error::Error;
use crate::filesystem::{FsContext, attach};
use crate::init::change_root;
use crate::namespace::{Namespace, Namespaces, open_links, pin_one, unpin};
use crate::process::connect;
use crate::procfs::ProcFs;
use crate::seccomp::{self, Program};
use crate::spawn::{ChildSide, Layout, Request, spawn as spawn_child};
use crate::step::{At as _, Failure, Progress, Step};

/// A pod init to start.
#[derive(Debug)]
pub struct PodInitRequest<'a> {
    /// Namespaces of the pod that it joins (ipc, uts, net, user).
    pub join: Vec<(Namespace, PathBuf)>,
    /// Where it lives.
    pub cgroup: Option<&'a Cgroup>,
    /// The file on which its PID namespace is pinned.
    pub pid_pin: Option<PathBuf>,
    /// User and group as which it runs.
    pub user: (u32, u32),
}

/// A running pod init.
#[derive(Debug)]
pub struct PodInit {
    pid: Pid,
    pidfd: OwnedFd,
}

impl PodInit {
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
}

/// Calls that the program makes, and those between the filter and it.
const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"action":"SCMP_ACT_ALLOW","names":
    ["execveat","wait4","rt_sigtimedwait","exit_group","rt_sigreturn","restart_syscall","sendmsg"]}]}"#;

/// Starts one in a new PID namespace. It ends on SIGTERM; with it every process of the namespace ends. The
/// kernel completes its end only when those of them that the caller made (containers, execs) are reaped.
///
/// # Errors
/// The step that failed; nothing is left then.
pub fn spawn(request: &PodInitRequest<'_>) -> Result<PodInit, Error> {
    fill_stdio()?;
    let layout = Layout {
        new: Namespaces::NONE.with(Namespace::Pid).with(Namespace::Mount),
        join: open_links(&request.join)?,
        ..Layout::default()
    };
    let progress = Progress::new()?;
    let procfs = ProcFs::of_host()?;
    let program = program()?;
    let profile = profile()?;
    let entrance = request.cgroup.map(|cgroup| cgroup.entrance(None)).transpose()?;
    let child = spawn_child(
        &Request {
            layout: &layout,
            entrance: entrance.as_ref(),
            progress: &progress,
            procfs: &procfs,
            oom_score_adj: None,
            keep: vec![program],
        },
        |side| run(request.user, program, &profile, side),
    )?;
    let result = child.hear(&progress).and_then(|_| {
        if let Some(pin) = &request.pid_pin {
            pin_one(child.pid, Namespace::Pid, pin)?;
        }
        release(&child.channel, Some(&progress))
    });
    match result {
        Ok(()) => Ok(PodInit {
            pid: child.pid,
            pidfd: child.pidfd,
        }),
        Err(error) => {
            child.abandon();
            if let Some(pin) = &request.pid_pin {
                let _ = unpin(pin);
            }
            Err(error)
        }
    }
}

/// Makes what all pod inits of this process and of those it forks share: one memfd and one filter.
///
/// # Errors
/// When the memfd cannot be made or sealed.
pub fn preload() -> Result<(), Error> {
    program().map(drop)?;
    profile().map(drop)
}

fn profile() -> Result<Program, Error> {
    let profile: LinuxSeccomp = serde_json::from_str(PROFILE).map_err(|error| Error::Seccomp {
        problem: format!("of the pod init: {error}"),
    })?;
    seccomp::compile(&profile)
}

/// One sealed copy a process serves all its pods.
fn program() -> Result<BorrowedFd<'static>, Error> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(program) = PROGRAM.get() {
        return Ok(program.as_fd());
    }
    let made =
        memfd::sealed(c"pod-init", programs::POD_INIT).at(Step::ReadSpec, || "memfd of the pod init")?;
    Ok(PROGRAM.get_or_init(|| made).as_fd())
}

fn run(
    user: (u32, u32),
    program: BorrowedFd<'_>,
    profile: &Program,
    side: &ChildSide<'_>,
) -> Result<Infallible, Failure> {
    let progress = side.progress;
    progress.enter(Step::ConnectStdio);
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let null = null.at(Step::ConnectStdio, || "/dev/null")?;
    connect([null.as_fd(); 3])?;
    progress.enter(Step::PivotRoot);
    empty_root()?;
    progress.enter(Step::SetUser);
    let none = Sets::new(None::<&LinuxCapabilities>);
    none.bound().at(Step::SetCapabilities, || "bounding set")?;
    set_keep_capabilities(false).at(Step::SetUser, || "keep capabilities")?;
    ids::set_groups(&[]).at(Step::SetUser, || "groups")?;
    ids::set_group(user.1).at(Step::SetUser, || format!("group {}", user.1))?;
    ids::set_user(user.0).at(Step::SetUser, || format!("user {}", user.0))?;
    none.apply().at(Step::SetCapabilities, || "capset")?;
    set_no_new_privs(true).at(Step::NoNewPrivileges, || "prctl")?;
    let arguments = StringArray::from_text(["pod-init"]).expect("no NUL in it");
    let environment = StringArray::new(Vec::new());
    progress.enter(Step::Ready);
    side.tell(&FromChild::Ready {
        warnings: Vec::new(),
        console: None,
    })?;
    side.wait_for(FromParent::Start)?;
    signals::block_for_init();
    close_from(3, CloseRange::OnExec).at(Step::CloseDescriptors, || "close_range")?;
    progress.enter(Step::InstallSeccomp);
    filter::install(&profile.filter, profile.flags).at(Step::InstallSeccomp, || "filter")?;
    progress.enter(Step::Exec);
    let errno = exec_fd(program, &arguments, &environment);
    Err(Failure::new(Step::Exec, errno, "pod-init"))
}

/// A tmpfs with nothing in it takes the place of the host's tree.
fn empty_root() -> Result<(), Failure> {
    let step = Step::PivotRoot;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).at(Step::DetachPropagation, || "/")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let old = open("/", flags, Mode::empty()).at(step, || "/")?;
    let context = FsContext::open("tmpfs", step)?;
    context.set("mode", "555")?;
    context.set("nr_inodes", "1")?;
    let root = context.mount()?;
    let change = Change::new()
        .set(Flag::ReadOnly)
        .set(Flag::NoSuid)
        .set(Flag::NoDev)
        .set(Flag::NoExec);
    change
        .apply(root.as_fd(), Depth::This)
        .at(step, || "empty root")?;
    attach(root.as_fd(), old.as_fd()).at(step, || "empty root")?;
    change_root(&root, &old)
}
