//! What lasts a minute and keeps pods from starting is told to the kubelet, and so is its end.

use std::time::Duration;

use anyhow::{Context, Result};
use coracle_proto::cri;
use coracle_testkit::cri::PodSpec;
use coracle_testkit::node::Role;
use coracle_testkit::wait;
use coracle_tests::Bed;

use crate::{PATIENCE, answers, audit, kill, nothing_found, row};

/// The node says that it is not ready after 60 s, and looks again every 30 s.
const LASTING: Duration = Duration::from_secs(150);

/// Where keepers have their sockets.
const KEEPERS: &str = "/run/coracle/keeper";

async fn runtime_ready(bed: &Bed) -> Result<cri::RuntimeCondition> {
    let request = cri::StatusRequest { verbose: false };
    let status = bed.runtime.runtime().status(request).await?.into_inner().status;
    let conditions = status.context("Status has no status")?.conditions;
    let mut conditions = conditions.into_iter();
    conditions
        .find(|condition| condition.r#type == "RuntimeReady")
        .context("Status has no RuntimeReady")
}

async fn until_ready_is(bed: &Bed, wanted: bool) -> Result<cri::RuntimeCondition> {
    wait::until_async("RuntimeReady to change", LASTING, || async {
        Ok(Some(runtime_ready(bed).await?).filter(|condition| condition.status == wanted))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_keeper_can_be_started() -> Result<()> {
    let bed = Bed::make().await?;
    let (pod, container) = bed.idle_pod("before").await?;
    let shell = |script: String| bed.node().run("sh", &["-c", &script]);
    shell(format!("mv {KEEPERS} {KEEPERS}.away && touch {KEEPERS}"))?;
    kill(&bed, Role::Keeper)?;

    let refused = bed.runtime.run_pod(PodSpec::new("none")).await;
    let refused = refused.expect_err("a pod started without a keeper");
    assert!(refused.message().contains(KEEPERS), "{refused}");
    assert!(
        runtime_ready(&bed).await?.status,
        "what may pass is told too early"
    );
    answers(&container).await?;

    let told = until_ready_is(&bed, false).await?;
    assert_eq!(told.reason, "NoKeeper", "{}", told.message);
    assert!(told.message.contains(KEEPERS), "{}", told.message);
    answers(&container).await?;
    let found = audit(&bed)?;
    assert!(found.contains("keeper"), "{found}");

    shell(format!("rm {KEEPERS} && mv {KEEPERS}.away {KEEPERS}"))?;
    let told = until_ready_is(&bed, true).await?;
    assert_eq!(told.reason, "", "{}", told.message);
    let (after, _) = bed.idle_pod("after").await?;
    // Shims deposit with the new keeper, each on its own.
    wait::until("the audit to be well", PATIENCE, || Ok(nothing_found(&bed).ok()))?;
    row(
        "keeper killed, and no other can be started",
        "all",
        "new pods refused; after a minute RuntimeReady is false (NoKeeper), within 30 s of the remedy true",
        "keeper missing, until there is one",
    );
    after.remove().await?;
    pod.remove().await?;
    bed.leave().await
}
