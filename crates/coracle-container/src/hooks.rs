//! Hooks of the OCI runtime specification (config.md, "POSIX-platform Hooks").
//!
//! `prestart` and `createRuntime` run in the runtime's namespaces before the root changes,
//! `createContainer` in the container's before that, `startContainer` right before the program, `poststart`
//! after it, `poststop` when the caller says that the container is gone.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coracle_types::ContainerId;
use oci_spec::runtime::{Hook, Hooks, Spec};
use rustix::process::Pid;
use serde::Serialize;

use crate::error::Error;

/// What a hook reads from its standard input (runtime.md, "State").
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<'a> {
    pub(crate) oci_version: &'a str,
    pub(crate) id: &'a str,
    pub(crate) status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    pub(crate) bundle: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<&'a std::collections::HashMap<String, String>>,
}

/// A point of a container's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
}

/// The hooks of one container with what they are told.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    hooks: Hooks,
    version: String,
    id: String,
    bundle: std::path::PathBuf,
    annotations: Option<std::collections::HashMap<String, String>>,
}

/// Longest that a hook without a timeout of its own may take.
const PATIENCE: Duration = Duration::from_secs(60);

impl Plan {
    /// `None` when there is no hook at all, which is the rule.
    pub(crate) fn new(spec: &Spec, id: &ContainerId, bundle: &Path) -> Option<Self> {
        let hooks = spec.hooks().clone()?;
        Some(Self {
            hooks,
            version: spec.version().clone(),
            id: id.as_str().into(),
            bundle: bundle.into(),
            annotations: spec.annotations().clone(),
        })
    }

    /// Whether there is anything to run at a point.
    pub(crate) fn has(&self, point: Point) -> bool {
        !self.at(point).is_empty()
    }

    fn at(&self, point: Point) -> Vec<&Hook> {
        match point {
            Point::CreateRuntime => {
                #[allow(
                    deprecated,
                    reason = "prestart hooks are still in use, by NVIDIA's toolkit among others"
                )]
                let before = self.hooks.prestart().iter().flatten();
                before
                    .chain(self.hooks.create_runtime().iter().flatten())
                    .collect()
            }
            Point::CreateContainer => self.hooks.create_container().iter().flatten().collect(),
            Point::StartContainer => self.hooks.start_container().iter().flatten().collect(),
            Point::Poststart => self.hooks.poststart().iter().flatten().collect(),
        }
    }

    /// Runs the hooks of a point one after the other; the first that fails ends it.
    pub(crate) fn run(&self, point: Point, pid: i32) -> Result<(), Error> {
        let (name, status) = match point {
            Point::CreateRuntime => ("createRuntime", "creating"),
            Point::CreateContainer => ("createContainer", "creating"),
            Point::StartContainer => ("startContainer", "created"),
            Point::Poststart => ("poststart", "running"),
        };
        let state = State {
            oci_version: &self.version,
            id: &self.id,
            status,
            pid: Some(pid),
            bundle: &self.bundle,
            annotations: self.annotations.as_ref(),
        };
        self.at(point)
            .into_iter()
            .try_for_each(|hook| run_one(hook, name, &state))
    }
}

/// Runs the `poststop` hooks of a container that is gone; every one runs, and the failures are told.
#[must_use]
pub fn poststop(spec: &Spec, id: &ContainerId, bundle: &Path) -> Vec<Error> {
    let hooks = spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
    let state = State {
        oci_version: spec.version(),
        id: id.as_str(),
        status: "stopped",
        pid: None,
        bundle,
        annotations: spec.annotations().as_ref(),
    };
    hooks
        .into_iter()
        .flatten()
        .filter_map(|hook| run_one(hook, "poststop", &state).err())
        .collect()
}

fn run_one(hook: &Hook, point: &'static str, state: &State<'_>) -> Result<(), Error> {
    let fail = |problem: String| Error::Hook {
        point,
        path: hook.path().clone(),
        problem,
    };
    if !hook.path().is_absolute() {
        return Err(fail("the path of a hook must be absolute".into()));
    }
    let mut command = Command::new(hook.path());
    let arguments = hook.args().as_deref().unwrap_or_default();
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear();
    for pair in hook.env().iter().flatten() {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        command.env(key, value);
    }
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    let told = serde_json::to_vec(state).map_err(|error| fail(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read what it is told.
        let _ = input.write_all(&told);
    }
    let patience = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let patience = patience.unwrap_or(PATIENCE);
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if began.elapsed() > patience => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(fail(format!(
                    "was not done after {} s and was killed",
                    patience.as_secs()
                )));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return Err(fail(error.to_string())),
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    if let Some(errors) = child.stderr.take() {
        // Whoever still holds the other end must not hold us.
        let _ = rustix::io::ioctl_fionbio(&errors, true);
        let _ = errors.take(1024).read_to_end(&mut words);
    }
    Err(fail(format!(
        "{status}: {}",
        String::from_utf8_lossy(&words).trim()
    )))
}

/// The number a hook in the container is told: its own view of the init.
pub(crate) fn own_pid() -> i32 {
    Pid::as_raw(Some(rustix::process::getpid()))
}
