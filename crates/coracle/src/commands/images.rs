//! `images`, `pull`, `import`.

use coracle_image::Reference;
use coracle_proto::admin::{self, pull_event};
use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    AuthConfig, Image, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest,
};
use coracle_types::{Kind, Kinded};
use serde::Serialize;

use super::filter::{Facts, Filters, image_names};
use super::progress::PullBars;
use super::{find, short_names, tree, watch};
use crate::cli::{ImagesArgs, Output, PullArgs};
use crate::terminal::{self, Cell, Column, Cut, Listing, Row, Screen, Status, Tone, Trouble, remark};

const KEYS: &[&str] = &["name", "image", "id", "pinned"];
/// Digits of an id that name an image where a name is usual.
const LEAST_DIGITS: usize = 4;
/// The place of the digest among the columns.
const DIGEST: usize = 4;
const COLUMNS: [Column; 5] = [
    Column::new("IMAGE").cut(Cut::Begin),
    Column::new("IMAGE ID").rank(1),
    Column::new("SIZE").right(),
    Column::new("PINNED").wide(),
    Column::new("DIGEST").wide(),
];

#[derive(Debug, Clone, Serialize)]
pub(super) struct ImageRow {
    pub(super) id: String,
    pub(super) tags: Vec<String>,
    pub(super) digests: Vec<String>,
    pub(super) size: u64,
    pub(super) pinned: bool,
}

impl ImageRow {
    /// What a person calls it.
    pub(super) fn name(&self) -> &str {
        self.tags.first().or(self.digests.first()).unwrap_or(&self.id)
    }
}

impl Facts for ImageRow {
    fn facts(&self, key: &str) -> Vec<String> {
        match key {
            "name" | "image" => self
                .tags
                .iter()
                .chain(&self.digests)
                .flat_map(|name| image_names(name))
                .collect(),
            "id" => vec![self.id.clone(), self.id.trim_start_matches("sha256:").to_owned()],
            "pinned" => vec![self.pinned.to_string()],
            _ => Vec::new(),
        }
    }
}

/// All images, by name.
async fn all(client: &Client) -> anyhow::Result<Vec<ImageRow>> {
    let request = ListImagesRequest { filter: None };
    let reply = client
        .images()
        .list_images(request)
        .await
        .map_err(ClientError::of("ListImages"))?;
    let mut rows: Vec<_> = reply.into_inner().images.into_iter().map(cri_row).collect();
    rows.sort_by(|a, b| a.name().cmp(b.name()));
    Ok(rows)
}

/// Lists images.
pub(crate) async fn list(client: &Client, args: &ImagesArgs, screen: &Screen) -> anyhow::Result<()> {
    let filters = Filters::parse(&args.pick.filter, KEYS, &[])?;
    if args.tree {
        let images = all(client).await?;
        let shown = images.into_iter().filter(|image| filters.fit(image)).collect();
        return tree::show(client, shown, screen).await;
    }
    watch::list(client, screen, args.pick.watch, async || {
        let images = all(client).await?;
        let nothing = match images.len() {
            0 => "there is no image on this node: `coracle pull` gets one".to_owned(),
            count => format!("none of {count} images fits"),
        };
        let shown = images.iter().filter(|image| filters.fit(*image));
        let mut listing = listing(shown, args.pick.no_trunc, nothing);
        if args.digests {
            listing.columns[DIGEST].wide = false;
        }
        Ok(listing)
    })
    .await
}

/// A row an image, called by its first tag; its value has them all.
pub(super) fn listing<'a>(
    images: impl Iterator<Item = &'a ImageRow>,
    whole: bool,
    nothing: String,
) -> Listing {
    let row = |image: &ImageRow| {
        let id = find::short(&image.id);
        let digest = image.digests.first().map_or("", |digest| {
            digest
                .split_once('@')
                .map_or(digest.as_str(), |(_, digest)| digest)
        });
        let more = match image.tags.len() {
            0 | 1 => String::new(),
            count => format!(" (+{} more)", count - 1),
        };
        Row {
            cells: vec![
                Cell::toned(format!("{}{more}", shown_name(image.name(), whole)), Tone::Name),
                Cell::toned(if whole { &image.id } else { id }, Tone::Faint),
                terminal::bytes(image.size).into(),
                if image.pinned { "pinned" } else { "" }.into(),
                digest.into(),
            ],
            value: serde_json::to_value(image).unwrap_or_default(),
            name: format!("image/{}", image.name()),
            key: image.id.clone(),
        }
    };
    Listing {
        columns: COLUMNS.to_vec(),
        rows: images.map(row).collect(),
        nothing,
    }
}

/// Of a digest the beginning: cut to fit, a name would otherwise be digits only.
fn shown_name(name: &str, whole: bool) -> String {
    match name.split_once("sha256:") {
        Some((before, digits)) if !whole => format!("{before}sha256:{}", find::short(digits)),
        _ => name.to_owned(),
    }
}

/// An image of the node, as it is told to the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// By which it was found: a whole reference, or its id.
    pub(super) name: String,
    /// Its id.
    pub(super) id: String,
}

/// The image of the node that a person means: by a name as `coracle pull` takes it, or by the beginning of
/// its id.
pub(super) async fn meant(client: &Client, text: &str) -> anyhow::Result<Option<Found>> {
    let text = text.strip_prefix("image/").unwrap_or(text);
    let names = short_names::candidates(text);
    for name in names.iter().flatten() {
        if let Some(id) = id_of(client, name).await? {
            let name = name.clone();
            return Ok(Some(Found { name, id }));
        }
    }
    if let Some(id) = by_digits(client, text).await? {
        return Ok(Some(Found { name: id.clone(), id }));
    }
    // What may mean several names may have been meant for none of them, but for digits.
    names.map(|_| None)
}

/// The name by which the runtime knows what a person typed; as it was typed when there is no such image, so
/// that the runtime says what is wrong.
pub(super) async fn known_name(client: &Client, text: &str) -> anyhow::Result<String> {
    let found = meant(client, text).await?;
    Ok(found.map_or_else(|| text.to_owned(), |found| found.name))
}

/// The id of the image with that name.
async fn id_of(client: &Client, name: &str) -> Result<Option<String>, ClientError> {
    let image = Some(ImageSpec {
        image: name.to_owned(),
        ..ImageSpec::default()
    });
    let request = ImageStatusRequest {
        image,
        verbose: false,
    };
    let reply = client.images().image_status(request).await;
    match reply.map_err(ClientError::of("ImageStatus")) {
        Ok(reply) => Ok(reply.into_inner().image.map(|image| image.id)),
        // What is no reference may still be digits of an id.
        Err(error) if error.kind() == Kind::InvalidArgument => Ok(None),
        Err(error) => Err(error),
    }
}

/// The id that begins so.
async fn by_digits(client: &Client, text: &str) -> anyhow::Result<Option<String>> {
    let digits = text.trim_start_matches("sha256:");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let images = all(client).await?;
    let fits = |image: &&ImageRow| image.id.trim_start_matches("sha256:").starts_with(digits);
    let found: Vec<_> = images.iter().filter(fits).collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.id.clone())),
        several => {
            let mut what = format!("{text:?} means {} images:", several.len());
            for image in several {
                what.push_str(&format!("\n{}  {}", find::short(&image.id), image.name()));
            }
            Err(Trouble::new(what)
                .next("give more digits, or a name")
                .status(Status::Ambiguous)
                .into())
        }
    }
}

/// A user with the password from the environment, where no list of processes shows it.
pub(super) fn credentials(username: Option<&str>) -> anyhow::Result<Option<admin::Credentials>> {
    let Some(username) = username else {
        return Ok(None);
    };
    let password = std::env::var("CORACLE_REGISTRY_PASSWORD").map_err(|_| {
        Trouble::new("--username needs a password")
            .next("put it into the variable CORACLE_REGISTRY_PASSWORD")
            .status(Status::Usage)
    })?;
    Ok(Some(admin::Credentials {
        username: username.to_owned(),
        password,
        ..admin::Credentials::default()
    }))
}

/// Pulls with a bar a layer; on another runtime's socket without.
pub(crate) async fn pull(client: &Client, args: &PullArgs, screen: &Screen) -> anyhow::Result<()> {
    let credentials = credentials(args.username.as_deref())?;
    let names = short_names::candidates(&args.image)?;
    let (name, image) = pull_first(client, &names, credentials, screen).await?;
    tell_pulled(&image, name, screen)
}

/// The last word of a pull: what the image that was asked for by this name is called for good.
fn tell_pulled(image: &ImageRow, name: &str, screen: &Screen) -> anyhow::Result<()> {
    match screen.output {
        Output::Json | Output::Yaml => screen.value(image)?,
        Output::Name => screen.line(terminal::clean(&format!("image/{}", image.name())))?,
        Output::Table | Output::Wide => {
            // It may be known from other repositories, too.
            let repository = name.parse::<Reference>().map(|name| name.name());
            let own = |digest: &&String| {
                let of = digest.split_once('@').map(|(of, _)| of);
                repository
                    .as_ref()
                    .is_ok_and(|repository| of == Some(repository.as_str()))
            };
            let mut digests = image.digests.iter();
            let digest = digests.find(own).or(image.digests.first());
            let name = digest.or(image.tags.first()).unwrap_or(&image.id);
            screen.line(terminal::clean(name))?;
        }
    }
    Ok(())
}

/// The first of several names that leads to an image; the last one's error when none does.
async fn pull_first<'a>(
    client: &Client,
    names: &'a [String],
    credentials: Option<admin::Credentials>,
    screen: &Screen,
) -> anyhow::Result<(&'a str, ImageRow)> {
    let mut failed: Option<anyhow::Error> = None;
    for name in names {
        if let Some(error) = failed.take() {
            remark(format!("{error:#}; {name} is tried"));
        }
        match pull_image(client, name, credentials.clone(), PullBars::new(screen)).await {
            Ok(image) => return Ok((name, image)),
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or_else(|| anyhow::anyhow!("no registry to search is a possible one")))
}

async fn pull_image(
    client: &Client,
    reference: &str,
    credentials: Option<admin::Credentials>,
    bars: PullBars,
) -> anyhow::Result<ImageRow> {
    let pulled = pull_as_told(client, reference, credentials, bars).await;
    pulled.map_err(|error| {
        let trouble = cannot_pull(reference, &error);
        error.context(trouble)
    })
}

/// Which image, and what is to be done about it.
fn cannot_pull(reference: &str, error: &anyhow::Error) -> Trouble {
    let trouble = Trouble::new(format!("cannot pull {reference}"));
    match error.downcast_ref::<ClientError>().map(Kinded::kind) {
        Some(Kind::NotFound) => trouble
            .next("see whether name and tag are there: a name without a tag means :latest, one without a registry docker.io"),
        Some(Kind::PermissionDenied) => trouble
            .next("if it is private: put the password into CORACLE_REGISTRY_PASSWORD and give --username to coracle pull"),
        _ => trouble,
    }
}

async fn pull_as_told(
    client: &Client,
    reference: &str,
    credentials: Option<admin::Credentials>,
    mut bars: PullBars,
) -> anyhow::Result<ImageRow> {
    bars.of = reference.to_owned();
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
    Ok(cri_row(reply.into_inner().image.unwrap_or_default()))
}

/// Pulls an image, whether or not it is on the node.
pub(crate) async fn fetch(client: &Client, reference: &str, screen: &Screen) -> anyhow::Result<()> {
    pull_image(client, reference, None, PullBars::new(screen)).await?;
    Ok(())
}

/// Has the image on the node that a person means: pulls it when it is not there. Gives the name by which the
/// runtime knows it.
pub(crate) async fn ensure_meant(client: &Client, typed: &str, screen: &Screen) -> anyhow::Result<String> {
    let found = meant(client, typed).await?;
    // Fewer digits are rather a word, and the runtime takes no fewer either.
    let enough = typed.trim_start_matches("sha256:").len() >= LEAST_DIGITS;
    if let Some(found) = found.filter(|found| enough || found.name != found.id) {
        return Ok(found.name);
    }
    let names = short_names::candidates(typed)?;
    terminal::remark(format!("{typed} is not on this node: pulling it"));
    let (name, _) = pull_first(client, &names, None, screen).await?;
    Ok(name.to_owned())
}

/// Has the image of a whole reference on the node: pulls it when it is not there.
pub(crate) async fn ensure(client: &Client, reference: &str, screen: &Screen) -> anyhow::Result<()> {
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
        pull_image(client, reference, None, PullBars::new(screen)).await?;
    }
    Ok(())
}

/// Loads images from a file that the daemon can read.
pub(crate) async fn import(client: &Client, path: &std::path::Path, screen: &Screen) -> anyhow::Result<()> {
    let path = std::path::absolute(path)?;
    let Some(text) = path.to_str() else {
        return Err(Trouble::new(format!("{} is no UTF-8", path.display()))
            .next("coracle load < FILE")
            .status(Status::Usage)
            .into());
    };
    let request = admin::ImportRequest {
        path: text.to_owned(),
    };
    let reply = client
        .admin()
        .import(request)
        .await
        .map_err(ClientError::of("Import"));
    let images = reply.map_err(|error| {
        anyhow::Error::new(error).context(format!("cannot load images from {}", path.display()))
    })?;
    let rows: Vec<_> = images.into_inner().images.into_iter().map(row).collect();
    let nothing = format!("{} has no image", path.display());
    screen.listing(&listing(rows.iter(), false, nothing))
}

pub(super) fn row(image: admin::ImageSummary) -> ImageRow {
    ImageRow {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
        pinned: image.pinned,
    }
}

fn cri_row(image: Image) -> ImageRow {
    ImageRow {
        id: image.id,
        tags: image.repo_tags,
        digests: image.repo_digests,
        size: image.size,
        pinned: image.pinned,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::{forms, uncut_forms};

    fn images() -> [ImageRow; 3] {
        let digest = |name: &str, digit: &str| format!("{name}@sha256:{}", digit.repeat(64));
        [
            ImageRow {
                id: format!("sha256:{}", "1".repeat(64)),
                tags: vec![
                    "docker.io/library/busybox:1".to_owned(),
                    "docker.io/library/busybox:latest".to_owned(),
                ],
                digests: vec![digest("docker.io/library/busybox", "a")],
                size: 4_404_019,
                pinned: true,
            },
            // Pulled by digest.
            ImageRow {
                id: format!("sha256:{}", "2".repeat(64)),
                tags: Vec::new(),
                digests: vec![digest("registry.example:5000/a-team/a-service-with-a-name", "b")],
                size: 187 << 20,
                pinned: false,
            },
            // Nothing names it any more.
            ImageRow {
                id: format!("sha256:{}", "3".repeat(64)),
                tags: Vec::new(),
                digests: Vec::new(),
                size: 0,
                pinned: false,
            },
        ]
    }

    #[test]
    fn images_in_every_form() {
        let images = images();
        insta::assert_snapshot!(forms(|screen| {
            screen.listing(&listing(images.iter(), false, String::new()))
        }));
    }

    #[test]
    fn the_last_words_of_a_pull_in_every_form() {
        let images = images();
        insta::assert_snapshot!(uncut_forms(|screen| {
            images
                .iter()
                .try_for_each(|image| tell_pulled(image, "docker.io/library/busybox:1", screen))
        }));
    }
}
