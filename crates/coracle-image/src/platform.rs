//! Which of an index's images runs here: operating system, architecture and variant.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What an image was built for, in Go's names as the OCI image index has them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm` ...
    pub architecture: String,
    /// `v8`, `v7` ...; empty for the architecture's base.
    #[serde(default)]
    pub variant: String,
}

impl Platform {
    /// Linux on this program's own architecture, at its base variant.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// The one spelling of a platform that has several: `aarch64` is `arm64`, `arm64/v8` is `arm64`,
    /// `amd64/v1` is `amd64`, `arm` is `arm/v7`.
    fn normalised(&self) -> (String, String, u32) {
        let architecture = match self.architecture.as_str() {
            "aarch64" => "arm64",
            "x86_64" | "x86-64" => "amd64",
            "armhf" | "armel" => "arm",
            "i386" => "386",
            other => other,
        };
        let level = self.variant.trim_start_matches('v').parse::<u32>().ok();
        let level = match (architecture, self.variant.as_str()) {
            ("arm64", "") => 8,
            ("amd64", "") => 1,
            ("arm", "") if self.architecture == "armel" => 6,
            ("arm", "") => 7,
            // An unknown variant is as a level that nothing runs.
            _ => level.unwrap_or(if self.variant.is_empty() { 0 } else { u32::MAX }),
        };
        (self.os.to_ascii_lowercase(), architecture.to_owned(), level)
    }

    /// How well an image for `offered` runs here: `None` not at all, else the higher the better.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        let (os, architecture, level) = self.normalised();
        let (offered_os, offered_architecture, offered_level) = offered.normalised();
        let runs = os == offered_os && architecture == offered_architecture && offered_level <= level;
        runs.then_some(offered_level)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if !self.variant.is_empty() {
            write!(f, "/{}", self.variant)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap(),
            architecture: parts.next().unwrap(),
            variant: parts.next().unwrap_or_default(),
        }
    }

    #[test]
    fn a_node_runs_its_own_variant_and_those_below() {
        for (node, image, runs) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64", "linux/aarch64", true),
            ("linux/arm64", "linux/arm64/v9", false),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "unknown/unknown", false),
            ("linux/amd64", "linux/amd64/hostile", false),
        ] {
            assert_eq!(
                platform(node).rank(&platform(image)).is_some(),
                runs,
                "{node} {image}"
            );
        }
    }
}
