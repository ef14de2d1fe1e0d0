//! Names of units, and the paths of slices: systemd.unit(5), systemd.slice(5).

use std::fmt;
use std::str::FromStr;

/// A name that systemd would not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no systemd {what}: {remedy}")]
pub struct NameError {
    what: &'static str,
    value: String,
    remedy: &'static str,
}

/// Longest name of a unit, in bytes.
const MOST: usize = 255;

fn plain(text: &str) -> bool {
    text.len() <= MOST
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte))
}

/// A slice: `a-b.slice` lies in `a.slice`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName(Box<str>);

impl SliceName {
    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its cgroup: `/a.slice/a-b.slice` for `a-b.slice`; empty for the root slice `-.slice`.
    #[must_use]
    pub fn path(&self) -> String {
        let stem = self.0.strip_suffix(".slice").unwrap_or(&self.0);
        if stem == "-" {
            return String::new();
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        ends.map(|end| format!("/{}.slice", &stem[..end])).collect()
    }

    /// The slice that a path names by its last part, as the kubelet gives one: the parts before it follow from
    /// the name and are not looked at.
    ///
    /// # Errors
    /// When the last part is no slice's name.
    pub fn of_path(path: &str) -> Result<Self, NameError> {
        let trimmed = path.trim_end_matches('/');
        let last = trimmed.rsplit('/').next().unwrap_or(trimmed);
        last.parse().map_err(|error: NameError| NameError {
            value: path.to_owned(),
            ..error
        })
    }
}

impl FromStr for SliceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let stem = text.strip_suffix(".slice").unwrap_or_default();
        let parts = stem == "-" || stem.split('-').all(|part| !part.is_empty());
        if parts && plain(text) && !stem.contains('@') {
            return Ok(Self(text.into()));
        }
        Err(NameError {
            what: "slice",
            value: text.chars().take(300).collect(),
            remedy: "name one as kubepods-burstable.slice: its parents' names, then its own, between single dashes",
        })
    }
}

impl fmt::Display for SliceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A unit of any type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitName(Box<str>);

impl UnitName {
    /// The scope `<prefix>-<id>.scope`.
    ///
    /// # Errors
    /// When a character cannot be in a unit's name or the name would be too long.
    pub fn scope(prefix: &str, id: &str) -> Result<Self, NameError> {
        format!("{prefix}-{id}.scope").parse()
    }

    /// Its name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let typed = [".scope", ".slice", ".service"]
            .iter()
            .any(|suffix| text.len() > suffix.len() && text.ends_with(suffix));
        if typed && plain(text) {
            return Ok(Self(text.into()));
        }
        Err(NameError {
            what: "unit",
            value: text.chars().take(300).collect(),
            remedy: "use letters, digits and `:-_.\\@` and end with .scope, .slice or .service",
        })
    }
}

impl From<&SliceName> for UnitName {
    fn from(slice: &SliceName) -> Self {
        Self(slice.0.clone())
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_slice_lies_below_those_its_name_begins_with() {
        for (name, path) in [
            ("kubepods.slice", "/kubepods.slice"),
            (
                "kubepods-burstable-pod1_2.slice",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice",
            ),
            ("-.slice", ""),
        ] {
            assert_eq!(name.parse::<SliceName>().unwrap().path(), path);
        }
    }

    #[test]
    fn the_kubelets_path_and_the_bare_name_are_one_slice() {
        let long = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice";
        let slice = SliceName::of_path(long).unwrap();
        assert_eq!(
            slice,
            SliceName::of_path("kubepods-burstable-podX.slice").unwrap()
        );
        assert_eq!(slice.path(), long);
    }

    #[test]
    fn what_is_no_slice_is_refused_with_the_whole_value() {
        for bad in [
            "",
            ".slice",
            "a",
            "a.scope",
            "-a.slice",
            "a-.slice",
            "a--b.slice",
            "a b.slice",
            "a@b.slice",
            "/a/b",
            "--.slice",
        ] {
            assert!(bad.parse::<SliceName>().is_err(), "{bad:?}");
        }
        let error = SliceName::of_path("/kubepods/pod1").unwrap_err().to_string();
        assert!(
            error.contains("/kubepods/pod1") && error.contains("kubepods-burstable.slice"),
            "{error}"
        );
    }

    #[test]
    fn scopes_are_named_by_prefix_and_id() {
        assert_eq!(
            UnitName::scope("cri-containerd", "ab12").unwrap().as_str(),
            "cri-containerd-ab12.scope"
        );
        assert!(UnitName::scope("a/b", "c").is_err());
        assert!(UnitName::scope("a", &"c".repeat(250)).is_err());
    }

    proptest! {
        #[test]
        fn each_part_of_a_slices_path_is_the_beginning_of_the_next(parts in proptest::collection::vec("[a-z0-9_]{1,8}", 1..6)) {
            let slice: SliceName = format!("{}.slice", parts.join("-")).parse().unwrap();
            let path = slice.path();
            let names: Vec<&str> = path.split('/').skip(1).collect();
            prop_assert_eq!(names.len(), parts.len());
            prop_assert_eq!(*names.last().unwrap(), slice.as_str());
            for pair in names.windows(2) {
                let above = pair[0].strip_suffix(".slice").unwrap();
                prop_assert!(pair[1].starts_with(above));
            }
        }

        #[test]
        fn no_name_leaves_the_hierarchy(text in ".{0,40}\\.slice") {
            if let Ok(slice) = text.parse::<SliceName>() {
                prop_assert!(!slice.path().contains("/../") && !slice.path().contains("//"));
            }
        }
    }
}
