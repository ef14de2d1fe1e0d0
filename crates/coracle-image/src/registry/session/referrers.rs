//! The manifests that name another one as their subject (OCI distribution specification, "Listing Referrers").

use bytes::Bytes;
use coracle_types::Digest;
use futures::FutureExt as _;
use reqwest::Method;

use super::super::answer::read_bounded;
use super::{Ask, Need, Session};
use crate::manifest::MAX_DOCUMENT;
use crate::registry::error::RegistryError;

impl Session {
    /// The index of an image's referrers, as it came; its length is bounded, its content is not verified.
    pub(crate) async fn referrers(&self, image: &Digest) -> Result<Bytes, RegistryError> {
        let path = format!("referrers/{image}");
        let path = path.as_str();
        self.first_answer(Need::Pull, |endpoint| {
            async move {
                let response = endpoint.send(&Ask::manifest(Method::GET, path)).await?;
                read_bounded(response, MAX_DOCUMENT, endpoint.name(), path).await
            }
            .boxed()
        })
        .await
    }
}
