//! The few HTTP requests that pushing an image takes (OCI distribution specification, "Push").

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;

use crate::image::Image;
use crate::node::Node;

/// Speaks to a registry without login, in this network or in a node's.
#[derive(Debug, Clone)]
pub struct RegistryClient {
    address: SocketAddr,
    node: Option<Node>,
}

impl RegistryClient {
    /// For a registry that listens in `node`'s network, or else in this process's.
    #[must_use]
    pub fn new(address: SocketAddr, node: Option<Node>) -> Self {
        Self { address, node }
    }

    /// Pushes an image under `repository:tag`, leaving out blobs that are there.
    ///
    /// # Errors
    /// When the registry refuses a step; the error names it.
    pub async fn push(&self, image: &Image, repository: &str, tag: &str) -> Result<()> {
        for blob in image.blobs() {
            self.push_blob(repository, blob.digest.as_str(), blob.content.clone())
                .await
                .with_context(|| format!("cannot push blob {} to {repository}", blob.digest))?;
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let answer = self
            .send(
                Method::PUT,
                &path,
                Some(image.manifest_type()),
                image.manifest().clone(),
            )
            .await
            .with_context(|| format!("cannot push manifest {repository}:{tag}"))?;
        expect(&answer, StatusCode::CREATED, &path)
    }

    async fn push_blob(&self, repository: &str, digest: &str, content: Bytes) -> Result<()> {
        let path = format!("/v2/{repository}/blobs/{digest}");
        if self.send(Method::HEAD, &path, None, Bytes::new()).await?.status() == StatusCode::OK {
            return Ok(());
        }
        let path = format!("/v2/{repository}/blobs/uploads/");
        let answer = self.send(Method::POST, &path, None, Bytes::new()).await?;
        expect(&answer, StatusCode::ACCEPTED, &path)?;
        let location = answer
            .headers()
            .get(LOCATION)
            .context("no Location for the upload")?
            .to_str()?;
        let location: hyper::Uri = location.parse()?;
        let target = location.path_and_query().map_or("/", |target| target.as_str());
        let sign = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{sign}digest={digest}");
        let answer = self
            .send(Method::PUT, &target, Some("application/octet-stream"), content)
            .await?;
        expect(&answer, StatusCode::CREATED, &target)
    }

    /// Whether the registry answers at all.
    pub async fn is_up(&self) -> bool {
        self.send(Method::GET, "/v2/", None, Bytes::new()).await.is_ok()
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Bytes,
    ) -> Result<Response<Bytes>> {
        let stream = match &self.node {
            Some(node) => node.connect(self.address)?,
            None => std::net::TcpStream::connect(self.address)?,
        };
        stream.set_nonblocking(true)?;
        let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.address.to_string());
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        let answer = sender.send_request(request.body(Full::new(body))?).await?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await?.to_bytes();
        connection.abort();
        Ok(Response::from_parts(parts, body))
    }
}

fn expect(answer: &Response<Bytes>, status: StatusCode, path: &str) -> Result<()> {
    ensure!(
        answer.status() == status,
        "{path}: {} instead of {status}: {}",
        answer.status(),
        String::from_utf8_lossy(answer.body())
    );
    Ok(())
}
