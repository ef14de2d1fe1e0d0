//! Asking a container how it is: command, HTTP, TCP, gRPC.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use coracle_manifest::{Action, HttpGet};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::ExecSyncRequest;
use reqwest::header::{HeaderName, HeaderValue, USER_AGENT};
use tokio::net::TcpStream;

/// Bytes of a command's output that are shown when it fails.
const SHOWN: usize = 200;
/// `SERVING` in gRPC's health protocol (grpc/health/v1/health.proto).
const SERVING: i32 = 1;

/// Whom a probe or hook asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    /// The way to the runtime.
    pub(super) client: &'a Client,
    /// The container's id.
    pub(super) container: &'a str,
    /// The pod's address.
    pub(super) ip: &'a str,
}

impl Target<'_> {
    /// Does it; an error says why it did not succeed within `limit`, zero for no limit.
    pub(super) async fn ask(self, action: &Action, limit: Duration) -> anyhow::Result<()> {
        if let Action::Exec(command) = action {
            return self.exec(command, limit).await;
        }
        let asked = async {
            match action {
                Action::Exec(_) => Ok(()),
                Action::HttpGet(get) => self.http(get).await,
                Action::TcpSocket { host, port } => {
                    let host = if host.is_empty() { self.ip } else { host };
                    let stream = TcpStream::connect((host, *port)).await;
                    stream
                        .map(drop)
                        .with_context(|| format!("connect to {host} port {port}"))
                }
                Action::Grpc { port, service } => self.grpc(*port, service).await,
                Action::Sleep { seconds } => {
                    tokio::time::sleep(Duration::from_secs(u64::from(*seconds))).await;
                    Ok(())
                }
            }
        };
        if limit.is_zero() {
            return asked.await;
        }
        match tokio::time::timeout(limit, asked).await {
            Ok(outcome) => outcome,
            Err(_) => bail!("no answer within {} s", limit.as_secs()),
        }
    }

    async fn exec(self, command: &[String], limit: Duration) -> anyhow::Result<()> {
        let request = ExecSyncRequest {
            container_id: self.container.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        };
        let reply = self
            .client
            .runtime()
            .exec_sync(request)
            .await
            .map_err(ClientError::of("ExecSync"))?
            .into_inner();
        if reply.exit_code == 0 {
            return Ok(());
        }
        let said = if reply.stderr.is_empty() {
            reply.stdout
        } else {
            reply.stderr
        };
        let said = String::from_utf8_lossy(&said[..said.len().min(SHOWN)])
            .trim()
            .to_owned();
        let colon = if said.is_empty() { "" } else { ": " };
        bail!(
            "{} exited with {}{colon}{said}",
            command.join(" "),
            reply.exit_code
        )
    }

    async fn http(self, get: &HttpGet) -> anyhow::Result<()> {
        let host = if get.host.is_empty() { self.ip } else { &get.host };
        let host = match host.parse::<IpAddr>() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => host.to_owned(),
        };
        let scheme = if get.tls { "https" } else { "http" };
        let address = format!("{scheme}://{host}:{}{}", get.port, get.path);
        // The engine chooses a provider in its own process only; where one is chosen already, that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // Redirects are answers, as good as any; certificates are not looked at, as the kubelet does not.
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .tls_danger_accept_invalid_certs(true)
            .no_proxy()
            .build()
            .context("make an HTTP client")?;
        let mut request = client.get(&address).header(USER_AGENT, "coracle-probe");
        for (name, value) in &get.headers {
            let name: HeaderName = name.parse().context("a header's name")?;
            request = request.header(name, HeaderValue::from_str(value).context("a header's value")?);
        }
        let reply = request.send().await.with_context(|| format!("GET {address}"))?;
        let status = reply.status();
        ensure!(
            (200..400).contains(&status.as_u16()),
            "GET {address} answered {status}"
        );
        Ok(())
    }

    async fn grpc(self, port: u16, service: &str) -> anyhow::Result<()> {
        let host = if self.ip.contains(':') {
            format!("[{}]", self.ip)
        } else {
            self.ip.to_owned()
        };
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{host}:{port}"))?;
        let channel = endpoint
            .connect()
            .await
            .with_context(|| format!("connect to {host} port {port}"))?;
        let mut grpc = tonic::client::Grpc::new(channel);
        grpc.ready().await.context("the connection is not ready")?;
        let request = tonic::Request::new(Check {
            service: service.to_owned(),
        });
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        let codec = tonic_prost::ProstCodec::<Check, Health>::default();
        let reply = grpc.unary(request, path, codec).await;
        let status = reply.context("grpc.health.v1.Health/Check")?.into_inner().status;
        ensure!(
            status == SERVING,
            "service {service:?} is not serving (status {status})"
        );
        Ok(())
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct Check {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Health {
    #[prost(int32, tag = "1")]
    status: i32,
}
