//! A process as the specification wants it, read by the parent, and the last steps before it executes.

use std::ffi::CString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use coracle_sys::exec::StringArray;
use coracle_sys::process::{CloseRange, close_from, set_umask};
use coracle_sys::{exec, ids, seccomp as filter};
use oci_spec::runtime::{LinuxSeccomp, PosixRlimit, PosixRlimitType, Process};
use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, accessat, fchown, stat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, fchdir, getrlimit, setrlimit};
use rustix::thread::{set_keep_capabilities, set_no_new_privs};

use crate::capabilities::Sets;
use crate::error::{CommandProblem, Error};
use crate::paths::{Root, Target};
use crate::process_io::{ConsoleSize, ProcessIo};
use crate::procfs::ProcFs;
use crate::program;
use crate::seccomp::{self, Program};
use crate::step::{At as _, Failure, Progress, Step};

/// Everything a child needs for its last steps, so that it parses nothing any more.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    arguments: StringArray,
    environment: StringArray,
    command: String,
    search: String,
    cwd: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    groups: Vec<u32>,
    umask: u32,
    capabilities: Sets,
    pub(crate) no_new_privileges: bool,
    limits: Vec<(Resource, Rlimit)>,
    pub(crate) oom_score_adj: Option<i32>,
    pub(crate) seccomp: Option<Program>,
    label: Option<Label>,
    pub(crate) terminal: bool,
    pub(crate) console_size: Option<ConsoleSize>,
}

/// What is written so that the next exec changes the security context.
#[derive(Debug)]
struct Label {
    files: &'static [&'static str],
    value: String,
}

/// As execvp(3) falls back to, with the directories of administrators.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ProcessPlan {
    pub(crate) fn new(
        process: &Process,
        profile: Option<&LinuxSeccomp>,
        io: &ProcessIo,
    ) -> Result<Self, Error> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let command = arguments.first().filter(|command| !command.is_empty());
        let command = command
            .ok_or_else(|| Error::spec("process.args", "", "name a command to execute"))?
            .clone();
        let environment = process.env().as_deref().unwrap_or_default();
        let strings = |field, texts: &[String]| {
            StringArray::from_text(texts.iter().map(String::as_str))
                .map_err(|_| Error::spec(field, "", "contains a NUL byte, which the kernel cannot pass on"))
        };
        let cwd = process
            .cwd()
            .to_str()
            .filter(|cwd| cwd.starts_with('/') && !cwd.contains('\0'));
        let cwd = cwd.ok_or_else(|| {
            Error::spec(
                "process.cwd",
                process.cwd().to_string_lossy(),
                "give an absolute path in UTF-8",
            )
        })?;
        let user = process.user();
        if user.uid() == u32::MAX || user.gid() == u32::MAX {
            return Err(Error::spec(
                "process.user",
                "4294967295",
                "is no id: the kernel takes it for `unchanged`",
            ));
        }
        let search = environment
            .iter()
            .rev()
            .find_map(|pair| pair.strip_prefix("PATH="));
        let given_size = process.console_size().map(|size| ConsoleSize {
            columns: u16::try_from(size.width()).unwrap_or(0),
            rows: u16::try_from(size.height()).unwrap_or(0),
        });
        let (terminal, console_size) = match io {
            ProcessIo::Stdio(_) => (false, None),
            ProcessIo::Console(size) => (true, size.or(given_size)),
        };
        Ok(Self {
            arguments: strings("process.args", arguments)?,
            environment: strings("process.env", environment)?,
            command,
            search: search.unwrap_or(DEFAULT_PATH).to_owned(),
            cwd: cwd.into(),
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(0o022) & 0o777,
            capabilities: Sets::new(process.capabilities().as_ref()),
            no_new_privileges: process.no_new_privileges() == Some(true),
            limits: process
                .rlimits()
                .iter()
                .flatten()
                .map(limit)
                .collect::<Result<_, _>>()?,
            oom_score_adj: oom_score_adj(process)?,
            seccomp: profile.map(seccomp::compile).transpose()?,
            label: label(process)?,
            terminal,
            console_size,
        })
    }

    /// Steps that need privileges, in the container's namespaces and root. Returns what was gone on without.
    pub(crate) fn prepare(
        &self,
        progress: &Progress,
        procfs: &ProcFs,
        root: &Root,
        warnings: &mut Vec<String>,
    ) -> Result<Prepared, Failure> {
        progress.enter(Step::Limits);
        for (resource, wanted) in &self.limits {
            set_limit(*resource, *wanted, warnings)?;
        }
        progress.enter(Step::Label);
        if let Some(label) = &self.label {
            label.write(procfs)?;
        }
        progress.enter(Step::WorkingDirectory);
        let directory = self.open_cwd(root)?;
        set_umask(self.umask);
        if !self.no_new_privileges {
            // Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before that is dropped.
            progress.enter(Step::InstallSeccomp);
            self.install_seccomp()?;
        }
        progress.enter(Step::SetUser);
        self.change_user()?;
        progress.enter(Step::SetCapabilities);
        let lacking = self.capabilities.apply().at(Step::SetCapabilities, || "capset")?;
        if !lacking.is_empty() {
            warnings.push(format!(
                "capabilities that this runtime lacks itself were left out: {lacking:?}"
            ));
        }
        progress.enter(Step::WorkingDirectory);
        self.enter_cwd(&directory)?;
        if self.no_new_privileges {
            set_no_new_privs(true).at(Step::NoNewPrivileges, || "prctl")?;
        }
        progress.enter(Step::FindCommand);
        let program = self.find_command()?;
        Ok(Prepared { program })
    }

    /// Executes the program; comes back only with what went wrong. `keep` stays open until it has worked.
    pub(crate) fn execute(&self, prepared: &Prepared, progress: &Progress) -> Failure {
        progress.enter(Step::CloseDescriptors);
        if let Err(errno) = close_from(3, CloseRange::OnExec) {
            return Failure::new(Step::CloseDescriptors, errno, "close_range");
        }
        if self.no_new_privileges {
            progress.enter(Step::InstallSeccomp);
            if let Err(failure) = self.install_seccomp() {
                return failure;
            }
        }
        progress.enter(Step::Exec);
        let errno = exec::exec(&prepared.program, &self.arguments, &self.environment);
        let about = program::describe(&prepared.program);
        Failure::new(Step::Exec, errno, CommandProblem::detail(&self.command, &about))
    }

    fn install_seccomp(&self) -> Result<(), Failure> {
        match &self.seccomp {
            Some(program) => filter::install(&program.filter, program.flags)
                .map(drop)
                .at(Step::InstallSeccomp, || {
                    format!("filter of {} instructions", program.filter.len())
                }),
            None => Ok(()),
        }
    }

    /// Opened inside the root with no magic link followed: a path like /proc/self/fd/7 leads nowhere
    /// outside (class CVE-2024-21626).
    fn open_cwd(&self, root: &Root) -> Result<OwnedFd, Failure> {
        root.ensure(&self.cwd, Target::Directory)
            .at(Step::WorkingDirectory, || self.cwd.clone())
    }

    fn enter_cwd(&self, directory: &OwnedFd) -> Result<(), Failure> {
        let step = Step::WorkingDirectory;
        fchdir(directory).at(step, || self.cwd.clone())?;
        // getcwd(2) puts `(unreachable)` before what lies outside the root.
        let here = rustix::process::getcwd(Vec::new()).at(step, || self.cwd.clone())?;
        if here.to_bytes().starts_with(b"/") {
            return Ok(());
        }
        Err(Failure::new(
            step,
            Errno::XDEV,
            format!("{} lies outside the container's root", self.cwd),
        ))
    }

    fn change_user(&self) -> Result<(), Failure> {
        let step = Step::SetUser;
        self.capabilities
            .bound()
            .at(Step::SetCapabilities, || "bounding set")?;
        set_keep_capabilities(true).at(step, || "keep capabilities")?;
        ids::set_groups(&self.groups).at(step, || format!("groups {:?}", self.groups))?;
        ids::set_group(self.gid).at(step, || format!("group {}", self.gid))?;
        ids::set_user(self.uid).at(step, || format!("user {}", self.uid))?;
        set_keep_capabilities(false).at(step, || "keep capabilities")
    }

    /// Where the command lies, as execvp(3) looks it up, seen to be executable for the user.
    fn find_command(&self) -> Result<CString, Failure> {
        let fail = |errno| Failure::new(Step::FindCommand, errno, self.command.as_str());
        if self.command.contains('/') {
            let path = CString::new(self.command.as_str()).map_err(|_| fail(Errno::INVAL))?;
            return check_command(&path).map(|()| path).map_err(fail);
        }
        let mut worst = Errno::NOENT;
        for directory in self.search.split(':') {
            let directory = if directory.is_empty() { "." } else { directory };
            let Ok(path) = CString::new(format!("{directory}/{}", self.command)) else {
                continue;
            };
            match check_command(&path) {
                Ok(()) => return Ok(path),
                Err(Errno::ACCESS | Errno::ISDIR) if worst == Errno::NOENT => worst = Errno::ACCESS,
                Err(_) => {}
            }
        }
        let about = format!("PATH is {:?}", self.search);
        Err(Failure::new(
            Step::FindCommand,
            worst,
            CommandProblem::detail(&self.command, &about),
        ))
    }

    /// Gives what is behind 0, 1 and 2 to the user, so that a program may open /dev/stdout again. Devices
    /// and files of others stay as they are.
    pub(crate) fn own_stdio(&self, stdio: &[BorrowedFd<'_>]) {
        for fd in stdio {
            let Ok(stat) = rustix::fs::fstat(fd) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Fifo && stat.st_uid != self.uid {
                let _ = fchown(fd, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
            }
        }
    }
}

/// A process with nothing left to do but its exec.
#[derive(Debug)]
pub(crate) struct Prepared {
    program: CString,
}

fn check_command(path: &CString) -> Result<(), Errno> {
    let found = stat(path.as_c_str())?;
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    accessat(CWD, path.as_c_str(), Access::EXEC_OK, AtFlags::EACCESS)
}

/// A hard limit above the present one needs CAP_SYS_RESOURCE; without it the present one stays.
fn set_limit(resource: Resource, wanted: Rlimit, warnings: &mut Vec<String>) -> Result<(), Failure> {
    match setrlimit(resource, wanted) {
        Err(Errno::PERM) => {}
        result => return result.at(Step::Limits, || format!("{resource:?} {wanted:?}")),
    }
    let now = getrlimit(resource);
    let at_most = |limit: Option<u64>| match (limit, now.maximum) {
        (Some(limit), Some(most)) => Some(limit.min(most)),
        (limit, most) => limit.or(most),
    };
    let possible = Rlimit {
        current: at_most(wanted.current),
        maximum: at_most(wanted.maximum),
    };
    setrlimit(resource, possible).at(Step::Limits, || format!("{resource:?} {possible:?}"))?;
    warnings.push(format!(
        "limit {resource:?}: {wanted:?} was asked, {possible:?} is set; raising a hard limit needs CAP_SYS_RESOURCE"
    ));
    Ok(())
}

fn limit(limit: &PosixRlimit) -> Result<(Resource, Rlimit), Error> {
    let resource = match limit.typ() {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    };
    if limit.soft() > limit.hard() {
        return Err(Error::spec(
            "process.rlimits",
            format!("{:?} {} > {}", limit.typ(), limit.soft(), limit.hard()),
            "the soft limit may not be above the hard one",
        ));
    }
    let number = |limit: u64| (limit != u64::MAX).then_some(limit);
    Ok((
        resource,
        Rlimit {
            current: number(limit.soft()),
            maximum: number(limit.hard()),
        },
    ))
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, Error> {
    match process.oom_score_adj() {
        Some(score) if !(-1000..=1000).contains(&score) => Err(Error::spec(
            "process.oomScoreAdj",
            score.to_string(),
            "give -1000 to 1000",
        )),
        score => Ok(score),
    }
}

fn label(process: &Process) -> Result<Option<Label>, Error> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let apparmor = given(process.apparmor_profile()).filter(|profile| profile != "unconfined");
    let selinux = given(process.selinux_label());
    for (field, text) in [
        ("process.apparmorProfile", &apparmor),
        ("process.selinuxLabel", &selinux),
    ] {
        if let Some(text) = text
            && (text.len() > 1024 || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f))
        {
            return Err(Error::spec(
                field,
                text.as_str(),
                "give a name without blanks and control characters",
            ));
        }
    }
    Ok(match (apparmor, selinux) {
        (Some(_), Some(label)) => {
            return Err(Error::spec(
                "process.selinuxLabel",
                label,
                "a process has an AppArmor profile or an SELinux label, not both",
            ));
        }
        (Some(profile), None) => Some(Label {
            files: &["thread-self/attr/apparmor/exec", "thread-self/attr/exec"],
            value: format!("exec {profile}"),
        }),
        (None, Some(label)) => Some(Label {
            files: &["thread-self/attr/exec"],
            value: label,
        }),
        (None, None) => None,
    })
}

impl Label {
    fn write(&self, procfs: &ProcFs) -> Result<(), Failure> {
        let mut result = Err(Errno::NOENT);
        for file in self.files {
            result = procfs.write(file, self.value.as_bytes());
            if !matches!(result, Err(Errno::NOENT)) {
                break;
            }
        }
        result.at(Step::Label, || {
            format!(
                "{:?} (is the profile loaded and its security module enabled?)",
                self.value
            )
        })
    }
}

/// Makes `stdio` descriptors 0, 1 and 2, whatever numbers they have now.
pub(crate) fn connect(stdio: [BorrowedFd<'_>; 3]) -> Result<(), Failure> {
    let step = Step::ConnectStdio;
    let mut high = Vec::with_capacity(3);
    for fd in stdio {
        high.push(rustix::io::fcntl_dupfd_cloexec(fd, 10).at(step, || "dup")?);
    }
    rustix::stdio::dup2_stdin(high[0].as_fd()).at(step, || "stdin")?;
    rustix::stdio::dup2_stdout(high[1].as_fd()).at(step, || "stdout")?;
    rustix::stdio::dup2_stderr(high[2].as_fd()).at(step, || "stderr")
}

/// Opens a root for resolving paths: that of the calling process.
pub(crate) fn own_root(step: Step) -> Result<Root, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/", flags, Mode::empty())
        .map(Root::new)
        .at(step, || "/")
}
