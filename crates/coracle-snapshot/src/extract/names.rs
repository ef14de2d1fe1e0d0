//! Names in an archive: cleaned, checked, and told apart from the marks of removed files.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};

use super::ExtractError;

/// A path below a layer's root: names with a slash between them, none of them `.` or `..`; the root is
/// empty. Names are bytes; as text (in metadata and messages) all but plain ASCII is `%XX`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct LayerPath(Vec<u8>);

impl LayerPath {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    /// From a name as an archive has it. Absolute names are taken from the root, as GNU tar does; `..` is
    /// refused even where it stays inside.
    pub(crate) fn parse(entry: &[u8], name: &[u8]) -> Result<Self, ExtractError> {
        let mut path = Vec::with_capacity(name.len());
        for part in name.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    return Err(ExtractError::refused(entry, "a path contains '..'"));
                }
                _ if part.len() > 255 => {
                    return Err(ExtractError::refused(entry, "a name is longer than 255 bytes"));
                }
                _ => {
                    if !path.is_empty() {
                        path.push(b'/');
                    }
                    path.extend_from_slice(part);
                }
            }
        }
        Ok(Self(path))
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// For system calls that resolve from a directory; the root is `.`.
    pub(crate) fn as_os_str(&self) -> &OsStr {
        if self.0.is_empty() {
            OsStr::new(".")
        } else {
            OsStr::from_bytes(&self.0)
        }
    }

    pub(crate) fn join(&self, name: &[u8]) -> Self {
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(&self.0);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Self(path)
    }

    /// Not a path but the bound under which all paths below this one sort: `a/` for `a`.
    pub(super) fn below(&self) -> Self {
        let mut bound = self.0.clone();
        if !bound.is_empty() {
            bound.push(b'/');
        }
        Self(bound)
    }

    /// Whether the path lies inside of another one.
    pub(crate) fn is_below(&self, other: &Self) -> bool {
        !self.is_root() && self.0.starts_with(&other.below().0)
    }

    /// The directory and the last name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(LayerPath, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0[..]),
        })
    }

    pub(crate) fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }
}

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0 {
            match byte {
                b'%' => f.write_str("%25")?,
                b' '..=b'~' => write!(f, "{}", char::from(*byte))?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<LayerPath> for String {
    fn from(path: LayerPath) -> String {
        path.to_string()
    }
}

impl TryFrom<String> for LayerPath {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let (digits, after) = rest.split_at_checked(2).ok_or("a path ends inside an escape")?;
            let mut byte = [0];
            hex::decode_to_slice(digits, &mut byte).map_err(|_| "a path has a malformed escape")?;
            bytes.push(byte[0]);
            rest = after;
        }
        Self::parse(b"", &bytes).map_err(|_| "a path contains '..' or a name that is too long")
    }
}

/// What an entry's path is about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The layer's root directory.
    Root,
    /// A file to make.
    Name { parent: LayerPath, name: Vec<u8> },
    /// `.wh.<name>`: the name is gone from the layers below.
    Whiteout { parent: LayerPath, name: Vec<u8> },
    /// `.wh..wh..opq`: nothing of the directory in the layers below is left.
    Opaque { parent: LayerPath },
    /// Book-keeping of aufs, the first file system that made such layers.
    Ignored,
}

/// Reads an entry's path (OCI image-spec layer.md, "Whiteouts").
pub(super) fn target(path: &[u8]) -> Result<Target, ExtractError> {
    let clean = LayerPath::parse(path, path)?;
    if clean
        .components()
        .any(|part| part.starts_with(b".wh..wh.") && part != b".wh..wh..opq")
    {
        return Ok(Target::Ignored);
    }
    let Some((parent, name)) = clean.split() else {
        return Ok(Target::Root);
    };
    if parent.components().any(|part| part.starts_with(b".wh.")) {
        return Err(ExtractError::refused(
            path,
            "it lies below a name that starts with '.wh.'",
        ));
    }
    Ok(match name.strip_prefix(b".wh.") {
        None => Target::Name {
            name: name.to_vec(),
            parent,
        },
        Some(b".wh..opq") => Target::Opaque { parent },
        Some(b"" | b"." | b"..") => {
            return Err(ExtractError::refused(path, "it marks no name as removed"));
        }
        Some(removed) => Target::Whiteout {
            name: removed.to_vec(),
            parent,
        },
    })
}

/// A path for a message: escaped, and cut after 200 bytes.
pub(crate) fn shown(path: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(path.get(..200).unwrap_or(path)).into_owned();
    if path.len() > 200 {
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> LayerPath {
        LayerPath::parse(b"", text.as_bytes()).expect("plain")
    }

    #[test]
    fn names_are_cleaned_and_dots_refused() {
        assert_eq!(path("/a//./b/").bytes(), b"a/b");
        assert!(path("./").is_root());
        for bad in ["..", "a/../b", "/..", "a/.."] {
            assert!(LayerPath::parse(b"", bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(LayerPath::parse(b"", &[b'x'; 256]).is_err());
    }

    #[test]
    fn text_reads_back_to_the_same_bytes() {
        let odd = LayerPath::parse(b"", b"a%b/\xff\n c").expect("legal");
        assert_eq!(LayerPath::try_from(odd.to_string()), Ok(odd));
        assert!(LayerPath::try_from("a/%2E%2E/b".to_owned()).is_err());
    }

    #[test]
    fn whiteouts_are_told_apart() {
        assert_eq!(
            target(b"a/.wh.b").ok(),
            Some(Target::Whiteout {
                parent: path("a"),
                name: b"b".to_vec()
            })
        );
        assert_eq!(
            target(b"a/.wh..wh..opq").ok(),
            Some(Target::Opaque { parent: path("a") })
        );
        assert_eq!(target(b".wh..wh.plnk/1.2").ok(), Some(Target::Ignored));
        assert_eq!(target(b"/").ok(), Some(Target::Root));
        for bad in ["a/.wh.", "a/.wh...", "a/.wh..", ".wh.a/b", "a/../.wh.b"] {
            assert!(target(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
