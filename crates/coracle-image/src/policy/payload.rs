//! What a signature is over: a "simple signing" payload (containers-signature(5), cosign's SIGNATURE_SPEC).

use coracle_types::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::words;

/// The only type that there is.
const TYPE: &str = "cosign container image signature";

/// What its signer said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payload {
    /// The manifest that is signed.
    pub(super) digest: Digest,
    /// What the signer calls the image.
    pub(super) docker_reference: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    critical: Critical,
    #[serde(default, rename = "optional")]
    _optional: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
    identity: Claimed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claimed {
    #[serde(rename = "docker-reference")]
    reference: String,
}

impl Payload {
    /// Reads bytes whose signature is verified. What is critical must be known in whole.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|error| format!("its payload is malformed: {}", cut(&error.to_string())))?;
        if raw.critical.kind != TYPE {
            return Err(format!(
                "its payload is of type {:?}, not {TYPE:?}",
                cut(&raw.critical.kind)
            ));
        }
        let digest = raw.critical.image.digest;
        Ok(Self {
            digest: digest
                .parse()
                .map_err(|_| format!("its payload signs {:?}, which is no digest", cut(&digest)))?,
            docker_reference: raw.critical.identity.reference,
        })
    }
}

pub(super) fn cut(text: &str) -> String {
    words::cut(text, 160)
}
