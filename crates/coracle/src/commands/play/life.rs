//! A container's life: start, hooks, probes, end, and the same again.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use coracle_manifest::{Container, Probe};
use coracle_proto::client::ClientError;
use coracle_proto::cri::{
    ContainerState, ContainerStatus, CreateContainerRequest, RemoveContainerRequest, StartContainerRequest,
};
use coracle_types::{Kind, Kinded};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::health::Target;
use super::images;
use super::output::last_line;
use super::requests;
use super::sandbox::Sandbox;
use super::storage::last_words;
use super::tally::Tally;
use crate::commands::logs;
use crate::commands::reach::{GIVE_UP, RETRY, is_away};
use crate::commands::remove::stop_surely;

/// How often a container is looked at.
const LOOK: Duration = Duration::from_millis(150);
/// What a container gets at least after its preStop hook, as the kubelet gives it.
const LEAST_GRACE: u32 = 2;

/// How far a container is.
#[derive(Debug, Clone, Default)]
pub(super) struct Stage {
    /// Its postStart hook is done.
    pub(super) hooked: bool,
    /// Its startup probe has succeeded.
    pub(super) started: bool,
    /// Its readiness probe succeeds.
    pub(super) ready: bool,
    /// It has ended and does not start again.
    pub(super) ended: Option<Ended>,
}

/// How a container ended for good.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    /// Its last exit code.
    pub(super) code: i32,
    /// Why it could not even be started.
    pub(super) failure: Option<Arc<anyhow::Error>>,
}

/// A container that is being kept alive.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) name: String,
    pub(super) is_sidecar: bool,
    order: watch::Sender<Option<u32>>,
    stage: watch::Receiver<Stage>,
}

impl Life {
    /// Begins it.
    pub(super) fn begin(sandbox: &Arc<Sandbox>, container: &Container) -> Self {
        let (order, orders) = watch::channel(None);
        let (tell, stage) = watch::channel(Stage::default());
        let one = One {
            sandbox: Arc::clone(sandbox),
            container: container.clone(),
            tell,
        };
        tokio::spawn(one.live(orders));
        Self {
            name: container.name.clone(),
            is_sidecar: sandbox.pod.is_sidecar(container),
            order,
            stage,
        }
    }

    /// Waits until it is so far, or has ended.
    pub(super) async fn until(&self, far: impl FnMut(&Stage) -> bool) -> Stage {
        let mut far = far;
        let mut stage = self.stage.clone();
        let reached = stage.wait_for(|stage| far(stage) || stage.ended.is_some()).await;
        // The sender says `ended` before it goes, unless its task broke off.
        let lost = |_| Stage {
            ended: Some(self.lost()),
            ..Stage::default()
        };
        reached.map_or_else(lost, |stage| stage.clone())
    }

    /// The end of a container whose task broke off: it must not count as ready, nor be waited for.
    fn lost(&self) -> Ended {
        let failure = anyhow::anyhow!("nobody watches container {} any more", self.name);
        Ended {
            code: 1,
            failure: Some(Arc::new(failure)),
        }
    }

    /// Waits until it has ended for good.
    pub(super) async fn end(&self) -> Ended {
        self.until(|_| false).await.ended.unwrap_or_else(|| self.lost())
    }

    /// Has it stopped within so many seconds; a second order may shorten them.
    pub(super) fn stop(&self, grace: u32) {
        self.order.send_replace(Some(grace));
    }
}

/// One start of a container.
struct Start {
    id: String,
    log: PathBuf,
    words: PathBuf,
    at: Instant,
}

/// Why a container is to be ended before its time.
struct Trouble {
    words: String,
    grace: u32,
}

struct One {
    sandbox: Arc<Sandbox>,
    container: Container,
    tell: watch::Sender<Stage>,
}

impl One {
    async fn live(self, mut orders: watch::Receiver<Option<u32>>) {
        let ended = match self.again_and_again(&mut orders).await {
            Ok(code) => Ended { code, failure: None },
            Err(error) => Ended {
                code: 1,
                failure: Some(Arc::new(error)),
            },
        };
        self.tell.send_modify(|stage| {
            *stage = Stage {
                ended: Some(ended),
                ..Stage::default()
            }
        });
    }

    fn say(&self, words: impl std::fmt::Display) {
        self.sandbox.output.say(&self.container.name, words);
    }

    async fn again_and_again(&self, orders: &mut watch::Receiver<Option<u32>>) -> anyhow::Result<i32> {
        let mut backoff = Backoff::default();
        let mut code = 0;
        for attempt in 0.. {
            let start = match self.start(attempt, orders).await {
                Ok(start) => start,
                // What never ran may never run; what did is wanted again.
                Err(error) if attempt == 0 && !is_away(&error) => {
                    return Err(error.context(format!("container {}", self.container.name)));
                }
                Err(error) => {
                    let wait = backoff.after(Duration::ZERO).max(RETRY);
                    self.say(format!(
                        "does not start, next try in {} s: {error:#}",
                        wait.as_secs()
                    ));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = ordered_grace(orders) => return Ok(code),
                    }
                    if self.sandbox.is_gone().await {
                        return Ok(code);
                    }
                    continue;
                }
            };
            let follower = self.sandbox.output.follow(&self.container.name, &start.log);
            let status = self.watch(&start, orders).await;
            self.tell.send_modify(|stage| *stage = Stage::default());
            follower.finish().await;
            let status = status?;
            code = status.exit_code;
            let ordered = orders.borrow().is_some();
            let again = !ordered && self.sandbox.pod.restarts(&self.container, status.exit_code);
            self.tell_end(&start, &status, ordered);
            if !again || self.sandbox.is_gone().await {
                return Ok(status.exit_code);
            }
            let wait = backoff.after(start.at.elapsed());
            if wait.is_zero() {
                self.say("starts again");
            } else {
                self.say(format!("starts again in {} s", wait.as_secs()));
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = ordered_grace(orders) => return Ok(status.exit_code),
            }
            self.remove(&start.id).await;
        }
        Ok(code)
    }

    async fn start(&self, attempt: u32, orders: &watch::Receiver<Option<u32>>) -> anyhow::Result<Start> {
        let sandbox = &self.sandbox;
        let mut image = sandbox
            .images
            .get(&self.container.image)
            .context("its image was not pulled")?
            .clone();
        if attempt > 0 {
            // It may have been removed since, or loaded again.
            image = images::again(&sandbox.client, &self.container).await?;
        }
        let (config, words) = requests::container_config(sandbox, &self.container, &image, attempt)?;
        let log = PathBuf::from(&sandbox.config.log_directory).join(&config.log_path);
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.config.clone()),
        };
        let mut runtime = sandbox.client.runtime();
        let reply = runtime
            .create_container(request)
            .await
            .map_err(ClientError::of("CreateContainer"))?;
        let id = reply.into_inner().container_id;
        if let Err(error) = self.start_made(&id, orders).await {
            self.remove(&id).await;
            return Err(error.into());
        }
        Ok(Start {
            id,
            log,
            words,
            at: Instant::now(),
        })
    }

    /// Starts what was made. A start whose answer is lost may have happened: it is not made a second time beside it.
    async fn start_made(&self, id: &str, orders: &watch::Receiver<Option<u32>>) -> Result<(), ClientError> {
        let client = &self.sandbox.client;
        loop {
            let request = StartContainerRequest {
                container_id: id.to_owned(),
            };
            let started = client.runtime().start_container(request).await;
            match started.map_err(ClientError::of("StartContainer")) {
                Err(error) if error.kind() == Kind::Unavailable && orders.borrow().is_none() => {
                    self.say(format!("waits for the runtime: {error}"));
                }
                outcome => return outcome.map(drop),
            }
            loop {
                tokio::time::sleep(RETRY).await;
                match logs::status(client, id).await {
                    Ok(status) if status.state() == ContainerState::ContainerCreated => break,
                    Err(error) if error.kind() == Kind::Unavailable && orders.borrow().is_none() => {}
                    other => return other.map(drop),
                }
            }
        }
    }

    /// Watches it until it has ended, by itself or because it must.
    async fn watch(
        &self,
        start: &Start,
        orders: &mut watch::Receiver<Option<u32>>,
    ) -> anyhow::Result<ContainerStatus> {
        let exit = self.exit(&start.id);
        tokio::pin!(exit);
        tokio::select! {
            status = &mut exit => return status,
            trouble = self.guard(start) => {
                self.say(&trouble.words);
                self.stop(start, trouble.grace, orders).await?;
            }
            grace = ordered_grace(orders) => self.stop(start, grace, orders).await?,
        }
        tokio::select! {
            status = exit => status,
            () = given_up(orders) => bail!("the runtime does not answer; the container may run on"),
        }
    }

    /// Waits for its end; a runtime that is away for a while is waited for.
    async fn exit(&self, id: &str) -> anyhow::Result<ContainerStatus> {
        let mut away = false;
        loop {
            match logs::status(&self.sandbox.client, id).await {
                Ok(status) => {
                    if status.state() == ContainerState::ContainerExited {
                        return Ok(status);
                    }
                    away = false;
                }
                Err(error) if error.kind() == Kind::NotFound => {
                    return Ok(ContainerStatus {
                        exit_code: 137,
                        reason: "Removed".to_owned(),
                        ..ContainerStatus::default()
                    });
                }
                Err(error) if error.kind() == Kind::Unavailable => {
                    if !away {
                        self.say(format!("waits for the runtime: {error}"));
                    }
                    away = true;
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Hooks and probes; comes back when the container must end.
    async fn guard(&self, start: &Start) -> Trouble {
        let (probes, lifecycle) = (&self.container.probes, &self.container.lifecycle);
        if let Some(hook) = &lifecycle.post_start
            && let Err(error) = self.target(&start.id).ask(hook, Duration::ZERO).await
        {
            return self.trouble(
                format!("its postStart hook failed, so it is stopped: {error:#}"),
                None,
            );
        }
        self.tell.send_modify(|stage| stage.hooked = true);
        if let Some(probe) = &probes.startup {
            let mut why = String::new();
            if !self
                .probe(start, probe, "startup", |_, words| {
                    words.clone_into(&mut why);
                    true
                })
                .await
            {
                return self.trouble(format!("did not start up, so it is stopped: {why}"), Some(probe));
            }
        }
        self.tell.send_modify(|stage| {
            stage.started = true;
            stage.ready = probes.readiness.is_none();
        });
        tokio::select! {
            trouble = self.liveness(start) => trouble,
            trouble = self.readiness(start) => trouble,
        }
    }

    async fn liveness(&self, start: &Start) -> Trouble {
        let Some(probe) = &self.container.probes.liveness else {
            return std::future::pending().await;
        };
        let mut why = String::new();
        self.probe(start, probe, "liveness", |success, words| {
            words.clone_into(&mut why);
            !success
        })
        .await;
        self.trouble(format!("is not alive, so it is stopped: {why}"), Some(probe))
    }

    async fn readiness(&self, start: &Start) -> Trouble {
        let Some(probe) = &self.container.probes.readiness else {
            return std::future::pending().await;
        };
        self.probe(start, probe, "readiness", |success, words| {
            let was = self.tell.borrow().ready;
            if was != success {
                self.tell.send_modify(|stage| stage.ready = success);
                self.say(if success {
                    "is ready".to_owned()
                } else {
                    format!("is not ready: {words}")
                });
            }
            false
        })
        .await;
        std::future::pending().await
    }

    /// Asks again and again; `believed` gets each result that counts and says whether that is all.
    async fn probe(
        &self,
        start: &Start,
        probe: &Probe,
        kind: &str,
        mut believed: impl FnMut(bool, &str) -> bool,
    ) -> bool {
        let delay = Duration::from_secs(u64::from(probe.initial_delay));
        tokio::time::sleep(delay.saturating_sub(start.at.elapsed())).await;
        let mut tally = Tally::of(probe);
        loop {
            let asked = self
                .target(&start.id)
                .ask(&probe.action, Duration::from_secs(u64::from(probe.timeout)))
                .await;
            let words = asked
                .as_ref()
                .err()
                .map(|error| format!("{kind} probe: {error:#}"))
                .unwrap_or_default();
            // A runtime that is away says nothing of the container.
            let away = asked.as_ref().is_err_and(is_away);
            if !away
                && let Some(success) = tally.count(asked.is_ok())
                && believed(success, &words)
            {
                return success;
            }
            tokio::time::sleep(Duration::from_secs(u64::from(probe.period))).await;
        }
    }

    fn target<'a>(&'a self, id: &'a str) -> Target<'a> {
        Target {
            client: &self.sandbox.client,
            container: id,
            ip: self
                .sandbox
                .facts
                .pod_ips
                .first()
                .map_or("127.0.0.1", String::as_str),
        }
    }

    fn trouble(&self, words: String, probe: Option<&Probe>) -> Trouble {
        let own = probe.and_then(|probe| probe.grace_seconds);
        Trouble {
            words,
            grace: own.unwrap_or(self.sandbox.pod.grace_seconds),
        }
    }

    /// The preStop hook, the stop signal, and after the grace period KILL; an order may shorten it.
    async fn stop(
        &self,
        start: &Start,
        grace: u32,
        orders: &mut watch::Receiver<Option<u32>>,
    ) -> anyhow::Result<()> {
        let patient = async {
            let left = self.before_stop(start, grace).await;
            self.stop_within(&start.id, left).await
        };
        tokio::select! {
            stopped = patient => stopped,
            shorter = shorter_grace(orders, grace) => self.stop_within(&start.id, shorter).await,
        }
    }

    /// Runs the preStop hook; gives what is left of the grace period.
    async fn before_stop(&self, start: &Start, grace: u32) -> u32 {
        let Some(hook) = self.container.lifecycle.pre_stop.as_ref().filter(|_| grace > 0) else {
            return grace;
        };
        let began = Instant::now();
        let limit = Duration::from_secs(u64::from(grace));
        let asked = tokio::time::timeout(limit, self.target(&start.id).ask(hook, limit)).await;
        match asked {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.say(format!("its preStop hook failed: {error:#}")),
            Err(_) => self.say(format!("its preStop hook took longer than {grace} s")),
        }
        let took = u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX);
        grace.saturating_sub(took).max(LEAST_GRACE)
    }

    async fn stop_within(&self, id: &str, grace: u32) -> anyhow::Result<()> {
        Ok(stop_surely(&self.sandbox.client, id, grace).await?)
    }

    /// An ended container makes room for its next start; what cannot be removed goes with the pod.
    async fn remove(&self, id: &str) {
        let request = RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let _ = self.sandbox.client.runtime().remove_container(request).await;
    }

    fn tell_end(&self, start: &Start, status: &ContainerStatus, ordered: bool) {
        let mut words = last_words(&start.words);
        if words.is_empty() && self.container.termination_from_log && status.exit_code != 0 {
            words = last_line(&start.log);
        }
        if words.is_empty() {
            words.clone_from(&status.message);
        }
        let colon = if words.is_empty() { "" } else { ": " };
        if ordered {
            self.say(format!("stopped{colon}{words}"));
        } else {
            self.say(format!(
                "ended with exit code {} ({}){colon}{words}",
                status.exit_code, status.reason
            ));
        }
    }
}

/// The end of the patience of somebody who wants the end at once.
async fn given_up(orders: &mut watch::Receiver<Option<u32>>) {
    shorter_grace(orders, 1).await;
    tokio::time::sleep(GIVE_UP).await;
}

/// The grace period of the first order.
async fn ordered_grace(orders: &mut watch::Receiver<Option<u32>>) -> u32 {
    let order = orders.wait_for(Option::is_some).await;
    // Nobody gives orders any more: the pod is being given up.
    order.map_or(0, |order| order.unwrap_or_default())
}

/// The grace period of an order that is shorter than the one under way.
async fn shorter_grace(orders: &mut watch::Receiver<Option<u32>>, than: u32) -> u32 {
    let order = orders
        .wait_for(|order| order.is_some_and(|grace| grace < than))
        .await;
    let shorter = order.ok().and_then(|order| *order);
    match shorter {
        Some(grace) => grace,
        None => std::future::pending().await,
    }
}
