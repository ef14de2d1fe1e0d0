//! The demo image's entrypoint: a page that says where it runs.

use std::process::ExitCode;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// More of a request than its head is not read.
const HEAD: usize = 4096;

/// Serves the page on `port` of all addresses, until it is told to stop.
pub(crate) fn run(port: u16) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("::", port))
            .await
            .or(TcpListener::bind(("0.0.0.0", port)).await);
        let listener = listener.with_context(|| format!("listen on port {port}"))?;
        say(&format!("serving on port {port}"));
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => {
                    say("told to stop");
                    return Ok(ExitCode::SUCCESS);
                }
                Ok((stream, peer)) = listener.accept() => {
                    say(&format!("GET from {}", peer.ip()));
                    tokio::spawn(answer(stream));
                }
            }
        }
    })
}

async fn answer(mut stream: TcpStream) {
    let mut head = [0_u8; HEAD];
    // One read holds a request's head; what it asks for is the same page anyway.
    if stream.read(&mut head).await.is_ok() {
        let body = page();
        let reply = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(reply.as_bytes()).await;
    }
}

fn page() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    format!(
        "Hello from a pod.\n  host name     {}\n  process       {}\n  capabilities  {}\n  seccomp mode  {}\n",
        read("/proc/sys/kernel/hostname").trim(),
        std::process::id(),
        field("CapEff:"),
        field("Seccomp:"),
    )
}

fn say(words: &str) {
    anstream::println!("demo page: {words}");
}
