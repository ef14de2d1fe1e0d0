//! Further processes as containerd's Task service has them: declared, started, waited for, deleted.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use coracle_container::{ConsoleSize, ContainerProcess, ExecProcess, ExecTree, ProcessIo};
use coracle_sys::signalfd::send_to_pidfd;
use coracle_types::container::Exit;
use coracle_types::signal::Signal;
use coracle_types::{ContainerId, ExecId};
use oci_spec::runtime::Process;
use tokio::sync::watch;

use crate::container::Container;
use crate::error::Error;
use crate::exits::{Awaited, Ended, UNKNOWN};
use crate::pod::Pod;
use crate::stdio::Streams;

/// An exec of a container.
#[derive(Debug)]
pub(crate) struct Exec {
    process: Process,
    streams: Streams,
    terminal: bool,
    running: Option<ExecProcess>,
    console: Option<OwnedFd>,
    pub(crate) pid: i32,
    pub(crate) exit: watch::Sender<Option<Exit>>,
}

impl Exec {
    pub(crate) fn is_started(&self) -> bool {
        self.pid != 0
    }
}

impl Container {
    pub(crate) fn exec(&mut self, exec: &ExecId) -> Result<&mut Exec, Error> {
        let missing = || Error::NoExec {
            container: self.id.clone(),
            exec: exec.clone(),
        };
        self.execs.get_mut(exec).ok_or_else(missing)
    }

    /// Executes `process` beside the container's init.
    pub(crate) fn run_beside(
        &self,
        process: &Process,
        io: ProcessIo,
        tree: ExecTree,
    ) -> Result<ExecProcess, Error> {
        let Some(init) = self.init.as_ref().filter(|_| self.is_running()) else {
            return Err(self.refuse("exec in"));
        };
        let target = ContainerProcess {
            pid: init.pid(),
            pidfd: init.pidfd(),
            spec: &self.spec,
            cgroup: &self.cgroup,
        };
        let running =
            coracle_container::exec(&target, process, io, tree).map_err(Error::runtime(&self.id))?;
        for warning in running.warnings() {
            tracing::warn!(container = %self.id, "exec: {warning}");
        }
        Ok(running)
    }
}

impl Pod {
    /// Declares an exec.
    pub(crate) fn declare_exec(
        &self,
        id: &ContainerId,
        exec: ExecId,
        process: Process,
        streams: Streams,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        if !container.is_running() {
            return Err(container.refuse("exec in"));
        }
        if container.execs.contains_key(&exec) {
            return Err(Error::Exists {
                what: "exec",
                id: exec.to_string(),
            });
        }
        if streams.log().is_some() {
            return Err(Error::field("stdout", "cri-log", "an exec writes no log"));
        }
        let terminal = process.terminal().unwrap_or(false);
        if terminal {
            return Err(Error::Unimplemented("an exec with a terminal over FIFOs"));
        }
        let exit = watch::Sender::new(None);
        let declared = Exec {
            process,
            streams,
            terminal,
            running: None,
            console: None,
            pid: 0,
            exit,
        };
        container.execs.insert(exec, declared);
        Ok(())
    }

    /// Starts a declared exec; its pid.
    pub(crate) fn start_exec(self: &Arc<Self>, id: &ContainerId, exec_id: &ExecId) -> Result<i32, Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        let exec = container.exec(exec_id)?;
        if exec.is_started() {
            return Err(Error::State {
                operation: "start an exec of",
                id: id.clone(),
                state: "running it already",
            });
        }
        let process = exec.process.clone();
        let io = if exec.terminal {
            ProcessIo::Console(None)
        } else {
            ProcessIo::Stdio(exec.streams.open()?.process)
        };
        let mut running = container.run_beside(&process, io, ExecTree::Shared)?;
        let awaited = running
            .pidfd()
            .try_clone_to_owned()
            .and_then(Awaited::new)
            .map_err(Error::system("watch an exec"))?;
        let exec = container.exec(exec_id)?;
        exec.console = running.take_console();
        exec.pid = running.pid().as_raw_nonzero().get();
        exec.running = Some(running);
        let pid = exec.pid;
        let exit = exec.exit.clone();
        tokio::spawn(async move {
            awaited.ended().await;
            let unknown = || Ended {
                code: UNKNOWN,
                at: coracle_types::time::UnixNanos::now(),
                lost: true,
            };
            let ended = awaited.reap().unwrap_or_else(unknown);
            exit.send_replace(Some(Exit {
                code: ended.code,
                at: ended.at,
                oom_killed: false,
                lost: ended.lost,
            }));
        });
        Ok(pid)
    }

    pub(crate) fn kill_exec(&self, id: &ContainerId, exec: &ExecId, signal: Signal) -> Result<(), Error> {
        let mut state = self.state();
        let exec = state.container(id)?.exec(exec)?;
        let Some(running) = exec.running.as_ref().filter(|_| exec.exit.borrow().is_none()) else {
            return Err(Error::Ended(id.clone()));
        };
        send_to_pidfd(running.pidfd(), signal.number()).map_err(Error::system("signal an exec"))
    }

    pub(crate) async fn wait_exec(&self, id: &ContainerId, exec: &ExecId) -> Result<Exit, Error> {
        let exit = self.state().container(id)?.exec(exec)?.exit.subscribe();
        self.told(exit).await
    }

    /// Forgets an exec that has ended or was never started; its pid and end.
    pub(crate) fn delete_exec(
        &self,
        id: &ContainerId,
        exec_id: &ExecId,
    ) -> Result<(i32, Option<Exit>), Error> {
        let mut state = self.state();
        let container = state.container(id)?;
        let exec = container.exec(exec_id)?;
        let (pid, exit) = (exec.pid, *exec.exit.borrow());
        if exec.is_started() && exit.is_none() {
            return Err(Error::State {
                operation: "delete an exec of",
                id: id.clone(),
                state: "running it",
            });
        }
        container.execs.remove(exec_id);
        Ok((pid, exit))
    }

    pub(crate) fn resize_exec(
        &self,
        id: &ContainerId,
        exec: &ExecId,
        size: ConsoleSize,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let exec = state.container(id)?.exec(exec)?;
        let Some(console) = &exec.console else {
            return Err(Error::field("exec_id", id.as_str(), "the exec has no terminal"));
        };
        coracle_container::console::resize(console.as_fd(), size).map_err(Error::system("resize a terminal"))
    }
}
