//! `explain`: where a pod's start spent its time.

mod svg;
mod waterfall;

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use coracle_proto::admin::ExplainRequest;
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::PodSandbox;
use serde::Serialize;

use super::find::{self, Objects};
use crate::cli::{ExplainArgs, Output};
use crate::terminal::{Screen, Status, Tone, Trouble};

/// A step of a start, in milliseconds since its beginning.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Step {
    name: String,
    start_ms: f64,
    took_ms: Option<f64>,
}

impl Step {
    /// The call that it belongs to: `run` of `run.network`.
    fn operation(&self) -> &str {
        self.name.split('.').next().unwrap_or_default()
    }

    fn end_ms(&self) -> f64 {
        self.start_ms + self.took_ms.unwrap_or(0.0)
    }
}

/// Shows the steps of a pod's start.
pub(crate) async fn show(client: &Client, args: &ExplainArgs, screen: &Screen) -> anyhow::Result<()> {
    let objects = Objects::load(client).await?;
    let id = objects.pod(&args.object)?;
    let pod = objects.pods.iter().find(|pod| pod.id == id);
    let request = ExplainRequest {
        pod_sandbox_id: id.clone(),
    };
    let reply = client
        .admin()
        .explain(request)
        .await
        .map_err(ClientError::of("Explain"));
    let reply = reply.with_context(|| format!("cannot explain pod {}", args.object))?;
    let millis = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    let steps: Vec<_> = reply
        .into_inner()
        .steps
        .into_iter()
        .map(|step| Step {
            name: step.name,
            start_ms: millis(step.start_nanos),
            took_ms: step.took_nanos.map(millis),
        })
        .collect();
    if steps.is_empty() {
        return Err(
            Trouble::new(format!("the daemon has no steps of pod {}", args.object))
                .next("it keeps those of pods that were started since it runs: start the pod anew")
                .status(Status::Failed)
                .into(),
        );
    }
    if let Some(file) = &args.svg {
        return draw(screen, file, &title(pod, &id), &steps);
    }
    tell(&steps, screen)
}

fn tell(steps: &[Step], screen: &Screen) -> anyhow::Result<()> {
    match screen.output {
        Output::Json | Output::Yaml => screen.value(&steps)?,
        Output::Name => {
            for step in steps {
                screen.line(&step.name)?;
            }
        }
        Output::Table | Output::Wide => {
            for line in waterfall::lines(steps, screen) {
                screen.line(line)?;
            }
        }
    }
    Ok(())
}

fn title(pod: Option<&PodSandbox>, id: &str) -> String {
    pod.map_or_else(
        || find::short(id).to_owned(),
        |pod| format!("{}/{}", find::pod_namespace(pod), find::pod_name(pod)),
    )
}

fn draw(screen: &Screen, file: &Path, title: &str, steps: &[Step]) -> anyhow::Result<()> {
    let picture = svg::picture(title, steps);
    if file == Path::new("-") {
        return Ok(screen.raw(&picture)?);
    }
    std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))?;
    crate::terminal::remark(format!("drawn: {}", file.display()));
    Ok(())
}

/// The steps by call, and the time in which the runtime was at work: what lies between two calls of the
/// kubelet is not its own.
struct Calls<'a> {
    calls: Vec<&'a [Step]>,
}

impl<'a> Calls<'a> {
    fn of(steps: &'a [Step]) -> Self {
        let calls = steps.chunk_by(|a, b| a.operation() == b.operation()).collect();
        Self { calls }
    }

    fn busy_ms(&self) -> f64 {
        self.calls.iter().map(|call| span(call)).sum()
    }

    /// Each step with its beginning on an axis from which the pauses between calls are cut.
    fn placed(&self) -> Vec<(&'a Step, f64)> {
        let mut before = 0.0;
        let mut placed = Vec::new();
        for call in &self.calls {
            let begin = call.first().map_or(0.0, |step| step.start_ms);
            placed.extend(call.iter().map(|step| (step, before + step.start_ms - begin)));
            before += span(call);
        }
        placed
    }
}

fn span(call: &[Step]) -> f64 {
    let begin = call.first().map_or(0.0, |step| step.start_ms);
    call.iter().map(|step| step.end_ms() - begin).fold(0.0, f64::max)
}

/// What a call is to the pod.
fn tone_of(operation: &str) -> Tone {
    match operation {
        "run" => Tone::Picture,
        "create" => Tone::Costs,
        "start" => Tone::Good,
        _ => Tone::Plain,
    }
}

#[cfg(test)]
fn step(name: &str, start_ms: f64, took_ms: Option<f64>) -> Step {
    Step {
        name: name.to_owned(),
        start_ms,
        took_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::forms;

    #[test]
    fn a_start_in_every_form() {
        let steps = [
            step("run.shim", 0.0, Some(0.91)),
            step("run.network", 0.2, Some(2.4)),
            step("create.rootfs", 40.0, Some(0.4)),
            step("start.exec", 300.0, None),
        ];
        insta::assert_snapshot!(forms(|screen| tell(&steps, screen)));
    }
}
