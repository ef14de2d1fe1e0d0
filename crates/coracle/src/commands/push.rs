//! `push`: an image to a registry, with a bar a layer.

use coracle_proto::admin::{self, push_event};
use coracle_proto::client::{Client, ClientError};
use coracle_types::{Kind, Kinded as _};
use serde_json::json;

use super::images;
use super::progress::PullBars;
use crate::cli::{Output, PushArgs};
use crate::terminal::{self, Screen, Trouble};

/// Pushes.
pub(crate) async fn run(client: &Client, args: &PushArgs, screen: &Screen) -> anyhow::Result<()> {
    let request = admin::PushRequest {
        image: images::known_name(client, &args.image).await?,
        destination: args.destination.clone().unwrap_or_default(),
        credentials: images::credentials(args.username.as_deref())?,
    };
    let pushed = follow(client, request, PullBars::for_pushing(screen)).await;
    let pushed = pushed.map_err(|error| {
        let next = advice(error.kind());
        let what = Trouble::new(format!("cannot push {}", args.image));
        anyhow::Error::new(error).context(next.into_iter().fold(what, Trouble::next))
    })?;
    for note in &pushed.notes {
        terminal::remark(note);
    }
    match screen.output {
        Output::Json | Output::Yaml => screen.value(&json!({
            "reference": pushed.reference,
            "digest": pushed.digest,
            "notes": pushed.notes,
        })),
        Output::Name => Ok(screen.line(format!("image/{}", terminal::clean(&pushed.reference)))?),
        Output::Table | Output::Wide => {
            let reference = terminal::clean(&pushed.reference);
            // One that is named by its digest says it already.
            let digest = if reference.contains('@') {
                ""
            } else {
                &pushed.digest
            };
            Ok(screen.line(format!("{reference} {digest}").trim_end())?)
        }
    }
}

async fn follow(
    client: &Client,
    request: admin::PushRequest,
    mut bars: PullBars,
) -> Result<admin::Pushed, ClientError> {
    let of = ClientError::of("Push");
    let mut events = client.admin().push(request).await.map_err(&of)?.into_inner();
    while let Some(event) = events.message().await.map_err(&of)? {
        match event.event {
            Some(push_event::Event::Layer(layer)) => bars.layer(&layer),
            Some(push_event::Event::Pushed(pushed)) => {
                bars.finish();
                return Ok(pushed);
            }
            None => {}
        }
    }
    Err(of(tonic::Status::internal(
        "the daemon ended the push without a word: see its log",
    )))
}

/// What to do after a refusal.
fn advice(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::PermissionDenied => Some(
            "coracle push --username USER, with the password in CORACLE_REGISTRY_PASSWORD; the account needs the right to push there",
        ),
        Kind::NotFound => Some(
            "`coracle images` shows what may be pushed; the repository may have to be made at the registry first",
        ),
        Kind::RegistryUnavailable => Some("try again; what was sent is not sent twice"),
        Kind::InvalidArgument => Some("write the destination as registry.example/team/app:1.2"),
        _ => None,
    }
}
