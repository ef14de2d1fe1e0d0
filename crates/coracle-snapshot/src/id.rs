//! Layer ids: what a layer's directory is keyed by, and the chain IDs of an image's layers.

use std::fmt;
use std::str::FromStr;

use coracle_types::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::Error;

/// Names an unpacked layer on this node.
///
/// Most layers are keyed by their diff ID: their directory depends on nothing else, so images share
/// them whatever lies below. A layer that cannot be unpacked without the ones below it (a hard link
/// into a lower layer, a directory that is a symbolic link there) is keyed by its chain ID. A fix-up
/// layer (see [`Snapshotter::finish_image`](crate::Snapshotter::finish_image)) is keyed by the list of
/// layers it lies on. The files of an artifact lie in one layer that is keyed by the artifact's manifest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId {
    key: Key,
    digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Diff,
    Chain,
    FixUp,
    Artifact,
}

impl Key {
    const ALL: [Self; 4] = [Self::Diff, Self::Chain, Self::FixUp, Self::Artifact];

    fn word(self) -> &'static str {
        match self {
            Self::Diff => "diff",
            Self::Chain => "chain",
            Self::FixUp => "fixup",
            Self::Artifact => "artifact",
        }
    }
}

impl LayerId {
    /// The id of a layer that needs nothing below it.
    #[must_use]
    pub fn diff(diff_id: Digest) -> Self {
        Self {
            key: Key::Diff,
            digest: diff_id,
        }
    }

    /// The id of a layer that was unpacked with regard to the layers below it.
    #[must_use]
    pub fn chain(chain_id: Digest) -> Self {
        Self {
            key: Key::Chain,
            digest: chain_id,
        }
    }

    /// The id of the layer that holds an artifact's files.
    #[must_use]
    pub fn artifact(manifest: Digest) -> Self {
        Self {
            key: Key::Artifact,
            digest: manifest,
        }
    }

    /// The id of the fix-up layer on top of `layers`, bottom first.
    pub(crate) fn fix_up<'a>(layers: impl IntoIterator<Item = &'a LayerId>) -> Self {
        let mut hasher = Sha256::new();
        for layer in layers {
            hasher.update(layer.to_string());
            hasher.update(b"\n");
        }
        Self {
            key: Key::FixUp,
            digest: Digest::from_sha256(&hasher.finalize().into()),
        }
    }

    /// Whether this layer was made here, not unpacked from an image's archive.
    #[must_use]
    pub fn is_fix_up(&self) -> bool {
        self.key == Key::FixUp
    }

    /// The digest that the layer is keyed by.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The layer's directory below `layers`: 26 characters, so that a hundred fit into a page of mount
    /// options. 125 bits of the digest; the layer's metadata holds all of it and is compared.
    pub(crate) fn directory(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let mut name = String::with_capacity(26);
        name.push(match self.key {
            Key::Diff => 'd',
            Key::Chain => 'c',
            Key::FixUp => 'f',
            Key::Artifact => 'a',
        });
        let (mut bits, mut held) = (0_u32, 0_u32);
        for digit in self.digest.hex().bytes() {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                _ => digit - b'a' + 10,
            };
            bits = bits << 4 | u32::from(value);
            held += 4;
            if held >= 5 {
                held -= 5;
                name.push(char::from(ALPHABET[(bits >> held & 31) as usize]));
                if name.len() == 26 {
                    break;
                }
            }
        }
        name
    }
}

impl LayerId {
    /// What overlay tells the layer's image from others by.
    pub(crate) fn uuid(&self) -> [u8; 16] {
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&Sha256::digest(self.to_string())[..16]);
        uuid
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key.word(), self.digest)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LayerId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let malformed = || Error::MalformedLayerId {
            value: text.chars().take(100).collect(),
        };
        let (prefix, digest) = text.split_once(':').ok_or_else(malformed)?;
        let key = Key::ALL.into_iter().find(|key| key.word() == prefix);
        let key = key.ok_or_else(malformed)?;
        let digest = digest.parse().map_err(|_| malformed())?;
        Ok(Self { key, digest })
    }
}

impl TryFrom<String> for LayerId {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> String {
        id.to_string()
    }
}

/// The chain IDs of layers given by their diff IDs, bottom first (OCI image-spec config.md, "Layer
/// ChainID").
#[must_use]
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::from_sha256(&Sha256::digest(format!("{below} {diff_id}")).into()),
        };
        chain.push(next);
    }
    chain
}

/// A name for what is being made: 128 random bits.
pub(crate) fn random_name() -> String {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .expect("getrandom(2) of 16 bytes cannot fail on the supported kernels (>= 5.14)");
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(fill: char) -> Digest {
        format!("sha256:{}", fill.to_string().repeat(64))
            .parse()
            .expect("well formed")
    }

    #[test]
    fn ids_read_back_what_they_print() {
        for id in [
            LayerId::diff(digest('a')),
            LayerId::chain(digest('b')),
            LayerId::fix_up(&[]),
        ] {
            assert_eq!(id.to_string().parse::<LayerId>().expect("own text"), id);
        }
        for bad in ["", "diff", "diff:", "x:sha256:00", "diff:../../x"] {
            assert!(bad.parse::<LayerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn directories_are_short_and_differ_by_key() {
        let (diff, chain) = (LayerId::diff(digest('a')), LayerId::chain(digest('a')));
        assert_eq!(diff.directory().len(), 26);
        assert_ne!(diff.directory(), chain.directory());
        assert_ne!(diff.directory(), LayerId::diff(digest('b')).directory());
    }

    #[test]
    fn chain_ids_follow_the_image_specification() {
        let chain = chain_ids(&[digest('a'), digest('b')]);
        assert_eq!(chain[0], digest('a'));
        let text = format!("{} {}", digest('a'), digest('b'));
        assert_eq!(chain[1], Digest::from_sha256(&Sha256::digest(text).into()));
    }
}
