//! Images that are mounted in a container as volumes: found, looked at, kept.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::path::PathBuf;

use coracle_types::Kind;
use coracle_types::container::ContainerConfig;

use super::sandbox::PodContext;
use crate::error::EngineError;
use crate::record::{ContainerRecord, VolumeImage};

const OPERATION: &str = "create container";

impl PodContext {
    /// The images of a container's mounts, by container path. The kubelet has pulled them before.
    pub(super) fn volume_images(
        &self,
        config: &ContainerConfig,
    ) -> Result<BTreeMap<String, VolumeImage>, EngineError> {
        let mut images = BTreeMap::new();
        for mount in &config.mounts {
            let Some(wanted) = &mount.image else { continue };
            let image = self.parts.images.get(&wanted.image).ok_or_else(|| {
                let message = format!(
                    "image {:?} as a volume at {}: it is not on this node: pull it first",
                    wanted.image, mount.container_path
                );
                EngineError::new(Kind::ImageVolumeMountFailed, OPERATION, message)
            })?;
            let volume = VolumeImage {
                image: image.id.clone(),
                layers: image.layers.clone(),
            };
            images.insert(mount.container_path.clone(), volume);
        }
        Ok(images)
    }

    /// What the images of a container's mounts are stacked of, after a look at their sub paths. Blocking.
    pub(super) fn image_mounts(
        &self,
        record: &ContainerRecord,
    ) -> Result<HashMap<String, Vec<PathBuf>>, EngineError> {
        let failed = |error: coracle_snapshot::Error| {
            let message = crate::error::chain(&error);
            EngineError::new(Kind::ImageVolumeMountFailed, OPERATION, message)
        };
        let mut mounts = HashMap::new();
        for mount in &record.config.mounts {
            let (Some(volume), Some(image)) = (record.volumes.get(&mount.container_path), &mount.image)
            else {
                continue;
            };
            if !mount.image_sub_path.is_empty() {
                let root = self.parts.snapshots.view(&volume.layers).map_err(failed)?;
                coracle_spec::check_image_sub_path(root.as_fd(), &image.image, &mount.image_sub_path)
                    .map_err(EngineError::from_cause(OPERATION))?;
            }
            let lowers = self.parts.snapshots.lowers(&volume.layers).map_err(failed)?;
            mounts.insert(mount.container_path.clone(), lowers);
        }
        Ok(mounts)
    }

    /// Keeps the layers of a container's volumes until it is removed, whatever becomes of their images; its
    /// writable layer is there. Blocking.
    pub(super) fn keep_volumes(&self, record: &ContainerRecord) -> Result<(), EngineError> {
        let layers = record.volumes.values().flat_map(|volume| &volume.layers);
        let layers: Vec<_> = layers.cloned().collect();
        if layers.is_empty() {
            return Ok(());
        }
        self.parts
            .snapshots
            .keep_for(&record.id, &layers)
            .map_err(EngineError::from_cause(
                "keep the layers of the container's volumes",
            ))
    }
}
