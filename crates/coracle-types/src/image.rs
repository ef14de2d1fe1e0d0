//! Images as a client names them and as the node knows them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a client names an image (CRI `ImageSpec`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// A reference, a digest or an id.
    pub image: String,
    /// Opaque.
    pub annotations: BTreeMap<String, String>,
    /// What the user wrote, when the kubelet resolved it.
    pub user_specified_image: String,
    /// Handler for which the image is meant.
    pub runtime_handler: String,
    /// The id that the reference was resolved to (CRI 1.37).
    pub image_ref: String,
}

/// Credentials for one pull; never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// Base64 of `user:password`.
    pub auth: String,
    /// The registry these are for; empty for the one asked.
    pub server_address: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Bearer token sent as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
