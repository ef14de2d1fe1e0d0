//! `images --tree`: images with their layers, how large they are here, and who shares them.

use std::collections::BTreeMap;

use coracle_proto::admin::{ImageDetailsRequest, ImageDetailsResponse, ImageLayer};
use coracle_proto::client::{Client, ClientError};
use serde_json::{Value, json};

use super::find;
use super::images::ImageRow;
use crate::cli::Output;
use crate::terminal::{self, Screen, Tone};

/// Characters of a layer's id that are shown: which kind, and the beginning of its digest.
const DIGITS: usize = 12;

/// Shows these images, each with its layers.
pub(super) async fn show(client: &Client, images: Vec<ImageRow>, screen: &Screen) -> anyhow::Result<()> {
    let mut all = Vec::with_capacity(images.len());
    for image in images {
        let details = details(client, &image.id).await?;
        all.push((image, details.layers));
    }
    let names: Vec<(&str, &[ImageLayer])> = all
        .iter()
        .map(|(row, layers)| (row.name(), &layers[..]))
        .collect();
    let shared = shared(&names);
    match screen.output {
        Output::Json | Output::Yaml => {
            let values: Vec<_> = all
                .iter()
                .map(|(image, layers)| value(image, layers, &shared))
                .collect();
            screen.value(&values)
        }
        Output::Name => {
            for (image, _) in &all {
                screen.line(format!("image/{}", terminal::clean(image.name())))?;
            }
            Ok(())
        }
        Output::Table | Output::Wide => {
            if all.is_empty() {
                terminal::remark("no image fits");
            }
            let wide = screen.output == Output::Wide;
            for (image, layers) in &all {
                screen.raw(&text(screen, image, layers, (&shared, wide)))?;
            }
            Ok(())
        }
    }
}

/// All that the daemon knows of an image.
pub(super) async fn details(client: &Client, image: &str) -> Result<ImageDetailsResponse, ClientError> {
    let request = ImageDetailsRequest {
        image: image.to_owned(),
    };
    let reply = client.admin().image_details(request).await;
    Ok(reply.map_err(ClientError::of("ImageDetails"))?.into_inner())
}

/// Which images have a layer, by its id.
type Sharers<'a> = BTreeMap<&'a str, Vec<&'a str>>;

fn shared<'a>(images: &[(&'a str, &'a [ImageLayer])]) -> Sharers<'a> {
    let mut shared: Sharers<'a> = BTreeMap::new();
    for (name, layers) in images {
        for layer in *layers {
            let names = shared.entry(&layer.id).or_default();
            // A layer may stand in an image twice.
            if names.last() != Some(name) {
                names.push(*name);
            }
        }
    }
    shared
}

fn others<'a>(shared: &Sharers<'a>, layer: &ImageLayer, image: &ImageRow) -> Vec<&'a str> {
    let all = shared.get(layer.id.as_str()).map_or(&[][..], Vec::as_slice);
    all.iter().copied().filter(|name| *name != image.name()).collect()
}

fn value(image: &ImageRow, layers: &[ImageLayer], shared: &Sharers<'_>) -> Value {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| {
            json!({"id": layer.id, "bytes": layer.bytes, "inodes": layer.inodes,
                   "shared_with": others(shared, layer, image)})
        })
        .collect();
    json!({"id": image.id, "tags": image.tags, "digests": image.digests, "size": image.size, "layers": layers})
}

/// One image's branch, its top layer first: what was put last is what people look for.
fn text(
    screen: &Screen,
    image: &ImageRow,
    layers: &[ImageLayer],
    (shared, wide): (&Sharers<'_>, bool),
) -> String {
    let name = screen.paint(&terminal::clean(image.name()), Tone::Name);
    let id = screen.paint(find::short(&image.id), Tone::Faint);
    let mut text = format!("{name}  {id}  {}\n", terminal::bytes(image.size));
    for (place, layer) in layers.iter().enumerate().rev() {
        let branch = match (screen.plain, place) {
            (true, _) => "layer",
            (false, 0) => "└─",
            (false, _) => "├─",
        };
        let (kind, digest) = layer.id.split_once(':').unwrap_or(("", &layer.id));
        let digits = digest.rsplit(':').next().unwrap_or(digest);
        let shown = if wide {
            digits
        } else {
            digits.get(..DIGITS).unwrap_or(digits)
        };
        let others = others(shared, layer, image);
        let with = match others.len() {
            0 => String::new(),
            1 => format!("  shared with {}", terminal::clean(others[0])),
            count => format!(
                "  shared with {} and {} more",
                terminal::clean(others[0]),
                count - 1
            ),
        };
        let with = if wide && !others.is_empty() {
            format!("  shared with {}", terminal::clean(&others.join(", ")))
        } else {
            with
        };
        text.push_str(&format!(
            "{branch} {} {kind:<4} {:>10}{}\n",
            screen.paint(shown, Tone::Faint),
            terminal::bytes(layer.bytes),
            screen.paint(&with, Tone::Faint)
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::forms::shown;

    fn image(name: &str, digit: &str) -> ImageRow {
        ImageRow {
            id: format!("sha256:{}", digit.repeat(64)),
            tags: vec![name.to_owned()],
            digests: Vec::new(),
            size: 5_000_000,
            pinned: false,
        }
    }

    fn layer(digit: &str, bytes: u64) -> ImageLayer {
        ImageLayer {
            id: format!("diff:sha256:{}", digit.repeat(64)),
            bytes,
            inodes: 3,
        }
    }

    #[test]
    fn a_tree_says_which_layers_are_shared_and_with_whom() {
        let (base, app) = (
            image("r.example/base:1", "a"),
            image("r.example/app:\u{1b}[31m2", "b"),
        );
        let (below, above) = (layer("1", 4_000_000), layer("2", 1_000_000));
        let (of_base, of_app) = (vec![below.clone()], vec![below, above]);
        let named = [(base.name(), &of_base[..]), (app.name(), &of_app[..])];
        let shared = shared(&named);
        let text = shown(|screen| {
            let mut all = String::new();
            for wide in [false, true] {
                all.push_str(&text(screen, &base, &of_base, (&shared, wide)));
                all.push_str(&text(screen, &app, &of_app, (&shared, wide)));
            }
            screen.raw(&all).unwrap();
        });
        assert!(!text.contains('␛'), "a name moves the terminal");
        insta::assert_snapshot!(text);
    }
}
