//! Versions of the CNI specification that are spoken here.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A version of the specification; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Version {
    /// Lists of plugins and prevResult.
    V0_3_0,
    /// The same, corrected.
    V0_3_1,
    /// CHECK.
    V0_4_0,
    /// Addresses without `version`.
    V1_0_0,
    /// STATUS, GC, `cniVersions`.
    V1_1_0,
}

impl Version {
    const ALL: [(Self, &'static str); 5] = [
        (Self::V0_3_0, "0.3.0"),
        (Self::V0_3_1, "0.3.1"),
        (Self::V0_4_0, "0.4.0"),
        (Self::V1_0_0, "1.0.0"),
        (Self::V1_1_0, "1.1.0"),
    ];

    /// As it is written in `cniVersion`.
    pub(crate) fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    pub(crate) fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    pub(crate) fn has_status_and_gc(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(version, _)| *version)
            .ok_or_else(|| format!("CNI version {text:?} is not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"))
    }
}

impl TryFrom<String> for Version {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> Self {
        version.as_str().into()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
