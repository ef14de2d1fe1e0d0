//! containerd's Sandbox service.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::Sandbox;
use coracle_container::namespace::{Namespace, Pins};
use coracle_proto::shim_ext::{SANDBOX_OPTIONS, SandboxOptions, namespace_pin};
use coracle_types::security::IdMapping;
use coracle_types::time::UnixNanos;
use protobuf::{Message as _, MessageField};
use ttrpc::r#async::TtrpcContext;

use super::{timestamp, unsigned};
use crate::error::Error;
use crate::pod::Pod;
use crate::sandbox::{SandboxStatus, Wanted};

pub(super) struct Service(pub(super) Arc<Pod>);

fn wanted(request: api::CreateSandboxRequest) -> Result<Wanted, Error> {
    let netns = Some(request.netns_path)
        .filter(|path| !path.is_empty())
        .map(Into::into);
    let Some(options) = request.options.into_option() else {
        return Ok(Wanted {
            netns,
            ..Wanted::default()
        });
    };
    if options.type_url != SANDBOX_OPTIONS {
        return Err(Error::field(
            "options.type_url",
            &options.type_url,
            format!("give {SANDBOX_OPTIONS}"),
        ));
    }
    let options = SandboxOptions::parse_from_bytes(&options.value)
        .map_err(|error| Error::field("options", "", error.to_string()))?;
    let mut pins = Pins::new();
    for pin in options.pins {
        let kind = match pin.kind.enum_value_or_default() {
            namespace_pin::Kind::USER => Namespace::User,
            namespace_pin::Kind::IPC => Namespace::Ipc,
            namespace_pin::Kind::UTS => Namespace::Uts,
            namespace_pin::Kind::NET => Namespace::Net,
            namespace_pin::Kind::PID => Namespace::Pid,
            namespace_pin::Kind::UNKNOWN => {
                return Err(Error::field(
                    "options.pins.kind",
                    &pin.path,
                    "this shim does not know it",
                ));
            }
        };
        if !pin.path.starts_with('/') {
            return Err(Error::field(
                "options.pins.path",
                &pin.path,
                "give an absolute path",
            ));
        }
        pins.insert(kind, pin.path.into());
    }
    // One that is made here is not joined besides.
    let netns = netns.filter(|_| !pins.contains_key(&Namespace::Net));
    if pins.contains_key(&Namespace::Pid) && options.init_cgroup.is_empty() {
        return Err(Error::field(
            "options.init_cgroup",
            "",
            "a PID namespace needs an init: give its cgroup",
        ));
    }
    let mappings = |mappings: Vec<coracle_proto::shim_ext::IdMapping>| {
        mappings
            .iter()
            .map(|mapping| IdMapping {
                host_id: mapping.host,
                container_id: mapping.container,
                length: mapping.length,
            })
            .collect()
    };
    Ok(Wanted {
        pins,
        netns,
        hostname: Some(options.hostname).filter(|name| !name.is_empty()),
        sysctls: options.sysctls.into_iter().collect(),
        uids: mappings(options.uid_mappings),
        gids: mappings(options.gid_mappings),
        init_cgroup: Some(options.init_cgroup).filter(|path| !path.is_empty()),
        init_user: (options.init_uid, options.init_gid),
        shm: Some((PathBuf::from(options.shm), options.shm_bytes)).filter(|(path, _)| path != Path::new("")),
    })
}

impl Service {
    /// A shim is one pod's: who asks for another has the wrong socket.
    fn meant(&self, id: &str) -> Result<(), Error> {
        if id == self.0.id.as_str() {
            Ok(())
        } else {
            Err(Error::field(
                "sandbox_id",
                id,
                format!("this is the shim of {}", self.0.id),
            ))
        }
    }
}

fn state_word(status: &SandboxStatus) -> &'static str {
    if status.ready {
        "SANDBOX_READY"
    } else {
        "SANDBOX_NOTREADY"
    }
}

#[async_trait]
impl Sandbox for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        self.meant(&request.sandbox_id)?;
        self.0.create_sandbox(wanted(request)?)?;
        Ok(api::CreateSandboxResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        self.meant(&request.sandbox_id)?;
        let status = self.0.start_sandbox()?;
        let mut response = api::StartSandboxResponse::new();
        response.pid = unsigned(status.pid.unwrap_or(0));
        response.created_at = timestamp(status.created_at);
        Ok(response)
    }

    async fn platform(
        &self,
        _: &TtrpcContext,
        request: api::PlatformRequest,
    ) -> ttrpc::Result<api::PlatformResponse> {
        self.meant(&request.sandbox_id)?;
        let mut platform = containerd_shim_protos::types::platform::Platform::new();
        platform.os = "linux".to_owned();
        platform.architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
        .to_owned();
        let mut response = api::PlatformResponse::new();
        response.platform = MessageField::some(platform);
        Ok(response)
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        self.meant(&request.sandbox_id)?;
        self.0.stop_sandbox().await?;
        Ok(api::StopSandboxResponse::new())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        self.meant(&request.sandbox_id)?;
        let exit = self.0.wait_sandbox().await?;
        let mut response = api::WaitSandboxResponse::new();
        response.exit_status = unsigned(exit.code);
        response.exited_at = timestamp(exit.at);
        Ok(response)
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        self.meant(&request.sandbox_id)?;
        let status = self.0.sandbox_status()?;
        let mut response = api::SandboxStatusResponse::new();
        response.sandbox_id = request.sandbox_id;
        response.pid = unsigned(status.pid.unwrap_or(0));
        response.state = state_word(&status).to_owned();
        response.created_at = timestamp(status.created_at);
        response.exited_at = timestamp(status.exit.map_or(UnixNanos(0), |exit| exit.at));
        Ok(response)
    }

    async fn ping_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::PingRequest,
    ) -> ttrpc::Result<api::PingResponse> {
        self.meant(&request.sandbox_id)?;
        Ok(api::PingResponse::new())
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        self.meant(&request.sandbox_id)?;
        self.0.tear_down().await?;
        self.0.leave();
        Ok(api::ShutdownSandboxResponse::new())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        _: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        Err(Error::Unimplemented("metrics of a sandbox").into())
    }
}
