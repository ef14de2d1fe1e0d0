//! `run` with manifests: pods as Kubernetes describes them, kept as the kubelet would keep them.
//!
//! This process is the pods' kubelet: it makes their volumes, starts their containers in order, probes
//! and restarts them, and takes all away at the end. When it is killed, the containers run on, nobody
//! probes and restarts them, and `coracle rm` takes all away.

mod backoff;
mod course;
mod detach;
mod facts;
mod health;
mod images;
mod life;
mod load;
mod output;
mod requests;
mod sandbox;
pub(crate) mod storage;
mod sub_path;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use coracle_manifest::{Pod, Reading, Weight};
use coracle_proto::client::Client;
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use self::course::{Outcome, Wish};
use self::sandbox::Sandbox;
use super::engine::{self, Foreground};
use super::signals::Signals;
use super::{exec, find, reach};
use crate::cli::{Global, Output, RunArgs};
use crate::terminal::{self, Screen, Status, Trouble};

/// As timeout(1) ends.
const TIME_WAS_UP: u8 = 124;

/// Runs the pods of manifests.
pub(crate) async fn run(args: &RunArgs, global: &Global, screen: &Screen) -> anyhow::Result<ExitCode> {
    let sources = load::Sources::load(args)?;
    let reading = sources.read();
    let quiet = args.manifest.watch.is_some();
    judge(&reading, args, quiet)?;
    if args.manifest.check {
        tell_pods(&reading.pods, screen)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !args.detach {
        screen.has_one_form("what containers print is shown as it is", &[])?;
    }
    if args.detach {
        reach::connect(&global.socket)
            .await
            .context("--detach needs a daemon, or the pods would end with this command")?;
        return detach::run(args, &sources, global, screen).await;
    }
    // Before anything is made, so that a signal never leaves it half made.
    let wishes = wishes(quiet)?;
    let client = if args.keep || quiet {
        let client = reach::connect(&global.socket).await;
        Some(client.context("--keep needs a daemon, or the pods would end with this command")?)
    } else {
        reach::daemon(&global.socket).await?
    };
    if let Some(client) = client {
        return run_by(&client, reading.pods, args, screen, wishes).await;
    }
    terminal::remark(format!(
        "no daemon answers at {}: the pods end with this command",
        global.socket.display()
    ));
    let foreground = Foreground::start().await?;
    let outcome = run_by(foreground.client(), reading.pods, args, screen, wishes).await;
    engine::conclude(outcome, foreground.end().await)
}

/// What would be run, a line a pod.
fn tell_pods(pods: &[Pod], screen: &Screen) -> anyhow::Result<()> {
    let names = |containers: &[coracle_manifest::Container]| {
        let names = containers.iter().map(|container| container.name.clone());
        names.collect::<Vec<_>>()
    };
    match screen.output {
        Output::Json | Output::Yaml => {
            let value = |pod: &Pod| {
                json!({
                    "name": pod.name,
                    "namespace": pod.namespace,
                    "init_containers": names(&pod.init_containers),
                    "containers": names(&pod.containers),
                    "qos_class": format!("{:?}", pod.qos_class()),
                })
            };
            screen.value(&pods.iter().map(value).collect::<Vec<_>>())
        }
        Output::Name => Ok(pods
            .iter()
            .try_for_each(|pod| screen.line(format!("pod/{}/{}", pod.namespace, pod.name)))?),
        Output::Table | Output::Wide => Ok(pods.iter().try_for_each(|pod| {
            screen.line(format!("pod {}/{}: {}", pod.namespace, pod.name, contents(pod)))
        })?),
    }
}

/// Says what is wrong and what is not honoured; an error when nothing may run.
fn judge(reading: &Reading, args: &RunArgs, quiet: bool) -> anyhow::Result<()> {
    let (refused, ignored): (Vec<_>, Vec<_>) = reading
        .problems
        .iter()
        .partition(|problem| problem.weight == Weight::Refused);
    for problem in refused.iter().chain(ignored.iter().filter(|_| !quiet)) {
        terminal::remark(problem);
    }
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let usage = |words: String, next: &str| Err(Trouble::new(words).next(next).status(Status::Usage).into());
    if !refused.is_empty() {
        let words = format!(
            "the manifests have {} (named above): nothing was run",
            count(refused.len(), "mistake")
        );
        return usage(
            words,
            "mend them; `coracle run --check` looks without running anything",
        );
    }
    if args.manifest.strict && !ignored.is_empty() {
        let words = format!(
            "--strict: {} would not be honoured (named above): nothing was run",
            count(ignored.len(), "field")
        );
        return usage(words, "take them out, or leave --strict away");
    }
    if reading.pods.is_empty() {
        return usage(
            "the manifests have no pod".to_owned(),
            "give a file with a Pod, or with a Deployment or Job to take one from",
        );
    }
    Ok(())
}

fn contents(pod: &Pod) -> String {
    let names = |containers: &[coracle_manifest::Container]| {
        containers
            .iter()
            .map(|container| container.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let init = match pod.init_containers.as_slice() {
        [] => String::new(),
        some => format!("; first {}", names(some)),
    };
    format!("{}{init}; {:?}", names(&pod.containers), pod.qos_class())
}

async fn run_by(
    client: &Client,
    pods: Vec<Pod>,
    args: &RunArgs,
    screen: &Screen,
    wishes: watch::Receiver<Wish>,
) -> anyhow::Result<ExitCode> {
    let log = args.manifest.watch.as_deref();
    let _held = log.map(storage::hold_watch_log).transpose()?;
    let mut sandboxes = Vec::new();
    let unmade = make(client, pods, (args, screen), wishes.clone(), &mut sandboxes).await;
    if let Some(outcome) = unmade.transpose() {
        for sandbox in sandboxes {
            engine::report(end(sandbox, false).await);
        }
        return outcome;
    }
    let mut courses = JoinSet::new();
    let mut readies = Vec::new();
    for sandbox in sandboxes {
        let (ready, is_ready) = oneshot::channel();
        readies.push((sandbox.id.clone(), sandbox.output.clone(), is_ready));
        courses.spawn(follow(sandbox, wishes.clone(), ready, args.keep));
    }
    let told = tokio::spawn(tell_ready(readies, log.is_some()));
    let mut code = ExitCode::SUCCESS;
    let mut cleaned = Ok(());
    // Whatever becomes of one pod, the others are followed to their ends.
    while let Some(done) = courses.join_next().await {
        let ended = match done {
            Ok((outcome, ended)) => {
                code = exit_code(&outcome).unwrap_or(code);
                ended
            }
            Err(error) => Err(anyhow::Error::new(error).context("a pod's task broke off")),
        };
        cleaned = engine::first(cleaned, ended);
    }
    if let Some(log) = log.filter(|_| told.is_finished() && cleaned.is_ok())
        && told.await.unwrap_or(false)
    {
        // Who waited for it has read it.
        let _ = std::fs::remove_file(log);
    }
    engine::conclude(Ok(code), cleaned)
}

/// Makes the sandboxes of all pods, as far as it comes; gives the exit code of a signal that came before the last.
async fn make(
    client: &Client,
    pods: Vec<Pod>,
    (args, screen): (&RunArgs, &Screen),
    mut wishes: watch::Receiver<Wish>,
    sandboxes: &mut Vec<Arc<Sandbox>>,
) -> anyhow::Result<Option<ExitCode>> {
    let alone = pods.len() == 1;
    for pod in pods {
        let output = output::Output::new(
            if alone { String::new() } else { pod.name.clone() },
            args.manifest.watch.is_none(),
        );
        let cannot = format!("cannot run pod {}", pod.name);
        let prepared = async {
            sandbox::make_way(client, &pod, args.manifest.replace).await?;
            images::ensure(client, &pod, screen).await
        };
        let images = tokio::select! {
            images = prepared => images.with_context(|| cannot.clone())?,
            signal = course::asked_to_stop(&mut wishes) => return Ok(Some(ExitCode::from(128 + signal))),
        };
        // Not given up half made: its end takes away only what it knows of.
        let sandbox = Sandbox::run(client, pod, images, output).await;
        sandboxes.push(Arc::new(sandbox.context(cannot)?));
        let signal = wishes.borrow().signal;
        if let Some(signal) = signal {
            return Ok(Some(ExitCode::from(128 + signal)));
        }
    }
    Ok(None)
}

/// Says so when a pod is ready; whoever waits for a detached run reads it from standard output. Gives
/// whether all were.
async fn tell_ready(readies: Vec<(String, output::Output, oneshot::Receiver<()>)>, watched: bool) -> bool {
    let mut ids = Vec::new();
    for (id, output, is_ready) in readies {
        if is_ready.await.is_err() {
            return false;
        }
        output.say("", format_args!("ready ({})", find::short(&id)));
        ids.push(id);
    }
    if watched {
        detach::tell_ready(&ids);
    }
    true
}

async fn follow(
    sandbox: Arc<Sandbox>,
    mut wishes: watch::Receiver<Wish>,
    ready: oneshot::Sender<()>,
    keep: bool,
) -> (Outcome, anyhow::Result<()>) {
    let outcome = course::run(&sandbox, &mut wishes, ready).await;
    match &outcome {
        Outcome::Deadline(seconds) => sandbox.output.say(
            "",
            format_args!("its activeDeadlineSeconds, {seconds}, are over: it was stopped"),
        ),
        Outcome::Failed { container, ended } => {
            if let Some(failure) = &ended.failure {
                sandbox.output.say("", format_args!("failed: {failure:#}"));
            } else {
                sandbox.output.say(
                    "",
                    format_args!("failed: {container} ended with exit code {}", ended.code),
                );
            }
        }
        Outcome::Succeeded => sandbox.output.say("", "succeeded"),
        Outcome::Stopped(_) => {}
    }
    if keep {
        let id = find::short(&sandbox.id).to_owned();
        sandbox.output.say(
            "",
            format_args!("is kept: `coracle rm pod/{id}` removes it with its volumes"),
        );
    }
    let name = sandbox.pod.name.clone();
    let ended = end(sandbox, keep).await;
    (
        outcome,
        ended.with_context(|| format!("cannot put away pod {name}")),
    )
}

/// Takes the sandbox away; all who looked at it have ended.
async fn end(mut sandbox: Arc<Sandbox>, keep: bool) -> anyhow::Result<()> {
    loop {
        match Arc::try_unwrap(sandbox) {
            Ok(sandbox) => return sandbox.end(keep).await,
            // A container's task has told of its end and is just about to go.
            Err(shared) => sandbox = shared,
        }
        tokio::task::yield_now().await;
    }
}

fn exit_code(outcome: &Outcome) -> Option<ExitCode> {
    match outcome {
        Outcome::Succeeded => None,
        Outcome::Failed { ended, .. } if ended.failure.is_some() => Some(Status::NotRun.into()),
        Outcome::Failed { ended, .. } => Some(exec::exit_code(ended.code)),
        Outcome::Deadline(_) => Some(ExitCode::from(TIME_WAS_UP)),
        Outcome::Stopped(signal) => Some(ExitCode::from(128 + signal)),
    }
}

/// Turns signals into wishes: the first asks to stop in order, the second at once.
fn wishes(in_background: bool) -> anyhow::Result<watch::Receiver<Wish>> {
    let signals = Signals::listen()?;
    let mut signals = if in_background {
        signals.in_background()
    } else {
        signals
    };
    let (tell, wishes) = watch::channel(Wish::default());
    tokio::spawn(async move {
        loop {
            let signal = signals.number().await;
            tell.send_modify(|wish| {
                wish.at_once = wish.signal.is_some();
                wish.signal = wish.signal.or(Some(signal));
            });
            if !tell.borrow().at_once {
                terminal::remark("stopping; once more stops at once");
            }
        }
    });
    Ok(wishes)
}
