//! An HTTP server on loopback that answers as a test tells it: late, cut, false, or right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::image::{Image, MANIFEST, digest};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Send so many bytes of the body and close.
    pub(crate) cut: Option<usize>,
    /// Be silent after the head and so many bytes.
    pub(crate) stall: Option<(usize, Duration)>,
    /// Send the body in pieces of so many bytes with such pauses, as a connection with a limit does.
    pub(crate) pace: Option<(usize, Duration)>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self
    }
}

type Answer = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

pub(crate) struct Server {
    /// `127.0.0.1:port`.
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(crate) async fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Answer, _) = (Arc::new(answer), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&answer), Arc::clone(&log)));
            }
        });
        Self { address, asked, task }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn reference(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }
}

async fn serve(stream: TcpStream, answer: Answer, log: Arc<Mutex<Vec<Asked>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read_request(&mut stream).await?;
        log.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        let mut head = format!("HTTP/1.1 {} x\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", reply.body.len()));
        stream.write_all(head.as_bytes()).await.ok()?;
        let body: &[u8] = if asked.method == "HEAD" { b"" } else { &reply.body };
        if let Some(cut) = reply.cut {
            stream.write_all(&body[..cut.min(body.len())]).await.ok()?;
            stream.shutdown().await.ok()?;
            return None;
        }
        let mut sent = 0;
        if let Some((after, pause)) = reply.stall {
            sent = after.min(body.len());
            stream.write_all(&body[..sent]).await.ok()?;
            stream.flush().await.ok()?;
            tokio::time::sleep(pause).await;
        }
        let (piece, pause) = reply.pace.unwrap_or((usize::MAX, Duration::ZERO));
        for chunk in body[sent..].chunks(piece) {
            stream.write_all(chunk).await.ok()?;
            stream.flush().await.ok()?;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Asked> {
    // A client that speaks TLS sees at once that nobody does here.
    if stream.fill_buf().await.ok()?.first() == Some(&0x16) {
        return None;
    }
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length: usize = headers
        .get("content-length")
        .map_or(0, |text| text.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        method,
        path,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Serves `image` under every repository: any tag leads to its manifest.
pub(crate) fn right(image: &Image, asked: &Asked) -> Reply {
    let path = asked.path.split('?').next().unwrap();
    let Some((_, wanted)) = path.rsplit_once('/') else {
        return Reply::status(404);
    };
    if path.contains("/manifests/") {
        let known = !wanted.starts_with("sha256:") || wanted == image.manifest_digest().as_str();
        if !known {
            return Reply::status(404);
        }
        return Reply::status(200)
            .header("content-type", MANIFEST)
            .header("docker-content-digest", digest(&image.manifest).as_str())
            .body(&image.manifest);
    }
    let Some((_, blob)) = image
        .blobs()
        .into_iter()
        .find(|(name, _)| name.as_str() == wanted)
    else {
        return Reply::status(404);
    };
    match span(asked, blob.len()) {
        Some((from, to)) => Reply::status(206)
            .header(
                "content-range",
                &format!("bytes {from}-{}/{}", to - 1, blob.len()),
            )
            .body(&blob[from..to]),
        None => Reply::status(200).body(&blob),
    }
}

/// The bytes that a `Range` header asks for: from and behind the last.
pub(crate) fn span(asked: &Asked, length: usize) -> Option<(usize, usize)> {
    let range = asked.headers.get("range")?.strip_prefix("bytes=")?;
    let (from, last) = range.split_once('-')?;
    let to = last
        .parse::<usize>()
        .map_or(length, |last| (last + 1).min(length));
    Some((from.parse().ok()?, to))
}

/// Whether a request is for a layer of the image.
pub(crate) fn is_layer(image: &Image, asked: &Asked) -> bool {
    let mut layers = image.layers.iter();
    layers.any(|layer| asked.path.contains(digest(&layer.blob).as_str()))
}
