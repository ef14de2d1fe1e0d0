//! Where the measurements are read: HTTP on a unix socket or the loopback, one path, nothing to post.

use std::convert::Infallible;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use coracle_cri::socket::{self, SocketFile};
use coracle_engine::Engine;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::{Metrics, gauges};
use crate::config::{Config, MetricsAddress};

/// OpenMetrics' text (its specification, "ABNF" and "Protocol Negotiation"), which Prometheus reads.
const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Readers at a time; further ones wait to be accepted.
const READERS: usize = 8;
/// How long one connection may last.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a reader is told from.
struct Source {
    metrics: Arc<Metrics>,
    engine: Arc<Engine>,
    runtime_cgroup: String,
}

/// An endpoint that serves as long as this lives.
#[derive(Debug)]
pub(crate) struct Endpoint {
    serving: AbortHandle,
    _file: Option<SocketFile>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Endpoint {
    /// Serves where the configuration says; `None` when that is nowhere.
    ///
    /// # Errors
    /// When the address is taken or cannot be had.
    pub(crate) async fn start(
        config: &Config,
        metrics: Arc<Metrics>,
        engine: Arc<Engine>,
    ) -> anyhow::Result<Option<Self>> {
        let source = Arc::new(Source {
            metrics,
            engine,
            runtime_cgroup: config.runtime_cgroup.0.clone(),
        });
        let said = || format!("metrics.address = {:?}", config.metrics_address.to_string());
        match &config.metrics_address {
            MetricsAddress::None => Ok(None),
            MetricsAddress::Unix(path) => {
                let (listener, file) = bind(path.clone(), config).await.with_context(said)?;
                let serving = tokio::spawn(accept(Listener::Unix(listener), source)).abort_handle();
                Ok(Some(Self {
                    serving,
                    _file: Some(file),
                }))
            }
            MetricsAddress::Loopback(address) => {
                let listener = TcpListener::bind(address)
                    .await
                    .with_context(|| format!("{}: listen: take another port", said()))?;
                let serving = tokio::spawn(accept(Listener::Tcp(listener), source)).abort_handle();
                Ok(Some(Self { serving, _file: None }))
            }
        }
    }
}

async fn bind(path: PathBuf, config: &Config) -> anyhow::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    Ok(socket::bind(&path, config.socket_mode.0).await?)
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

async fn accept(listener: Listener, source: Arc<Source>) {
    let places = Arc::new(Semaphore::new(READERS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept a reader of metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let source = Arc::clone(&source);
        tokio::spawn(async move {
            let answer = service_fn(move |request| answer(request, Arc::clone(&source)));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            // A reader that breaks off is no concern of ours.
            let _ = tokio::time::timeout(PATIENCE, connection).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Arc<Source>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let refusal = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => None,
        (_, "/metrics") => Some((StatusCode::METHOD_NOT_ALLOWED, "only GET\n")),
        _ => Some((StatusCode::NOT_FOUND, "what is here is at /metrics\n")),
    };
    if let Some((status, words)) = refusal {
        let mut response = Response::new(Full::from(words));
        *response.status_mut() = status;
        return Ok(response);
    }
    // Reading /proc for many shims takes a while, during which calls are answered.
    let text = tokio::task::spawn_blocking(move || read(&source)).await;
    let mut response = Response::new(Full::from(text.unwrap_or_default()));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(FORMAT));
    Ok(response)
}

fn read(source: &Source) -> String {
    let mut text = String::with_capacity(64 << 10);
    let now = gauges::gather(&source.engine, &source.runtime_cgroup);
    // Writing to a String cannot fail.
    let _ = encode_registry(&mut text, &source.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &now))
        .and_then(|()| encode_eof(&mut text));
    text
}
