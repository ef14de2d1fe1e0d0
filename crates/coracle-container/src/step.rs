//! Steps of making a process in a container, named so that what fails or hangs is said by name.

use std::sync::atomic::Ordering;
use std::time::Duration;

use coracle_sys::shared::{SharedPage, WORDS};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

macro_rules! steps {
    ($($variant:ident = $name:literal,)*) => {
        /// One step; its text is what errors and waterfalls show.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Step {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Step {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

steps! {
    ReadSpec = "read specification",
    MakeCgroup = "make cgroup",
    LimitCgroup = "limit cgroup",
    OpenNamespaces = "open namespaces",
    CompileSeccomp = "compile seccomp",
    MakeRootfs = "make rootfs",
    MakeMounts = "make mounts",
    Clone = "clone",
    MapIds = "map ids",
    OomScore = "oom score",
    JoinCgroup = "join cgroup",
    JoinNamespaces = "join namespaces",
    NewNamespaces = "new namespaces",
    RuntimeHooks = "runtime hooks",
    DetachPropagation = "detach propagation",
    AttachRootfs = "attach rootfs",
    AttachMounts = "attach mounts",
    MakeDevices = "make devices",
    OpenConsole = "open console",
    ContainerHooks = "container hooks",
    MaskPaths = "mask paths",
    ReadonlyPaths = "read-only paths",
    PivotRoot = "pivot root",
    Sysctls = "sysctls",
    Hostname = "hostname",
    Loopback = "loopback",
    Limits = "resource limits",
    ConnectStdio = "connect stdio",
    Label = "security label",
    WorkingDirectory = "working directory",
    SetUser = "set user",
    SetCapabilities = "set capabilities",
    NoNewPrivileges = "no new privileges",
    InstallSeccomp = "install seccomp",
    FindCommand = "find command",
    Ready = "ready",
    StartHooks = "start hooks",
    CloseDescriptors = "close descriptors",
    Exec = "exec",
    PinNamespaces = "pin namespaces",
    Report = "report",
}

impl Step {
    pub(crate) fn from_number(number: u8) -> Self {
        Self::ALL
            .get(usize::from(number))
            .copied()
            .unwrap_or(Self::Report)
    }
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A step that failed, in parent or child.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: Errno,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(step: Step, errno: Errno, detail: impl Into<String>) -> Self {
        Self {
            step,
            errno,
            detail: detail.into(),
        }
    }
}

/// Says at which step and on what subject a call failed.
pub(crate) trait At<T> {
    fn at<D: Into<String>>(self, step: Step, detail: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T> At<T> for Result<T, Errno> {
    fn at<D: Into<String>>(self, step: Step, detail: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|errno| Failure::new(step, errno, detail()))
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at<D: Into<String>>(self, step: Step, detail: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, Errno::from_io_error(&error).unwrap_or(Errno::IO), detail()))
    }
}

/// When each step began, on a page that parent and child share.
#[derive(Debug)]
pub(crate) struct Progress {
    page: SharedPage,
    began: u64,
}

const NANOS: u64 = (1 << 56) - 1;
/// The last word of the page tells of a failure.
const FAILURE: usize = WORDS - 1;

impl Progress {
    pub(crate) fn new() -> Result<Self, Failure> {
        let page = SharedPage::new().at(Step::ReadSpec, || "mmap of the progress page")?;
        Ok(Self {
            page,
            began: monotonic(),
        })
    }

    /// From now on this step runs.
    pub(crate) fn enter(&self, step: Step) {
        let words = self.page.words();
        let index = words[0].fetch_add(1, Ordering::AcqRel) + 1;
        if let Some(word) = usize::try_from(index)
            .ok()
            .and_then(|index| words[..FAILURE].get(index))
        {
            let since = monotonic().saturating_sub(self.began) & NANOS;
            word.store((u64::from(step as u8) << 56) | since, Ordering::Release);
        }
    }

    /// The step entered last.
    pub(crate) fn current(&self) -> Step {
        self.entries().last().map_or(Step::ReadSpec, |(step, _)| *step)
    }

    /// Notes a failure where the parent finds it even if the child can send nothing any more.
    pub(crate) fn fail(&self, failure: &Failure) {
        let errno = u64::from(failure.errno.raw_os_error().unsigned_abs());
        self.page.words()[FAILURE].store(
            (1 << 63) | (u64::from(failure.step as u8) << 32) | errno,
            Ordering::Release,
        );
    }

    /// The failure noted, without its detail.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let word = self.page.words()[FAILURE].load(Ordering::Acquire);
        if word >> 63 == 0 {
            return None;
        }
        let step = Step::from_number(u8::try_from((word >> 32) & 0xff).unwrap_or(u8::MAX));
        let errno = i32::try_from(word & 0xffff).unwrap_or(1).clamp(1, 4095);
        Some(Failure::new(
            step,
            Errno::from_raw_os_error(errno),
            "no detail could be sent",
        ))
    }

    fn entries(&self) -> Vec<(Step, Duration)> {
        let words = self.page.words();
        let count = usize::try_from(words[0].load(Ordering::Acquire))
            .unwrap_or(0)
            .min(FAILURE - 1);
        words[1..=count]
            .iter()
            .map(|word| {
                let word = word.load(Ordering::Acquire);
                let number = u8::try_from(word >> 56).unwrap_or(u8::MAX);
                (Step::from_number(number), Duration::from_nanos(word & NANOS))
            })
            .collect()
    }

    /// The steps so far with their times; the last is still under way.
    pub(crate) fn steps(&self) -> Vec<coracle_types::steps::Step> {
        let entries = self.entries();
        let ends = entries
            .iter()
            .skip(1)
            .map(|(_, start)| Some(*start))
            .chain(std::iter::once(None));
        entries
            .iter()
            .zip(ends)
            .map(|((step, start), end)| coracle_types::steps::Step {
                name: format!("container.{step}"),
                start: *start,
                took: end.map(|end| end.saturating_sub(*start)),
            })
            .collect()
    }
}

fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_back_in_order_with_their_times() {
        let progress = Progress::new().unwrap();
        progress.enter(Step::Clone);
        progress.enter(Step::Exec);
        assert_eq!(progress.current(), Step::Exec);
        let steps = progress.steps();
        assert_eq!(steps[0].name, "container.clone");
        assert!(steps[0].took.is_some() && steps[1].took.is_none());
    }
}
