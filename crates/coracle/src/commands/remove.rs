//! `stop` and `rm`.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    ImageSpec, PodSandbox, RemoveContainerRequest, RemoveImageRequest, RemovePodSandboxRequest,
    StopContainerRequest, StopPodSandboxRequest,
};
use coracle_types::{Kind, Kinded};
use tokio::task::JoinSet;

use super::find::{self, Object, Objects};
use super::reach::{GIVE_UP, RETRY};
use super::run::{self, LOG_DIRECTORY};
use super::{engine, images, inspect, play};
use crate::cli::{ObjectArgs, StopArgs};
use crate::terminal::{self, Screen, Status, Trouble, complain, status_of};

/// Annotation of pods that a manifest described: seconds of its grace period.
pub(crate) const GRACE: &str = "io.coracle.run/grace-seconds";
/// Annotation of the same: names of its containers that have preStop hooks.
pub(crate) const PRE_STOP: &str = "io.coracle.run/pre-stop";
/// Seconds between the stop signal and KILL where nothing else is said.
pub(super) const TIMEOUT: u32 = 10;

/// Stops pods and containers.
pub(crate) async fn stop(client: &Client, args: &StopArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let stopped = async |text: &str| stop_one(client, text, args.timeout).await;
    each(&args.objects, stopped, |text| screen.done("stopped", text)).await
}

/// Acts on each object, whatever became of the others, and says so of each; the first that failed is how the
/// command ends.
async fn each(
    objects: &[String],
    act: impl AsyncFn(&str) -> anyhow::Result<()>,
    tell: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut first = None;
    for text in objects {
        match act(text).await {
            Ok(()) => tell(text)?,
            Err(error) => {
                let status = status_of(&error);
                complain(&error);
                first.get_or_insert(status);
                if status == Status::Unreachable {
                    // Nor will it be for the next.
                    break;
                }
            }
        }
    }
    Ok(first.map_or(ExitCode::SUCCESS, ExitCode::from))
}

async fn stop_one(client: &Client, text: &str, timeout: Option<u32>) -> anyhow::Result<()> {
    // Looked up anew for each: the one before may have taken it along.
    let outcome = match Objects::load(client).await?.object(text)? {
        Object::Pod(pod) => stop_pod(client, &pod, timeout).await,
        Object::Container(container) => {
            let timeout = timeout.unwrap_or(TIMEOUT);
            stop_container(client, container.id, timeout)
                .await
                .map_err(Into::into)
        }
    };
    outcome.map_err(|error| error.context(Cannot("stop", text).trouble()))
}

/// What could not be done to what.
struct Cannot<'a>(&'static str, &'a str);

impl Cannot<'_> {
    fn trouble(&self) -> Trouble {
        Trouble::new(format!("cannot {} {}", self.0, self.1))
            .next("`coracle ops` shows what is under way; `coracle inspect` what is known of the object")
    }
}

pub(super) async fn stop_container(client: &Client, id: String, timeout: u32) -> Result<(), ClientError> {
    let request = StopContainerRequest {
        container_id: id,
        timeout: timeout.into(),
    };
    let reply = client.runtime().stop_container(request).await;
    reply.map(drop).map_err(ClientError::of("StopContainer"))
}

/// The same over a daemon's absence: it is asked until it is back, by whoever gives no grace only for a while.
pub(super) async fn stop_surely(client: &Client, id: &str, grace: u32) -> Result<(), ClientError> {
    let limit = (grace == 0).then(|| Instant::now() + GIVE_UP);
    loop {
        match stop_container(client, id.to_owned(), grace).await {
            Err(error)
                if error.kind() == Kind::Unavailable && limit.is_none_or(|limit| Instant::now() < limit) => {}
            // It has ended and was removed meanwhile.
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            outcome => return outcome,
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The containers first and together, with patience: StopPodSandbox alone kills at once.
async fn stop_pod(client: &Client, pod: &PodSandbox, timeout: Option<u32>) -> anyhow::Result<()> {
    // Whoever watches a pod of a manifest would start its containers again.
    play::storage::mark_stopping(uid(pod));
    let said = |annotation: &str| {
        pod.annotations
            .get(annotation)
            .filter(|_| own_logs(pod).is_some())
    };
    let own = said(GRACE).and_then(|seconds| seconds.parse().ok());
    let grace = timeout.or(own).unwrap_or(TIMEOUT);
    if timeout.is_none() && grace > TIMEOUT {
        terminal::remark(format!(
            "its grace period is {grace} s; --timeout gives it another"
        ));
    }
    if let Some(names) = said(PRE_STOP) {
        terminal::remark(format!(
            "without the preStop hooks of {names}: whoever ran the manifest runs them when interrupted"
        ));
    }
    let mut stops = JoinSet::new();
    for container in find::containers(client).await? {
        if container.pod_sandbox_id == pod.id {
            let client = client.clone();
            stops.spawn(async move { stop_container(&client, container.id, grace).await });
        }
    }
    let mut outcome = Ok(());
    while let Some(stopped) = stops.join_next().await {
        let stopped = stopped.map_err(Into::into);
        outcome = engine::first(outcome, stopped.and_then(|stopped| stopped.map_err(Into::into)));
    }
    outcome?;
    let request = StopPodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    client
        .runtime()
        .stop_pod_sandbox(request)
        .await
        .map_err(ClientError::of("StopPodSandbox"))?;
    Ok(())
}

/// Removes pods, containers and images. A pod or container goes before an image of that name.
pub(crate) async fn remove(client: &Client, args: &ObjectArgs, screen: &Screen) -> anyhow::Result<ExitCode> {
    let removed = async |text: &str| remove_one(client, text).await;
    each(&args.objects, removed, |text| screen.done("removed", text)).await
}

async fn remove_one(client: &Client, text: &str) -> anyhow::Result<()> {
    let outcome = match Objects::load(client).await?.object(text) {
        Ok(Object::Pod(pod)) => remove_pod(client, &pod).await,
        Ok(Object::Container(container)) => {
            let request = RemoveContainerRequest {
                container_id: container.id,
            };
            let reply = client.runtime().remove_container(request).await;
            reply
                .map(|_| ())
                .map_err(|status| ClientError::of("RemoveContainer")(status).into())
        }
        Err(trouble) if trouble.is(Status::NotFound) => remove_image(client, text).await,
        Err(trouble) => return Err(trouble.into()),
    };
    outcome.map_err(|error| match error.downcast_ref::<Trouble>() {
        Some(_) => error,
        None => error.context(Cannot("remove", text).trouble()),
    })
}

/// Removes the image that `text` means, with all its names: CRI knows no removal of a name alone.
async fn remove_image(client: &Client, text: &str) -> anyhow::Result<()> {
    let Some(found) = images::meant(client, text).await? else {
        return Err(inspect::nothing(text).into());
    };
    let request = RemoveImageRequest {
        image: Some(ImageSpec {
            image: found.id,
            ..ImageSpec::default()
        }),
    };
    let reply = client.images().remove_image(request).await;
    reply.map_err(ClientError::of("RemoveImage"))?;
    Ok(())
}

fn uid(pod: &PodSandbox) -> &str {
    pod.metadata.as_ref().map_or("", |metadata| metadata.uid.as_str())
}

/// Removes a pod, the volumes of one that a manifest described, and the log directory if `coracle run` made it.
pub(crate) async fn remove_pod(client: &Client, pod: &PodSandbox) -> anyhow::Result<()> {
    let request = RemovePodSandboxRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    client
        .runtime()
        .remove_pod_sandbox(request)
        .await
        .map_err(ClientError::of("RemovePodSandbox"))?;
    if let Some(logs) = own_logs(pod)
        && let Err(error) = remove_logs(Path::new(&logs))
    {
        terminal::remark(format!("the log directory {logs} stays: {error}"));
    }
    play::storage::remove_of(uid(pod))
}

/// The log directory that `coracle run` made for the pod. The annotation alone says nothing: whoever may make
/// pods may annotate them, and this removes as root.
fn own_logs(pod: &PodSandbox) -> Option<String> {
    let metadata = pod.metadata.as_ref()?;
    let parts = [&metadata.namespace, &metadata.name, &metadata.uid];
    let plain = parts.iter().all(|part| !part.is_empty() && !part.contains('/'));
    let made = run::log_directory(metadata);
    (plain && pod.annotations.get(LOG_DIRECTORY) == Some(&made)).then_some(made)
}

/// Removes a directory, never what a link in its place leads to.
fn remove_logs(logs: &Path) -> io::Result<()> {
    let gone = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    };
    match std::fs::symlink_metadata(logs) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(logs).or_else(gone),
        Ok(_) => Err(io::ErrorKind::NotADirectory.into()),
        Err(error) => gone(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use coracle_proto::cri::PodSandboxMetadata;

    use super::*;

    #[test]
    fn only_logs_that_run_made_for_this_very_pod_are_removed() {
        let pod = |name: &str, annotated: &str| PodSandbox {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: "u1".to_owned(),
                namespace: "default".to_owned(),
                attempt: 0,
            }),
            annotations: [(LOG_DIRECTORY.to_owned(), annotated.to_owned())].into(),
            ..PodSandbox::default()
        };
        let own = "/var/log/pods/default_web_u1";
        assert_eq!(own_logs(&pod("web", own)).as_deref(), Some(own));
        for foreign in [
            "/etc",
            "/",
            "",
            "/var/log/pods",
            "/var/log/pods/default_web_u1/../..",
            "/var/log/pods/default_other_u2",
        ] {
            assert_eq!(own_logs(&pod("web", foreign)), None, "{foreign}");
        }
        // Of a runtime that lets such a name pass.
        let climbing = pod("/../../../etc", "/var/log/pods/default_/../../../etc_u1");
        assert_eq!(own_logs(&climbing), None);
        assert_eq!(own_logs(&PodSandbox::default()), None);
    }

    #[test]
    fn a_link_in_the_place_of_logs_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::create_dir(at("foreign")).unwrap();
        std::fs::write(at("foreign/file"), "").unwrap();
        std::os::unix::fs::symlink(at("foreign"), at("link")).unwrap();
        assert!(remove_logs(&at("link")).is_err());
        assert!(at("foreign/file").exists());
        std::fs::create_dir(at("logs")).unwrap();
        std::os::unix::fs::symlink(at("foreign"), at("logs/inside")).unwrap();
        remove_logs(&at("logs")).unwrap();
        remove_logs(&at("logs")).unwrap();
        assert!(!at("logs").exists() && at("foreign/file").exists());
    }

    #[tokio::test]
    async fn what_fails_keeps_the_others_from_nothing_and_gives_the_status() {
        let objects = ["a", "missing", "b", "ambiguous"].map(str::to_owned);
        let told = Mutex::new(Vec::new());
        let act = async |text: &str| match text {
            "missing" => Err(Trouble::new("no").status(Status::NotFound).into()),
            "ambiguous" => Err(Trouble::new("no").status(Status::Ambiguous).into()),
            _ => Ok(()),
        };
        let tell = |text: &str| {
            told.lock().unwrap().push(text.to_owned());
            Ok(())
        };
        let code = each(&objects, act, tell).await.unwrap();
        assert_eq!(code, Status::NotFound.into());
        assert_eq!(*told.lock().unwrap(), ["a", "b"]);
    }
}
