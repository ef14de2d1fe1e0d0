//! Which kernel a guest boots: Debian's, the one of Debian's backports, or one that is at a path.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// The kernel of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kernel {
    /// The release's own.
    Debian,
    /// The newer one of the release's backports.
    Backports,
    /// A package that holds one, with its modules.
    Package(PathBuf),
    /// A bare bzImage; virtio (PCI, block, console), ext4 and overlay must be built in.
    Image(PathBuf),
}

impl Kernel {
    /// Reads what `KERNEL=` says.
    pub(super) fn parse(text: Option<&str>) -> Result<Self> {
        let path = match text {
            None | Some("" | "debian") => return Ok(Self::Debian),
            Some("backports") => return Ok(Self::Backports),
            Some(path) => Path::new(path),
        };
        ensure!(
            path.is_file(),
            "the kernel {} is no file: give the path of a .deb or a bzImage, or `backports`",
            path.display()
        );
        let path = std::fs::canonicalize(path)?;
        let package = path.extension().is_some_and(|extension| extension == "deb");
        Ok(if package {
            Self::Package(path)
        } else {
            Self::Image(path)
        })
    }

    /// A word for the names of directories.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Backports => "backports",
            Self::Package(_) => "package",
            Self::Image(_) => "image",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_paths_choose_a_kernel() {
        assert_eq!(Kernel::parse(None).unwrap(), Kernel::Debian);
        assert_eq!(Kernel::parse(Some("")).unwrap(), Kernel::Debian);
        assert_eq!(Kernel::parse(Some("backports")).unwrap(), Kernel::Backports);
        let directory = tempfile::tempdir().unwrap();
        let path = std::fs::canonicalize(directory.path()).unwrap();
        for name in ["linux.deb", "bzImage"] {
            std::fs::write(path.join(name), "").unwrap();
        }
        let parse = |name: &str| Kernel::parse(path.join(name).to_str());
        assert_eq!(
            parse("linux.deb").unwrap(),
            Kernel::Package(path.join("linux.deb"))
        );
        assert_eq!(parse("bzImage").unwrap(), Kernel::Image(path.join("bzImage")));
        assert!(parse("nothing").unwrap_err().to_string().contains("nothing"));
    }
}
