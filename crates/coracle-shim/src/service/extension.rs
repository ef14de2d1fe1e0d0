//! The extension service `coracle.shim.v1`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coracle_proto::shim_ext::{
    CancelExecRequest, CancelExecResponse, ChangeKeeperRequest, ChangeKeeperResponse, ContainerExit,
    ContainerStatusRequest, ContainerStatusResponse, ExecCaptureEnd, ExecCaptureEvent, ExecCaptureRequest,
    RemoveRemainsRequest, RemoveRemainsResponse, ReopenLogRequest, ReopenLogResponse, SetLogRequest,
    SetLogResponse, Shim, StandInRequest, StandInResponse, WaitContainerRequest, WaitContainerResponse,
    container_status_response::State, exec_capture_event,
};
use coracle_types::ExecId;
use coracle_types::container::Exit;
use protobuf::MessageField;
use ttrpc::r#async::{ServerStreamSender, TtrpcContext};

use crate::capture::{Event, Wanted};
use crate::error::Error;
use crate::pod::Pod;
use crate::sandbox::Remains;

pub(super) struct Service {
    pub(super) pod: Arc<Pod>,
    pub(super) set_log: fn(&str),
}

fn exit_message(exit: Exit) -> MessageField<ContainerExit> {
    let mut message = ContainerExit::new();
    message.code = exit.code;
    message.at_nanos = exit.at.0;
    message.oom_killed = exit.oom_killed;
    message.lost = exit.lost;
    MessageField::some(message)
}

fn event_message(event: Event) -> ExecCaptureEvent {
    let mut message = ExecCaptureEvent::new();
    message.event = Some(match event {
        Event::Stdout(bytes) => exec_capture_event::Event::Stdout(bytes),
        Event::Stderr(bytes) => exec_capture_event::Event::Stderr(bytes),
        Event::End {
            code,
            dropped: [stdout, stderr],
        } => {
            let mut end = ExecCaptureEnd::new();
            end.code = code;
            end.stdout_dropped = stdout;
            end.stderr_dropped = stderr;
            exec_capture_event::Event::End(end)
        }
    });
    message
}

fn capture_wanted(request: ExecCaptureRequest) -> Result<Wanted, Error> {
    let timeout = u64::try_from(request.timeout_nanos).map_err(|_| {
        Error::field(
            "timeout_nanos",
            &request.timeout_nanos.to_string(),
            "give 0 for none or a positive time",
        )
    })?;
    let process = if request.process_file.is_empty() {
        request.process
    } else {
        let path = std::path::PathBuf::from(&request.process_file);
        std::fs::read(&path).map_err(Error::file("read", path))?
    };
    Ok(Wanted {
        id: request.container_id.parse()?,
        process: serde_json::from_slice(&process)
            .map_err(|error| Error::field("process", "", error.to_string()))?,
        timeout: Some(Duration::from_nanos(timeout)).filter(|timeout| !timeout.is_zero()),
        limit: request.limit,
        exec: if request.exec_id.is_empty() {
            ExecId::generate()
        } else {
            request.exec_id.parse()?
        },
    })
}

#[async_trait]
impl Shim for Service {
    async fn reopen_log(
        &self,
        _: &TtrpcContext,
        request: ReopenLogRequest,
    ) -> ttrpc::Result<ReopenLogResponse> {
        self.pod
            .reopen_log(&request.container_id.parse().map_err(Error::from)?)?;
        Ok(ReopenLogResponse::new())
    }

    async fn exec_capture(
        &self,
        _: &TtrpcContext,
        request: ExecCaptureRequest,
        stream: ServerStreamSender<ExecCaptureEvent>,
    ) -> ttrpc::Result<()> {
        let wanted = capture_wanted(request)?;
        let stream = &stream;
        let send = |event| async move { stream.send(&event_message(event)).await.is_ok() };
        Ok(self.pod.capture(wanted, send).await?)
    }

    async fn container_status(
        &self,
        _: &TtrpcContext,
        request: ContainerStatusRequest,
    ) -> ttrpc::Result<ContainerStatusResponse> {
        let mut state = self.pod.state();
        let container = state.container(&request.container_id.parse().map_err(Error::from)?)?;
        let mut response = ContainerStatusResponse::new();
        response.state = match (container.exited(), container.started_at, container.paused) {
            (Some(_), ..) => State::EXITED,
            (None, None, _) => State::CREATED,
            (None, Some(_), true) => State::PAUSED,
            (None, Some(_), false) => State::RUNNING,
        }
        .into();
        response.pid = container.process.pid;
        response.created_at_nanos = container.created_at.0;
        response.started_at_nanos = container.started_at.map_or(0, |at| at.0);
        response.exit = container.exited().map_or_else(MessageField::none, exit_message);
        response.log_bytes_lost = container.log.as_ref().map_or(0, |log| log.lost());
        Ok(response)
    }

    async fn wait_container(
        &self,
        _: &TtrpcContext,
        request: WaitContainerRequest,
    ) -> ttrpc::Result<WaitContainerResponse> {
        let exit = self
            .pod
            .wait(&request.container_id.parse().map_err(Error::from)?)
            .await?;
        let mut response = WaitContainerResponse::new();
        response.exit = exit_message(exit);
        Ok(response)
    }

    async fn begin_stand_in(
        &self,
        _: &TtrpcContext,
        request: StandInRequest,
    ) -> ttrpc::Result<StandInResponse> {
        let mut response = StandInResponse::new();
        response.pid = self.pod.begin_stand_in(&request.id)?;
        Ok(response)
    }

    async fn end_stand_in(
        &self,
        _: &TtrpcContext,
        request: StandInRequest,
    ) -> ttrpc::Result<StandInResponse> {
        self.pod.end_stand_in(&request.id);
        Ok(StandInResponse::new())
    }

    async fn change_keeper(
        &self,
        _: &TtrpcContext,
        request: ChangeKeeperRequest,
    ) -> ttrpc::Result<ChangeKeeperResponse> {
        self.pod.change_keeper(request.socket.as_ref())?;
        Ok(ChangeKeeperResponse::new())
    }

    async fn set_log(&self, _: &TtrpcContext, request: SetLogRequest) -> ttrpc::Result<SetLogResponse> {
        (self.set_log)(&request.filter);
        Ok(SetLogResponse::new())
    }

    async fn cancel_exec(
        &self,
        _: &TtrpcContext,
        request: CancelExecRequest,
    ) -> ttrpc::Result<CancelExecResponse> {
        let container = request.container_id.parse().map_err(Error::from)?;
        let exec = request.exec_id.parse().map_err(Error::from)?;
        self.pod.cancel_capture(&container, &exec)?;
        Ok(CancelExecResponse::new())
    }

    async fn remove_remains(
        &self,
        _: &TtrpcContext,
        request: RemoveRemainsRequest,
    ) -> ttrpc::Result<RemoveRemainsResponse> {
        let path = |text: String| Some(text).filter(|text| !text.is_empty()).map(Into::into);
        self.pod.remove_remains(&Remains {
            cgroups: request.cgroups,
            pins: path(request.pins),
            shm: path(request.shm),
        })?;
        Ok(RemoveRemainsResponse::new())
    }
}
