//! `images`, `pull`, `import`.

use coracle_proto::admin::{self, pull_event};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{AuthConfig, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest};
use coracle_types::{Kind, Kinded};
use serde::Serialize;

use super::progress::PullBars;
use crate::cli::{ImportArgs, Output, PullArgs};
use crate::terminal;

#[derive(Serialize)]
struct ImageRow {
    id: String,
    tags: Vec<String>,
    digests: Vec<String>,
    size: u64,
}

/// Lists images.
pub(crate) async fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let request = ListImagesRequest { filter: None };
    let reply = client
        .images()
        .list_images(request)
        .await
        .map_err(ClientError::of("ListImages"))?;
    let images = reply.into_inner().images.into_iter();
    let rows: Vec<_> = images
        .map(|image| ImageRow {
            id: image.id,
            tags: image.repo_tags,
            digests: image.repo_digests,
            size: image.size,
        })
        .collect();
    print(&rows, output)
}

fn print(rows: &[ImageRow], output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        return terminal::json(&rows);
    }
    let lines = rows.iter().flat_map(|row| {
        let names = if row.tags.is_empty() {
            &row.digests
        } else {
            &row.tags
        };
        let name = |name: &String| [name.clone(), short(&row.id), terminal::bytes(row.size)];
        names.iter().map(name).collect::<Vec<_>>()
    });
    terminal::table(["IMAGE", "ID", "SIZE"], lines);
    Ok(())
}

fn short(id: &str) -> String {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..13).unwrap_or(digits).to_owned()
}

/// Pulls with a bar a layer; on another runtime's socket without.
pub(crate) async fn pull(client: &Client, args: &PullArgs, output: Output) -> anyhow::Result<()> {
    let password = args
        .username
        .as_ref()
        .map(|_| std::env::var("CORACLE_REGISTRY_PASSWORD"));
    let password = match password {
        Some(Err(_)) => {
            anyhow::bail!("--username needs the password in the variable CORACLE_REGISTRY_PASSWORD")
        }
        Some(Ok(password)) => password,
        None => String::new(),
    };
    let credentials = args.username.clone().map(|username| admin::Credentials {
        username,
        password,
        ..admin::Credentials::default()
    });
    let image = pull_image(client, &args.image, credentials).await?;
    match output {
        Output::Json => terminal::json(&image),
        Output::Table => {
            terminal::line(image.digests.first().or(image.tags.first()).unwrap_or(&image.id));
            Ok(())
        }
    }
}

async fn pull_image(
    client: &Client,
    reference: &str,
    credentials: Option<admin::Credentials>,
) -> anyhow::Result<ImageRow> {
    let request = admin::PullRequest {
        reference: reference.to_owned(),
        credentials: credentials.clone(),
        runtime_handler: String::new(),
    };
    let of = ClientError::of("Pull");
    let mut events = match client.admin().pull(request).await.map_err(&of) {
        Ok(reply) => reply.into_inner(),
        Err(error) if error.kind() == Kind::Unimplemented => {
            return pull_plain(client, reference, credentials).await;
        }
        Err(error) => return Err(error.into()),
    };
    let mut bars = PullBars::new();
    while let Some(event) = events.message().await.map_err(&of)? {
        match event.event {
            Some(pull_event::Event::Layer(layer)) => bars.layer(&layer),
            Some(pull_event::Event::Image(image)) => {
                bars.finish();
                return Ok(row(image));
            }
            None => {}
        }
    }
    anyhow::bail!("the daemon ended the pull of {reference} without a word: see its log")
}

async fn pull_plain(
    client: &Client,
    reference: &str,
    credentials: Option<admin::Credentials>,
) -> anyhow::Result<ImageRow> {
    let auth = credentials.map(|credentials| AuthConfig {
        username: credentials.username,
        password: credentials.password,
        ..AuthConfig::default()
    });
    let image = Some(ImageSpec {
        image: reference.to_owned(),
        ..ImageSpec::default()
    });
    let request = PullImageRequest {
        image: image.clone(),
        auth,
        sandbox_config: None,
    };
    client
        .images()
        .pull_image(request)
        .await
        .map_err(ClientError::of("PullImage"))?;
    let request = ImageStatusRequest {
        image,
        verbose: false,
    };
    let reply = client
        .images()
        .image_status(request)
        .await
        .map_err(ClientError::of("ImageStatus"))?;
    let image = reply.into_inner().image.unwrap_or_default();
    Ok(ImageRow {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
    })
}

/// Has an image on the node: pulls it when it is not there.
pub(crate) async fn ensure(client: &Client, reference: &str) -> anyhow::Result<()> {
    let image = Some(ImageSpec {
        image: reference.to_owned(),
        ..ImageSpec::default()
    });
    let request = ImageStatusRequest {
        image,
        verbose: false,
    };
    let reply = client
        .images()
        .image_status(request)
        .await
        .map_err(ClientError::of("ImageStatus"))?;
    if reply.into_inner().image.is_none() {
        terminal::remark(format!("{reference} is not on this node: pulling it"));
        pull_image(client, reference, None).await?;
    }
    Ok(())
}

/// Loads images from a file that the daemon can read.
pub(crate) async fn import(client: &Client, args: &ImportArgs, output: Output) -> anyhow::Result<()> {
    let path = std::path::absolute(&args.path)?;
    let request = admin::ImportRequest {
        path: path.display().to_string(),
    };
    let reply = client
        .admin()
        .import(request)
        .await
        .map_err(ClientError::of("Import"));
    let images = reply.map_err(super::needs_coracle)?.into_inner().images;
    print(&images.into_iter().map(row).collect::<Vec<_>>(), output)
}

fn row(image: admin::ImageSummary) -> ImageRow {
    ImageRow {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
    }
}
