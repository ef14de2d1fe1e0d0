//! What people do with the node's images besides pulling: look into, save, load and prune them.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use coracle_image::{Details, Image, Progress, PushRequest, Pushed, SaveRequest, Saved};
use coracle_types::Digest;

use crate::api::{IdPrefix, PruneImages, Pruned};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::operations::Subject;
use crate::pod::PodHandle;

impl Engine {
    /// All that is known of an image.
    ///
    /// # Errors
    /// `NotFound`; what keeps its documents from being read.
    pub async fn image_details(&self, name: &str) -> Result<Details, EngineError> {
        let details = self.parts.images.details(name).await;
        details.map_err(EngineError::from_cause("image details"))
    }

    /// A file without a name for an archive that a client sends; blocks.
    ///
    /// # Errors
    /// When none can be made.
    pub fn archive_file(&self) -> Result<File, EngineError> {
        let file = self.parts.images.unnamed_file();
        file.map_err(EngineError::from_cause("load images"))
    }

    /// Loads the images of an archive that a client has sent, one after the other.
    ///
    /// # Errors
    /// What is wrong with it; images that came before that stay.
    pub async fn load_images(&self, archive: File) -> Result<Vec<Arc<Image>>, EngineError> {
        let subject = Subject::named("an archive that was sent");
        let entry = self.parts.operations.begin_for_client("load images", subject);
        entry
            .running()
            .step("load.unpack", self.parts.images.load_sent(archive))
            .await
            .map_err(EngineError::from_cause("load images"))
    }

    /// Writes images as an archive; its bytes follow when all of it is here.
    ///
    /// # Errors
    /// `NotFound`; what keeps an image from being read.
    pub async fn save_images(&self, request: SaveRequest) -> Result<Saved, EngineError> {
        let subject = Subject::named(request.names.join(" "));
        let entry = self.parts.operations.begin_for_client("save images", subject);
        entry
            .running()
            .step("save.gather", self.parts.images.save(request))
            .await
            .map_err(EngineError::from_cause("save images"))
    }

    /// Sends an image to a registry.
    ///
    /// # Errors
    /// `NotFound`; what the registry refused; what keeps a layer from being sent.
    pub async fn push_image(
        &self,
        request: PushRequest,
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed, EngineError> {
        let subject = Subject::named(&request.name);
        let entry = self.parts.operations.begin_for_client("push image", subject);
        entry
            .running()
            .step("push.image", self.parts.images.push(request, progress.as_ref()))
            .await
            .map_err(EngineError::from_cause("push image"))
    }

    /// Loads the archives of a directory, those whose images are not here; the log tells of each.
    pub async fn load_archives(&self, directory: &Path) {
        let subject = Subject::named(directory.display().to_string());
        let entry = self.parts.operations.begin_for_client("load archives", subject);
        let record = self.parts.config.root.join("archives.json");
        let work = self.parts.images.load_directory(directory, &record);
        match entry.running().step("load.unpack", work).await {
            Ok(outcome) => tracing::info!(
                loaded = outcome.loaded,
                present = outcome.present,
                failed = outcome.failed,
                "the directory of archives was looked through"
            ),
            Err(error) => tracing::warn!(%error, "no archive is loaded"),
        }
    }

    /// Removes images that no container uses and that are not pinned, and layers that no image needs.
    ///
    /// # Errors
    /// What could not be removed; what went before that is gone.
    pub async fn prune_images(&self, prune: PruneImages) -> Result<Pruned, EngineError> {
        const OPERATION: &str = "prune images";
        let (images, used) = (&self.parts.images, self.images_in_use());
        let goes = |image: &Arc<Image>| {
            !image.pinned
                && !used.contains(&image.id)
                && (prune.all || image.repo_tags.is_empty())
                && prune.before.is_none_or(|before| image.pulled_at < before)
        };
        let going: Vec<Arc<Image>> = images.list().into_iter().filter(goes).collect();
        if prune.dry_run {
            let usage = images.only_of(&going);
            return Ok(Pruned {
                images: going,
                bytes: usage.bytes,
                inodes: usage.inodes,
            });
        }
        let subject = Subject::named(format!("{} images", going.len()));
        let entry = self.parts.operations.begin_for_client(OPERATION, subject);
        let work = async {
            let mut pruned = Pruned::default();
            let mut freed = images.prune_layers().await?;
            for image in going {
                // A container that came meanwhile keeps its layers in any case.
                let alone = images.only_of(std::slice::from_ref(&image));
                if images.remove(image.id.as_str()).await?.is_some() {
                    freed = freed + alone;
                    pruned.images.push(image);
                }
            }
            (pruned.bytes, pruned.inodes) = (freed.bytes, freed.inodes);
            Ok::<_, coracle_image::Error>(pruned)
        };
        let pruned = entry.running().step("image.prune", work).await;
        pruned.map_err(EngineError::from_cause(OPERATION))
    }

    /// Images that containers stand on or mount, running or not.
    fn images_in_use(&self) -> HashSet<Digest> {
        let pods = self.parts.index.pods(&IdPrefix::default());
        let views = pods.iter().map(PodHandle::view);
        let containers = views.flat_map(|view| view.containers.clone());
        containers
            .flat_map(|record| record.images().cloned().collect::<Vec<_>>())
            .collect()
    }
}
