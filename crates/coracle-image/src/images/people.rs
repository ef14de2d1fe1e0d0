//! What people do with images besides pulling: look into, save, push, and count what a removal frees.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::sync::Arc;

use coracle_snapshot::Usage;

use super::{BLOCK, Images, TICK};
use crate::assemble::blocking;
use crate::catalog::Image;
use crate::details::{Details, details};
use crate::error::Error;
use crate::export::{self, Gather, SaveRequest, Saved};
use crate::progress::{Progress, PullState};
use crate::push::{Push, PushRequest, Pushed};
use crate::reference::Reference;

impl Images {
    /// A file without a name where images lie, for an archive that a client sends; blocks.
    ///
    /// # Errors
    /// When none can be made.
    pub fn unnamed_file(&self) -> Result<File, Error> {
        self.0.workshop.content.unnamed()
    }

    /// Writes images as an archive. The bytes that are original wherever they can be had again; what could
    /// not be is said in the notes. Nothing is sent before all of it is here.
    ///
    /// # Errors
    /// Of kind `NotFound` for a name that nothing has; when an image can neither be fetched again nor read.
    pub async fn save(&self, request: SaveRequest) -> Result<Saved, Error> {
        let registries = self.0.registries();
        let gather = Gather {
            workshop: &self.0.workshop,
            registries: &registries,
            offline: request.offline,
            credentials: request.credentials.as_ref(),
        };
        let mut parcels = Vec::with_capacity(request.names.len());
        for name in &request.names {
            let image = self.image_of(name)?;
            parcels.push(gather.image(&image, name).await?);
        }
        Ok(export::stream(&self.0.workshop, parcels, request.form))
    }

    /// An image that can be written out; the files of an artifact have lost what made them one.
    fn image_of(&self, name: &str) -> Result<Arc<Image>, Error> {
        let image = self.get(name).ok_or_else(|| export::missing(name))?;
        match &image.artifact {
            None => Ok(image),
            Some(kind) => Err(Error::Artifact {
                image: name.to_owned(),
                kind: kind.clone(),
            }),
        }
    }

    /// All that is known of the image of that name.
    ///
    /// # Errors
    /// Of kind `NotFound`; when its documents cannot be read.
    pub async fn details(&self, name: &str) -> Result<Details, Error> {
        let image = self.get(name).ok_or_else(|| export::missing(name))?;
        let workshop = Arc::clone(&self.0.workshop);
        blocking("reading an image's documents", move || details(&workshop, image)).await?
    }

    /// What would be free without these images: layers and documents that no other image has. No IO.
    #[must_use]
    pub fn only_of(&self, images: &[Arc<Image>]) -> Usage {
        let gone: BTreeSet<_> = images.iter().map(|image| &image.id).collect();
        let all = self.list();
        let kept: Vec<_> = all.iter().filter(|image| !gone.contains(&image.id)).collect();
        let kept_layers: BTreeSet<_> = kept.iter().flat_map(|image| &image.layers).collect();
        let kept_documents: BTreeSet<_> = kept.iter().flat_map(|image| image.documents.keys()).collect();
        let layers: BTreeSet<_> = images.iter().flat_map(|image| &image.layers).collect();
        let documents: BTreeMap<_, _> = images.iter().flat_map(|image| &image.documents).collect();
        let layers = layers.into_iter().filter(|layer| !kept_layers.contains(layer));
        let layers = layers.filter_map(|layer| self.0.workshop.snapshots.layer_usage(layer));
        let documents = documents
            .into_iter()
            .filter(|(digest, _)| !kept_documents.contains(digest));
        layers
            .chain(documents.map(|(_, bytes)| Usage {
                bytes: bytes.next_multiple_of(BLOCK),
                inodes: 1,
            }))
            .sum()
    }

    /// Sends an image to a registry: what it has already is not sent again, and what another repository of
    /// it has is taken from there. Dropping the future ends the push; what was sent stays with the registry.
    ///
    /// # Errors
    /// Of kind `NotFound` for a name that nothing has, `PermissionDenied`, `RegistryUnavailable`; when a
    /// layer can neither be fetched again nor read.
    pub async fn push(&self, request: PushRequest, progress: &dyn Progress) -> Result<Pushed, Error> {
        let image = self.image_of(&request.name)?;
        let named = if request.destination.is_empty() {
            &request.name
        } else {
            &request.destination
        };
        let destination: Reference = named.parse()?;
        let (registries, state) = (self.0.registries(), PullState::default());
        let push = Push {
            gather: Gather {
                workshop: &self.0.workshop,
                registries: &registries,
                offline: false,
                credentials: request.credentials.as_ref(),
            },
            image,
            name: &request.name,
            destination,
            state: &state,
        };
        let mut work = std::pin::pin!(push.run());
        let mut seen = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ended = &mut work => {
                    state.report(progress, &mut seen);
                    return ended;
                }
                _ = ticks.tick() => state.report(progress, &mut seen),
            }
        }
    }
}
