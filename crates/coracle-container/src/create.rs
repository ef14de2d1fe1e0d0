//! Making a container: its init waits, set up whole, until it is started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use coracle_sys::namespaces::Namespace;
use coracle_types::ContainerId;
use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::MountPropagationFlags;
use rustix::process::Pid;

use crate::cgroup::{Cgroup, CgroupPath};
use crate::channel::{FromChild, FromParent, Silence, hear_child, tell_child};
use crate::error::Error;
use crate::hooks::{self, Point};
use crate::init::InitPlan;
use crate::namespace;
use crate::process::ProcessPlan;
use crate::process_io::ProcessIo;
use crate::procfs::ProcFs;
use crate::rootfs::{self, RootfsSource};
use crate::spawn::{Layout, PATIENCE, Request, Spawned, kill_and_reap, spawn};
use crate::step::{At as _, Failure, Progress, Step};
use crate::{devices, mounts};

/// A container to make.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its name, for hooks.
    pub id: &'a ContainerId,
    /// What it is. `linux.cgroupsPath` is absolute.
    pub spec: &'a Spec,
    /// Its directory on the host, for hooks and relative paths of the specification.
    pub bundle: &'a Path,
    /// Its root file system; `spec.root.path` is not looked at.
    pub rootfs: RootfsSource,
    /// Its descriptors 0, 1 and 2.
    pub io: ProcessIo,
}

/// The first process of a container.
#[derive(Debug)]
pub struct Init {
    pid: Pid,
    pidfd: OwnedFd,
    channel: Option<OwnedFd>,
    cgroup: Cgroup,
    console: Option<OwnedFd>,
    progress: Option<Progress>,
    warnings: Vec<String>,
    hooks: Option<hooks::Plan>,
}

/// Makes a container up to the point where only its start is missing.
///
/// The calling process must be allowed to fork (see [`coracle_sys::fork`]); it is not dumpable afterwards.
///
/// # Errors
/// The first step that failed, in the caller or in the child; no process, mount or cgroup is left then.
pub fn create(request: CreateRequest<'_>) -> Result<Init, Error> {
    fill_stdio()?;
    let progress = Progress::new()?;
    progress.enter(Step::ReadSpec);
    let path = cgroup_path(request.spec)?;
    let layout = namespace::layout(request.spec)?;
    progress.enter(Step::MakeCgroup);
    let cgroup = Cgroup::create(&path)?;
    let result = create_in(request, progress, &layout, &cgroup);
    if result.is_err() {
        let _ = cgroup.remove();
    }
    result
}

fn create_in(
    request: CreateRequest<'_>,
    progress: Progress,
    layout: &Layout<'_>,
    cgroup: &Cgroup,
) -> Result<Init, Error> {
    let procfs = ProcFs::of_host()?;
    progress.enter(Step::LimitCgroup);
    let linux = request.spec.linux().as_ref();
    if let Some(resources) = linux.and_then(|linux| linux.resources().as_ref()) {
        cgroup.apply(resources)?;
    }
    let entrance = cgroup.entrance(None)?;
    let hooks = hooks::Plan::new(request.spec, request.id, request.bundle);
    let plan = plan(request, &progress, layout, cgroup, hooks.clone())?;
    let spawned = spawn(
        &Request {
            layout,
            entrance: Some(&entrance),
            progress: &progress,
            procfs: &procfs,
            oom_score_adj: plan.process.oom_score_adj,
            keep: plan.descriptors(),
        },
        |side| plan.become_program(layout, side),
    )?;
    drop(plan);
    let ready = await_ready(&spawned, &progress, hooks.as_ref());
    let (warnings, console) = match ready {
        Ok(ready) => ready,
        Err(error) => {
            spawned.abandon();
            return Err(error);
        }
    };
    let Spawned {
        pid,
        pidfd,
        channel,
        warnings: mut all,
        ..
    } = spawned;
    all.extend(warnings);
    Ok(Init {
        pid,
        pidfd,
        channel: Some(channel),
        cgroup: cgroup.clone(),
        console,
        progress: Some(progress),
        warnings: all,
        hooks,
    })
}

/// Hears the child until it waits for its start; what hooks ask for is done in between.
pub(crate) fn await_ready(
    spawned: &Spawned,
    progress: &Progress,
    hooks: Option<&hooks::Plan>,
) -> Result<(Vec<String>, Option<OwnedFd>), Error> {
    loop {
        match spawned.hear(progress)? {
            FromChild::Ready { warnings, console } => return Ok((warnings, console)),
            FromChild::Hooks => {
                if let Some(hooks) = hooks {
                    hooks.run(Point::CreateRuntime, spawned.pid.as_raw_nonzero().get())?;
                }
                tell_child(spawned.channel.as_fd(), FromParent::Continue)
                    .at(Step::RuntimeHooks, || "child")?;
            }
            FromChild::Successor(_) | FromChild::Failed(_) => {
                return Err(Failure::new(Step::Report, Errno::PROTO, "unexpected word of the child").into());
            }
        }
    }
}

/// Lets a waiting child execute, and says what became of it.
pub(crate) fn release(channel: &OwnedFd, progress: Option<&Progress>) -> Result<(), Error> {
    let lost = || Error::ChildLost {
        step: progress.map_or(Step::Ready, Progress::current),
    };
    match tell_child(channel.as_fd(), FromParent::Start) {
        Ok(()) => {}
        Err(Errno::PIPE | Errno::CONNRESET) => return Err(lost()),
        Err(errno) => return Err(Failure::new(Step::Report, errno, "start").into()),
    }
    match hear_child(channel.as_fd(), PATIENCE) {
        // The channel is close-on-exec: its end is the program's beginning, unless a failure was noted.
        Err(Silence::Closed) => match progress.and_then(Progress::failure) {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        },
        Ok(FromChild::Failed(failure)) => Err(failure.into()),
        Err(Silence::TimedOut) => Err(Error::Stuck {
            step: progress.map_or(Step::Exec, Progress::current),
            seconds: PATIENCE.as_secs(),
        }),
        _ => Err(Failure::new(Step::Report, Errno::PROTO, "unexpected word of the child").into()),
    }
}

fn plan(
    request: CreateRequest<'_>,
    progress: &Progress,
    layout: &Layout<'_>,
    cgroup: &Cgroup,
    hooks: Option<hooks::Plan>,
) -> Result<InitPlan, Error> {
    let spec = request.spec;
    let linux = spec.linux().as_ref();
    progress.enter(Step::CompileSeccomp);
    let process = ProcessPlan::new(
        process_of(spec)?,
        linux.and_then(|linux| linux.seccomp().as_ref()),
        &request.io,
    )?;
    progress.enter(Step::MakeRootfs);
    let mut mapping = |uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]| mapping(uids, gids, layout);
    if let RootfsSource::Overlay {
        upper, mapped: true, ..
    } = &request.rootfs
    {
        rootfs::give_away(upper, &layout.uids, &layout.gids)?;
    }
    let rootfs = rootfs::make(&request.rootfs, || mapping(&[], &[]))?;
    progress.enter(Step::MakeMounts);
    let mounts = mounts::plan(spec, request.bundle, cgroup, &mut mapping)?;
    let devices = devices::plan(spec, &mounts, layout.has_user_namespace())?;
    let sysctls = linux.and_then(|linux| linux.sysctl().clone()).unwrap_or_default();
    namespace::check_sysctls(&sysctls, layout)?;
    let paths = |of: Option<&Vec<String>>| of.cloned().unwrap_or_default();
    Ok(InitPlan {
        rootfs,
        read_only: spec.root().as_ref().and_then(|root| root.readonly()) == Some(true),
        propagation: propagation(linux.and_then(|linux| linux.rootfs_propagation().as_deref()))?,
        mounts,
        devices,
        masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
        read_only_paths: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
        sysctls: sysctls.into_iter().collect(),
        hostname: name("hostname", spec.hostname())?,
        domainname: name("domainname", spec.domainname())?,
        hooks,
        process,
        io: request.io,
    })
}

/// The user namespace by which a mount's ids are mapped: one of its own, or the container's.
fn mapping(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping], layout: &Layout<'_>) -> Result<OwnedFd, Error> {
    if !uids.is_empty() && !gids.is_empty() {
        return namespace::user_namespace(&namespace::id_mappings(uids), &namespace::id_mappings(gids));
    }
    if let Some((_, link)) = layout.join.iter().find(|(kind, _)| *kind == Namespace::User) {
        return Ok(link.try_clone().at(Step::MakeMounts, || "user namespace")?);
    }
    if layout.new.has(Namespace::User) {
        return namespace::user_namespace(&layout.uids, &layout.gids);
    }
    Err(Error::spec(
        "mounts.options",
        "idmap",
        "needs uidMappings and gidMappings, or a user namespace",
    ))
}

fn process_of(spec: &Spec) -> Result<&Process, Error> {
    spec.process()
        .as_ref()
        .ok_or_else(|| Error::spec("process", "", "a container needs a process"))
}

fn cgroup_path(spec: &Spec) -> Result<CgroupPath, Error> {
    let path = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_ref());
    let path = path.ok_or_else(|| Error::spec("linux.cgroupsPath", "", "give an absolute path"))?;
    path.to_string_lossy().parse()
}

fn name(field: &'static str, name: &Option<String>) -> Result<Option<String>, Error> {
    match name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if name.len() > 64 || name.chars().any(char::is_control) => Err(Error::spec(
            field,
            name,
            "is at most 64 bytes without control characters",
        )),
        name => Ok(name.map(str::to_owned)),
    }
}

fn propagation(text: Option<&str>) -> Result<Option<MountPropagationFlags>, Error> {
    let rec = MountPropagationFlags::REC;
    Ok(Some(match text {
        None | Some("" | "private" | "rprivate") => return Ok(None),
        Some("slave") => MountPropagationFlags::DOWNSTREAM,
        Some("rslave") => MountPropagationFlags::DOWNSTREAM | rec,
        Some("shared") => MountPropagationFlags::SHARED,
        Some("rshared") => MountPropagationFlags::SHARED | rec,
        Some("unbindable") => MountPropagationFlags::UNBINDABLE,
        Some("runbindable") => MountPropagationFlags::UNBINDABLE | rec,
        Some(other) => {
            return Err(Error::spec(
                "linux.rootfsPropagation",
                other,
                "give [r]private, [r]slave, [r]shared or [r]unbindable",
            ));
        }
    }))
}

impl Init {
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

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The master of its terminal, once.
    pub fn take_console(&mut self) -> Option<OwnedFd> {
        self.console.take()
    }

    /// What it took so far; of an adopted one nothing is known.
    #[must_use]
    pub fn steps(&self) -> Vec<coracle_types::steps::Step> {
        self.progress.as_ref().map(Progress::steps).unwrap_or_default()
    }

    /// What could not be applied and was gone on without, in words; each is worth one log line.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The socket over which it is started; with it and [`Init::adopt`] another process can do that. The
    /// waiting child ends when its last copy is closed.
    #[must_use]
    pub fn start_channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// An init that another process made; without a channel it was started already.
    #[must_use]
    pub fn adopt(pid: Pid, pidfd: OwnedFd, cgroup: Cgroup, channel: Option<OwnedFd>) -> Self {
        Self {
            pid,
            pidfd,
            channel,
            cgroup,
            console: None,
            progress: None,
            warnings: Vec::new(),
            hooks: None,
        }
    }

    /// Lets it execute its program, and returns when it has.
    ///
    /// # Errors
    /// [`Error::Command`] when the program cannot be executed; the process ends then, and it is the
    /// caller's to reap. [`Error::Spec`] when it was started before.
    pub fn start(&mut self) -> Result<(), Error> {
        let channel = self.channel.take().ok_or_else(|| {
            Error::spec(
                "start",
                self.pid.as_raw_nonzero().to_string(),
                "the container was started before",
            )
        })?;
        release(&channel, self.progress.as_ref())?;
        if let Some(hooks) = self.hooks.as_ref().filter(|hooks| hooks.has(Point::Poststart))
            && let Err(error) = hooks.run(Point::Poststart, self.pid.as_raw_nonzero().get())
        {
            self.warnings.push(error.to_string());
        }
        Ok(())
    }

    /// Kills and reaps it and removes its cgroup: for one that was made and is not wanted any more.
    ///
    /// # Errors
    /// When its cgroup cannot be emptied and removed.
    pub fn discard(self) -> Result<(), Error> {
        let _ = self.cgroup.kill();
        kill_and_reap(self.pidfd.as_fd());
        self.cgroup.remove()
    }
}

/// Opens what is missing of descriptors 0, 1 and 2, since what else got these numbers would be overwritten.
pub(crate) fn fill_stdio() -> Result<(), Error> {
    loop {
        let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .at(Step::ReadSpec, || "/dev/null")?;
        if std::os::fd::AsRawFd::as_raw_fd(&null) > 2 {
            return Ok(());
        }
        std::mem::forget(null);
    }
}
