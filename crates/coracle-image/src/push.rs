//! One push: an image to a registry, of which only what is not there yet is sent.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use coracle_types::Digest;
use coracle_types::image::Credentials;

use crate::catalog::Image;
use crate::error::Error;
use crate::export::{Gather, Kept, Parcel, kept};
use crate::manifest::Descriptor;
use crate::progress::{LayerPhase, LayerState, PullState};
use crate::reference::Reference;
use crate::registry::error::RegistryError;
use crate::registry::upload::{self, Uploader};

/// What to push.
#[derive(Debug, Clone, Default)]
pub struct PushRequest {
    /// An image, by any of its names.
    pub name: String,
    /// Where to; the name itself when it is empty.
    pub destination: String,
    /// For the registry that is pushed to, and for those that are asked for layers.
    pub credentials: Option<Credentials>,
}

/// What a registry has now.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Name and tag, or name and digest.
    pub reference: String,
    /// Of the manifest.
    pub digest: Digest,
    /// What differs from the image that was named, in words.
    pub notes: Vec<String>,
}

/// A push under way.
pub(crate) struct Push<'a> {
    pub(crate) gather: Gather<'a>,
    pub(crate) image: Arc<Image>,
    pub(crate) name: &'a str,
    pub(crate) destination: Reference,
    pub(crate) state: &'a PullState,
}

impl Push<'_> {
    pub(crate) async fn run(self) -> Result<Pushed, Error> {
        let failed = |source: RegistryError| Error::Push {
            image: self.destination.to_string(),
            source,
        };
        let registries = self.gather.registries;
        let session = registries
            .session(&self.destination, self.gather.credentials)
            .await;
        let session = session.map_err(failed)?;
        let uploader = session.uploader().map_err(failed)?;
        let Kept { manifest, config } = kept(self.gather.workshop, &self.image).await?;
        let mut why = "its manifest is not kept".to_owned();
        if let Some((digest, bytes, media_type, layers)) = manifest {
            match self.layers(&uploader, &layers).await.map_err(failed)? {
                Ok(()) => {
                    let manifest = (&digest, &bytes);
                    self.finish(&uploader, (&self.image.id, &config), manifest, &media_type)
                        .await
                        .map_err(failed)?;
                    return Ok(self.pushed(digest, Vec::new()));
                }
                Err(reason) => why = reason,
            }
        }
        let flat = self.gather.flat(&self.image, self.name, &why).await?;
        self.flat(&uploader, &flat).await.map_err(failed)?;
        Ok(self.pushed(flat.manifest.0, flat.note.into_iter().collect()))
    }

    fn pushed(&self, digest: Digest, notes: Vec<String>) -> Pushed {
        let reference = self.destination.repo_tag();
        Pushed {
            reference: reference.unwrap_or_else(|| self.destination.repo_digest(&digest)),
            digest,
            notes,
        }
    }

    /// The layers as they are; in words why they cannot be had.
    async fn layers(
        &self,
        uploader: &Uploader<'_>,
        layers: &[Descriptor],
    ) -> Result<Result<(), String>, RegistryError> {
        let states: Vec<Arc<LayerState>> = layers
            .iter()
            .map(|layer| Arc::new(LayerState::new(layer.digest.clone(), layer.size)))
            .collect();
        self.state.set_layers(states.clone());
        let mut sources = self.gather.sources(&self.image);
        for (layer, state) in layers.iter().zip(&states) {
            if uploader.has(&layer.digest).await? || self.mounted(uploader, &layer.digest).await? {
                state.enter(LayerPhase::Present);
                continue;
            }
            let file = match sources.layer(layer).await {
                Ok(file) => Arc::new(file),
                Err(reason) => return Ok(Err(reason)),
            };
            state.enter(LayerPhase::Downloading);
            let parcel = upload::Parcel {
                digest: &layer.digest,
                size: layer.size,
                file: &file,
                state,
            };
            uploader.blob(&parcel).await?;
            state.enter(LayerPhase::Done);
        }
        Ok(Ok(()))
    }

    /// From another repository of the same registry that has the image.
    async fn mounted(&self, uploader: &Uploader<'_>, digest: &Digest) -> Result<bool, RegistryError> {
        let names = self
            .image
            .repo_digests
            .iter()
            .filter_map(|name| name.parse::<Reference>().ok());
        let here = names.filter(|name| {
            name.registry() == self.destination.registry()
                && name.repository() != self.destination.repository()
        });
        let repositories: BTreeSet<String> = here.map(|name| name.repository().to_owned()).collect();
        for repository in repositories {
            if uploader.mount(digest, &repository).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn flat(&self, uploader: &Uploader<'_>, flat: &Parcel) -> Result<(), RegistryError> {
        for (layer, file) in &flat.layers {
            let state = Arc::new(LayerState::new(layer.digest.clone(), layer.size));
            self.state.set_layers(vec![Arc::clone(&state)]);
            if uploader.has(&layer.digest).await? {
                state.enter(LayerPhase::Present);
                continue;
            }
            state.enter(LayerPhase::Downloading);
            let parcel = upload::Parcel {
                digest: &layer.digest,
                size: layer.size,
                file,
                state: &state,
            };
            uploader.blob(&parcel).await?;
            state.enter(LayerPhase::Done);
        }
        let (config, manifest) = (&flat.config, &flat.manifest);
        self.finish(
            uploader,
            (&config.0, &config.1),
            (&manifest.0, &manifest.1),
            &flat.media_type,
        )
        .await
    }

    /// Configuration and manifest: the latter last, so that nobody sees it before all that it names.
    async fn finish(
        &self,
        uploader: &Uploader<'_>,
        (id, config): (&Digest, &Bytes),
        manifest: (&Digest, &Bytes),
        media_type: &str,
    ) -> Result<(), RegistryError> {
        if !uploader.has(id).await? {
            uploader.small_blob(id, config).await?;
        }
        let name = match self.destination.tag() {
            Some(tag) if self.destination.digest().is_none() => tag.to_owned(),
            _ => manifest.0.to_string(),
        };
        uploader.manifest(&name, manifest, media_type).await
    }
}
