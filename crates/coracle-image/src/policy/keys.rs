//! Public keys that sign images: ECDSA on P-256 and P-384, Ed25519, and RSA, as PEM.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::RawPublicKeyEntity;

use super::document::line_of;

/// All over SHA-256, as cosign signs, whatever the curve; Ed25519 signs the payload itself.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    webpki::ring::ECDSA_P256_SHA256,
    webpki::ring::ECDSA_P384_SHA256,
    webpki::ring::ED25519,
    webpki::ring::RSA_PKCS1_2048_8192_SHA256,
];

/// Where a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeySource {
    /// A PEM file.
    File(PathBuf),
    /// A PEM file in base64.
    Data(String),
}

impl KeySource {
    /// What can be said without reading a file.
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::File(path) if path.is_absolute() => Ok(()),
            Self::File(path) => Err(format!(
                "the key's path {} is not absolute: begin it with /",
                path.display()
            )),
            Self::Data(_) => self.read().map(drop),
        }
    }

    /// The key; blocks.
    pub(super) fn read(&self) -> Result<PublicKey, String> {
        match self {
            Self::File(path) => {
                let said = |reason| format!("key {}: {reason}", path.display());
                PublicKey::from_pem(&super::read(path).map_err(said)?).map_err(said)
            }
            Self::Data(data) => {
                let pem = STANDARD.decode(data.trim()).map_err(|_| {
                    "keyData is not base64 of a PEM file: write `base64 -w0 cosign.pub`".to_owned()
                })?;
                PublicKey::from_pem(&pem).map_err(|reason| format!("keyData: {reason}"))
            }
        }
    }

    /// Where the policy names it.
    pub(super) fn line_in(&self, text: &str) -> Option<usize> {
        match self {
            Self::File(path) => line_of(text, path.to_str()?),
            Self::Data(data) => line_of(text, data),
        }
    }
}

/// A key and how it signs.
#[derive(Debug, Clone)]
pub(crate) struct PublicKey {
    /// SubjectPublicKeyInfo (RFC 5280, 4.1), DER.
    spki: Vec<u8>,
    algorithm: &'static dyn SignatureVerificationAlgorithm,
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl PublicKey {
    /// Reads `-----BEGIN PUBLIC KEY-----`.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, String> {
        const WANTED: &str =
            "it holds no PUBLIC KEY in PEM, as `cosign generate-key-pair` writes to cosign.pub";
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| WANTED.to_owned())?;
        let entity = RawPublicKeyEntity::try_from(&spki).map_err(|_| WANTED.to_owned())?;
        // The one whose key type fits complains of the signature and not of the key.
        let fits = |algorithm: &&&'static dyn SignatureVerificationAlgorithm| {
            matches!(
                entity.verify_signature(**algorithm, b"", b""),
                Ok(()) | Err(webpki::Error::InvalidSignatureForPublicKey)
            )
        };
        let algorithm = ALGORITHMS.iter().find(fits).ok_or(
            "it is of a kind that is not supported: use ECDSA on P-256 (cosign's) or P-384, Ed25519, or RSA",
        )?;
        Ok(Self {
            algorithm: *algorithm,
            spki: spki.to_vec(),
        })
    }

    /// Whether `signature` over `message` is this key's.
    pub(crate) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let spki = SubjectPublicKeyInfoDer::from(self.spki.as_slice());
        RawPublicKeyEntity::try_from(&spki).is_ok_and(|entity| {
            entity
                .verify_signature(self.algorithm, message, signature)
                .is_ok()
        })
    }
}
