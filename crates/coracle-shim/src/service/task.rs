//! containerd's Task service, version 3.

use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api;
use containerd_shim_protos::shim_async::Task;
use coracle_container::{ConsoleSize, RootfsSource};
use coracle_proto::shim_ext::CGROUP2_METRICS;
use coracle_types::container::Exit;
use coracle_types::signal::Signal;
use coracle_types::{ContainerId, ExecId};
use oci_spec::runtime::{LinuxResources, Process};
use protobuf::{EnumOrUnknown, Message as _, MessageField};
use ttrpc::r#async::TtrpcContext;

use super::{timestamp, unsigned};
use crate::container::Wanted;
use crate::error::Error;
use crate::pod::Pod;
use crate::stdio::Streams;

pub(super) struct Service(pub(super) Arc<Pod>);

fn container(id: &str) -> Result<ContainerId, Error> {
    Ok(id.parse()?)
}

/// Absent when the request is about the container's init.
fn exec(id: &str) -> Result<Option<ExecId>, Error> {
    if id.is_empty() {
        Ok(None)
    } else {
        Ok(Some(id.parse()?))
    }
}

/// The root file system that `mounts` describe: none for one that lies ready in the bundle.
fn rootfs(request: &api::CreateTaskRequest) -> Result<RootfsSource, Error> {
    let mount = match request.rootfs.as_slice() {
        [] => {
            return Ok(RootfsSource::Path(
                std::path::Path::new(&request.bundle).join("rootfs"),
            ));
        }
        [mount] => mount,
        _ => {
            return Err(Error::field(
                "rootfs",
                "several mounts",
                "give one overlay or bind mount",
            ));
        }
    };
    match mount.type_.as_str() {
        "bind" | "rbind" => return Ok(RootfsSource::Path(mount.source.clone().into())),
        "overlay" => {}
        other => return Err(Error::field("rootfs.type", other, "give overlay or bind")),
    }
    let mut lowers = Vec::new();
    let (mut upper, mut work) = (None, None);
    for option in &mount.options {
        match option.split_once('=') {
            Some(("lowerdir", dirs)) => lowers.extend(split_lower(dirs)),
            Some(("upperdir", dir)) => upper = Some(dir.into()),
            Some(("workdir", dir)) => work = Some(dir.into()),
            _ => {}
        }
    }
    match (upper, work) {
        (Some(upper), Some(work)) => Ok(RootfsSource::Overlay {
            lowers,
            upper,
            work,
            mapped: mount.options.iter().any(|option| option == "idmap"),
        }),
        (None, None) => Ok(RootfsSource::View { lowers }),
        _ => Err(Error::field(
            "rootfs.options",
            "upperdir, workdir",
            "give both or neither",
        )),
    }
}

/// Splits at `:`; a colon or backslash of a path is escaped by a backslash, as overlay takes it.
fn split_lower(text: &str) -> Vec<std::path::PathBuf> {
    let mut paths = vec![String::new()];
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => paths.push(String::new()),
            '\\' => {
                if let (Some(path), Some(next)) = (paths.last_mut(), characters.next()) {
                    path.push(next);
                }
            }
            other => {
                if let Some(path) = paths.last_mut() {
                    path.push(other);
                }
            }
        }
    }
    paths
        .into_iter()
        .filter(|path| !path.is_empty())
        .map(Into::into)
        .collect()
}

fn status_of(exit: Option<Exit>, started: bool, paused: bool) -> EnumOrUnknown<api::Status> {
    match (exit, started, paused) {
        (Some(_), ..) => api::Status::STOPPED,
        (None, false, _) => api::Status::CREATED,
        (None, true, true) => api::Status::PAUSED,
        (None, true, false) => api::Status::RUNNING,
    }
    .into()
}

fn size(request: &api::ResizePtyRequest) -> Result<ConsoleSize, Error> {
    let side = |field, value: u32| {
        u16::try_from(value).map_err(|_| Error::field(field, &value.to_string(), "at most 65535"))
    };
    Ok(ConsoleSize {
        columns: side("width", request.width)?,
        rows: side("height", request.height)?,
    })
}

impl Service {
    fn state_of(&self, request: &api::StateRequest) -> Result<api::StateResponse, Error> {
        let mut state = self.0.state();
        let container = state.container(&container(&request.id)?)?;
        let mut response = api::StateResponse::new();
        response.id = request.id.clone();
        response.exec_id = request.exec_id.clone();
        response.bundle = container.bundle.display().to_string();
        let (pid, exit, started) = match exec(&request.exec_id)? {
            None => (
                container.process.pid,
                container.exited(),
                container.started_at.is_some(),
            ),
            Some(id) => {
                let exec = container.exec(&id)?;
                (exec.pid, *exec.exit.borrow(), exec.is_started())
            }
        };
        response.pid = unsigned(pid);
        response.status = status_of(exit, started, container.paused);
        if let Some(exit) = exit {
            response.exit_status = unsigned(exit.code);
            response.exited_at = timestamp(exit.at);
        }
        Ok(response)
    }

    fn metrics(&self, id: &ContainerId) -> Result<protobuf::well_known_types::any::Any, Error> {
        use containerd_shim_protos::cgroups_v2::metrics as wire;
        let stats = self
            .0
            .state()
            .container(id)?
            .cgroup
            .stats()
            .map_err(Error::runtime(id))?;
        let mut cpu = wire::CPUStat::new();
        cpu.usage_usec = stats.cpu_nanos / 1000;
        let mut memory = wire::MemoryStat::new();
        memory.usage = stats.memory_usage;
        memory.anon = stats.memory_rss;
        memory.inactive_file = stats.memory_usage.saturating_sub(stats.memory_working_set);
        memory.usage_limit = stats.memory_limit.unwrap_or(u64::MAX);
        memory.swap_usage = stats.swap_usage;
        memory.pgfault = stats.page_faults;
        memory.pgmajfault = stats.major_page_faults;
        let mut pids = wire::PidsStat::new();
        pids.current = stats.pids;
        pids.limit = stats.pids_limit.unwrap_or(0);
        let mut events = wire::MemoryEvents::new();
        events.oom_kill = stats.oom_kills;
        let mut metrics = wire::Metrics::new();
        metrics.cpu = MessageField::some(cpu);
        metrics.memory = MessageField::some(memory);
        metrics.pids = MessageField::some(pids);
        metrics.memory_events = MessageField::some(events);
        let value = metrics
            .write_to_bytes()
            .map_err(|error| Error::system("encode metrics")(std::io::Error::from(error)))?;
        Ok(any(CGROUP2_METRICS, value))
    }
}

fn any(type_url: &str, value: Vec<u8>) -> protobuf::well_known_types::any::Any {
    let mut any = protobuf::well_known_types::any::Any::new();
    any.type_url = type_url.to_owned();
    any.value = value;
    any
}

fn json<T: serde::de::DeserializeOwned>(
    field: &'static str,
    any: &MessageField<protobuf::well_known_types::any::Any>,
) -> Result<T, Error> {
    let Some(any) = any.as_ref() else {
        return Err(Error::field(field, "", "it is missing"));
    };
    serde_json::from_slice(&any.value).map_err(|error| Error::field(field, &any.type_url, error.to_string()))
}

#[async_trait]
impl Task for Service {
    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        Ok(self.state_of(&request)?)
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        if !request.checkpoint.is_empty() {
            return Err(Error::Unimplemented("restoring from a checkpoint").into());
        }
        let wanted = Wanted {
            id: container(&request.id)?,
            rootfs: rootfs(&request)?,
            streams: Streams::parse(&request.stdin, &request.stdout, &request.stderr)?,
            terminal: request.terminal,
            bundle: request.bundle.into(),
        };
        let mut response = api::CreateTaskResponse::new();
        response.pid = unsigned(self.0.create(wanted)?);
        Ok(response)
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let id = container(&request.id)?;
        let pid = match exec(&request.exec_id)? {
            None => self.0.start(&id)?,
            Some(exec) => self.0.start_exec(&id, &exec)?,
        };
        let mut response = api::StartResponse::new();
        response.pid = unsigned(pid);
        Ok(response)
    }

    async fn delete(
        &self,
        _: &TtrpcContext,
        request: api::DeleteRequest,
    ) -> ttrpc::Result<api::DeleteResponse> {
        let id = container(&request.id)?;
        let (pid, exit) = match exec(&request.exec_id)? {
            None => self.0.delete(&id).await.map(|(pid, exit)| (pid, Some(exit)))?,
            Some(exec) => self.0.delete_exec(&id, &exec)?,
        };
        let mut response = api::DeleteResponse::new();
        response.pid = unsigned(pid);
        if let Some(exit) = exit {
            response.exit_status = unsigned(exit.code);
            response.exited_at = timestamp(exit.at);
        }
        Ok(response)
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let id = container(&request.id)?;
        let pids = self
            .0
            .state()
            .container(&id)?
            .cgroup
            .processes()
            .map_err(Error::runtime(&id))?;
        let mut response = api::PidsResponse::new();
        response.processes = pids
            .into_iter()
            .map(|pid| {
                let mut process = api::ProcessInfo::new();
                process.pid = unsigned(pid.as_raw_nonzero().get());
                process
            })
            .collect();
        Ok(response)
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        self.0.pause(&container(&request.id)?, true)?;
        Ok(api::Empty::new())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        self.0.pause(&container(&request.id)?, false)?;
        Ok(api::Empty::new())
    }

    async fn checkpoint(&self, _: &TtrpcContext, _: api::CheckpointTaskRequest) -> ttrpc::Result<api::Empty> {
        Err(Error::Unimplemented("checkpoint").into())
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let id = container(&request.id)?;
        let signal = u8::try_from(request.signal)
            .ok()
            .and_then(|number| Signal::try_from(number).ok());
        let signal = signal.ok_or_else(|| {
            Error::field(
                "signal",
                &request.signal.to_string(),
                "give a number from 1 to 64",
            )
        })?;
        match exec(&request.exec_id)? {
            None => self.0.kill(&id, signal, request.all)?,
            Some(exec) => self.0.kill_exec(&id, &exec, signal)?,
        }
        Ok(api::Empty::new())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        let id = container(&request.id)?;
        let Some(exec) = exec(&request.exec_id)? else {
            return Err(Error::field("exec_id", "", "it is missing").into());
        };
        let mut process: Process = json("spec", &request.spec)?;
        process.set_terminal(Some(request.terminal));
        let streams = Streams::parse(&request.stdin, &request.stdout, &request.stderr)?;
        self.0.declare_exec(&id, exec, process, streams)?;
        Ok(api::Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: api::ResizePtyRequest,
    ) -> ttrpc::Result<api::Empty> {
        let id = container(&request.id)?;
        match exec(&request.exec_id)? {
            None => self.0.resize(&id, size(&request)?)?,
            Some(exec) => self.0.resize_exec(&id, &exec, size(&request)?)?,
        }
        Ok(api::Empty::new())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        if request.stdin && request.exec_id.is_empty() {
            self.0.close_stdin(&container(&request.id)?)?;
        }
        Ok(api::Empty::new())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let resources: LinuxResources = json("resources", &request.resources)?;
        self.0.update(&container(&request.id)?, &resources)?;
        Ok(api::Empty::new())
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let id = container(&request.id)?;
        let exit = match exec(&request.exec_id)? {
            None => self.0.wait(&id).await?,
            Some(exec) => self.0.wait_exec(&id, &exec).await?,
        };
        let mut response = api::WaitResponse::new();
        response.exit_status = unsigned(exit.code);
        response.exited_at = timestamp(exit.at);
        Ok(response)
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let mut response = api::StatsResponse::new();
        response.stats = MessageField::some(self.metrics(&container(&request.id)?)?);
        Ok(response)
    }

    async fn connect(
        &self,
        _: &TtrpcContext,
        request: api::ConnectRequest,
    ) -> ttrpc::Result<api::ConnectResponse> {
        let mut response = api::ConnectResponse::new();
        response.shim_pid = std::process::id();
        response.version = env!("CARGO_PKG_VERSION").to_owned();
        if let Ok(id) = container(&request.id)
            && let Ok(container) = self.0.state().container(&id)
        {
            response.task_pid = unsigned(container.process.pid);
        }
        Ok(response)
    }

    /// As containerd means it: the shim leaves when it has nothing left to do.
    async fn shutdown(&self, _: &TtrpcContext, request: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        if request.now || self.0.state().containers.is_empty() {
            self.0.tear_down().await?;
            self.0.leave();
        }
        Ok(api::Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use coracle_types::time::UnixNanos;

    use super::*;

    fn request(kind: &str, options: &[&str]) -> api::CreateTaskRequest {
        let mut mount = api::Mount::new();
        mount.type_ = kind.into();
        mount.options = options.iter().map(ToString::to_string).collect();
        let mut request = api::CreateTaskRequest::new();
        request.rootfs = vec![mount];
        request
    }

    #[test]
    fn overlay_options_become_directories() {
        let options = [
            "lowerdir=/a:/b\\:c:/d\\\\e",
            "upperdir=/u",
            "workdir=/w",
            "index=off",
        ];
        let RootfsSource::Overlay {
            lowers, upper, work, ..
        } = rootfs(&request("overlay", &options)).expect("an overlay")
        else {
            panic!("an overlay");
        };
        assert_eq!(lowers, ["/a", "/b:c", "/d\\e"].map(std::path::PathBuf::from));
        assert_eq!((upper, work), ("/u".into(), "/w".into()));
    }

    #[test]
    fn half_an_overlay_is_refused() {
        assert!(rootfs(&request("overlay", &["lowerdir=/a", "upperdir=/u"])).is_err());
        assert!(rootfs(&request("ext4", &[])).is_err());
    }

    #[test]
    fn times_of_never_are_absent() {
        assert!(timestamp(UnixNanos(0)).is_none());
        assert_eq!(timestamp(UnixNanos(1_500_000_000)).nanos, 500_000_000);
    }
}
