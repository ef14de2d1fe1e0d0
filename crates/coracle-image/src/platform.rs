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
    /// Linux on this machine: its architecture, and of amd64 the level that its processor has (x86-64
    /// psABI, "Micro-Architecture Levels"), so that an image built for it is taken before the plain one.
    #[must_use]
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", amd64_level()),
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
    /// `amd64/v1` is `amd64`, `arm` is `arm/v7`. Levels are in tenths: `arm64/v8.2` is between 8 and 9.
    fn normalised(&self) -> (String, &str, u32) {
        let architecture = match self.architecture.as_str() {
            "aarch64" => "arm64",
            "x86_64" | "x86-64" => "amd64",
            "armhf" | "armel" => "arm",
            "i386" => "386",
            other => other,
        };
        let level = match (architecture, self.variant.as_str()) {
            ("arm64", "") => 80,
            ("amd64", "") => 10,
            ("arm", "") if self.architecture == "armel" => 60,
            ("arm", "") => 70,
            (_, "") => 0,
            // An unknown variant is as a level that nothing runs.
            (_, variant) => tenths(variant).unwrap_or(u32::MAX),
        };
        (self.os.to_ascii_lowercase(), architecture, level)
    }

    /// How well an image for `offered` runs here: `None` not at all, else the higher the better. As in
    /// containerd, a 64-bit node runs 32-bit images when there is nothing better.
    #[must_use]
    pub fn rank(&self, offered: &Self) -> Option<u32> {
        /// Above what any 32-bit image has.
        const OWN: u32 = 1000;
        let (os, architecture, level) = self.normalised();
        let (offered_os, offered_architecture, offered_level) = offered.normalised();
        if os != offered_os {
            return None;
        }
        match (architecture, offered_architecture) {
            (own, theirs) if own == theirs => (offered_level <= level).then(|| OWN + offered_level),
            // The 32-bit state of ARMv8 runs all of ARMv7.
            ("arm64", "arm") => (offered_level <= 80).then_some(offered_level),
            ("amd64", "386") => (offered_level == 0).then_some(0),
            _ => None,
        }
    }
}

/// `v8` is 80, `v8.2` is 82.
fn tenths(variant: &str) -> Option<u32> {
    let number = variant.strip_prefix('v').unwrap_or(variant);
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let digit = |text: &str| text.parse::<u32>().ok().filter(|number| *number < 10);
    Some(digit(whole)? * 10 + digit(part)?)
}

/// What this processor has, as the kernel lets programs use it.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> &'static str {
    macro_rules! all {
        ($($feature:tt),+) => { $(std::is_x86_feature_detected!($feature))&&+ };
    }
    let v2 = all!("cmpxchg16b", "popcnt", "sse3", "sse4.1", "sse4.2", "ssse3");
    let v3 = v2
        && all!(
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"
        );
    let v4 = v3 && all!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    match (v2, v3, v4) {
        (_, _, true) => "v4",
        (_, true, _) => "v3",
        (true, _, _) => "v2",
        _ => "",
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> &'static str {
    ""
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
            ("linux/arm64", "linux/arm64/v8.1", false),
            ("linux/arm64/v9", "linux/arm64/v8.1", true),
            ("linux/arm64", "linux/arm/v7", true),
            ("linux/arm64", "linux/arm/v8", true),
            ("linux/arm/v8", "linux/arm64", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64/v4", false),
            ("linux/amd64", "linux/386", true),
            ("linux/386", "linux/amd64", false),
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

    #[test]
    fn the_nearest_variant_is_the_best_and_the_own_width_before_the_other() {
        for (node, better, worse) in [
            ("linux/amd64/v4", "linux/amd64/v3", "linux/amd64/v2"),
            ("linux/amd64/v4", "linux/amd64/v2", "linux/amd64"),
            ("linux/amd64/v4", "linux/amd64", "linux/386"),
            ("linux/arm64/v9", "linux/arm64/v8.2", "linux/arm64"),
            ("linux/arm64", "linux/arm64", "linux/arm/v8"),
            ("linux/arm64", "linux/arm/v8", "linux/arm/v7"),
            ("linux/arm/v7", "linux/arm/v7", "linux/arm/v6"),
        ] {
            let rank = |image: &str| platform(node).rank(&platform(image)).unwrap();
            assert!(rank(better) > rank(worse), "{node}: {better}, {worse}");
        }
    }

    #[test]
    fn this_machine_runs_what_is_built_for_it() {
        let host = Platform::host();
        assert!(host.rank(&host).is_some());
        let base = Platform {
            variant: String::new(),
            ..host.clone()
        };
        assert!(host.rank(&base) <= host.rank(&host));
    }
}
