//! Layers that were damaged behind the daemon's back: looked for once after each start.
//!
//! The start itself looks at what is cheap. That a file was taken out of a layer's tree shows only when all
//! names of it are seen, which may be millions: one thread of the lowest priority does it while the daemon
//! works, rests as long as it works, and ends.

use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Instant;

use coracle_snapshot::LayerId;
use tokio::runtime::Handle;

use super::{Images, Shared};

/// As little of the processor as the scheduler gives.
const NICE: i32 = 19;

/// Begins to look at all layers. It keeps nothing open but the layers' directory while it looks at one of them:
/// whoever lets go of the images may open their database again at once.
pub(super) fn look(images: &Images) {
    let snapshots = Arc::downgrade(&images.0.workshop.snapshots);
    let images = Arc::downgrade(&images.0);
    let runtime = Handle::current();
    let look = move || {
        // Without it, it is only less polite.
        let _ = rustix::process::nice(NICE);
        let layers = snapshots.upgrade().map(|snapshots| snapshots.layers());
        for layer in layers.into_iter().flatten() {
            let begin = Instant::now();
            let Some(open) = snapshots.upgrade() else { return };
            match open.examine(&layer) {
                Ok(None) => {}
                Ok(Some(damage)) => {
                    tracing::warn!(%layer, damage, "a layer is damaged and was set aside");
                    // When the daemon is leaving, its next start misses the layer.
                    let Some(images) = images.upgrade() else { return };
                    runtime.spawn(Images(images).lose(layer));
                }
                Err(error) => tracing::warn!(%layer, %error, "a layer could not be looked at"),
            }
            thread::sleep(begin.elapsed());
        }
    };
    let name = "layer-look".to_owned();
    if let Err(error) = thread::Builder::new().name(name).spawn(look) {
        tracing::warn!(%error, "layers are not looked at for damage");
    }
}

impl Images {
    /// Drops the images that stand on a layer which was taken off, also those whose pull had it in hand.
    async fn lose(self, layer: LayerId) {
        let under_way: Vec<_> = {
            let under_way = self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.iter().map(|pull| pull.outcome.clone()).collect()
        };
        self.drop_images_on(&layer).await;
        for mut outcome in under_way {
            // A pull whose task ended without an outcome has published nothing.
            let _ = outcome.wait_for(Option::is_some).await;
        }
        self.drop_images_on(&layer).await;
    }

    async fn drop_images_on(&self, layer: &LayerId) {
        for image in self.list() {
            let Shared { workshop, .. } = &*self.0;
            let pulled_again = workshop.snapshots.layer_usage(layer).is_some();
            if pulled_again || !image.layers.contains(layer) {
                continue;
            }
            let (id, reason) = (&image.id, format!("layer {layer} is damaged"));
            tracing::warn!(image = %id, reason, "an image is broken and must be pulled again");
            if let Err(error) = self.remove(id.as_str()).await {
                tracing::warn!(image = %id, %error, "a broken image could not be dropped");
            }
        }
    }
}
