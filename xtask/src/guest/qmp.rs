//! QEMU's machine protocol, as much of it as keeping and resuming a state needs.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A monitor answers at once, unless the machine hangs.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection to a machine's monitor.
#[derive(Debug)]
pub(super) struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Greets the monitor at the other end.
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(ANSWER))?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.line().context("QEMU's greeting")?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Writes the machine's state to a file; the machine stands still afterwards.
    pub(super) fn keep(&mut self, state: &Path) -> Result<()> {
        self.execute("stop", &json!({}))?;
        // The default bounds the speed for the sake of a network.
        self.execute(
            "migrate-set-parameters",
            &json!({ "max-bandwidth": 10_000_000_000_u64 }),
        )?;
        let to = format!("exec:cat > '{}'", state.display());
        self.execute("migrate", &json!({ "uri": to }))?;
        loop {
            let answer = self.execute("query-migrate", &json!({}))?;
            match answer["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("the machine's state was not kept: {answer}"),
                _ => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Waits until an incoming state is there, and lets the machine run.
    pub(super) fn resume(&mut self) -> Result<()> {
        loop {
            let answer = self.execute("query-status", &json!({}))?;
            match answer["status"].as_str() {
                Some("running") => return Ok(()),
                Some("paused" | "postmigrate") => {
                    self.execute("cont", &json!({}))?;
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Ends QEMU, with its disks written.
    pub(super) fn quit(&mut self) -> Result<()> {
        self.execute("quit", &json!({})).map(|_| ())
    }

    fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{request}").with_context(|| format!("QEMU's {command}"))?;
        loop {
            let mut answer: Value =
                serde_json::from_str(&self.line()?).with_context(|| format!("QEMU's answer to {command}"))?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            // Anything else is an event.
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line)? == 0 {
            bail!("QEMU has left");
        }
        Ok(line)
    }
}
