//! The socket's file: made where nobody answers, with the right mode, and gone with its owner.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_proto::client::MAX_SOCKET_PATH;
use coracle_types::{Kind, Kinded};
use tokio::net::{UnixListener, UnixStream};

/// A socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel has no room for the path (`sun_path`, unix(7)).
    #[error(
        "socket {}: the path is {length} bytes long, more than the {MAX_SOCKET_PATH} that a unix socket can have; choose a shorter directory",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// Somebody listens there.
    #[error("socket {}: another process serves it; stop that one or choose another path", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// Something else has this name.
    #[error("socket {}: a file that is no socket is in the way; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("socket {}: {step}", path.display())]
    System {
        /// The path.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

impl Kinded for SocketError {
    fn kind(&self) -> Kind {
        match self {
            Self::TooLong { .. } => Kind::InvalidArgument,
            Self::InUse { .. } | Self::NotASocket { .. } => Kind::AlreadyExists,
            Self::System { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Kind::PermissionDenied
            }
            Self::System { .. } => Kind::Internal,
        }
    }
}

/// The file of a socket that was bound here; removes it when dropped, unless another has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if ours {
            // Nothing can be done about a failure here, and the next start replaces a stale socket.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a socket can have this path: known before anything is made for it.
///
/// # Errors
/// When it is too long.
pub fn check(path: &Path) -> Result<(), SocketError> {
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(SocketError::TooLong {
            path: path.to_owned(),
            length,
        });
    }
    Ok(())
}

/// Listens on `path` with permissions `mode` (such as 0o660). A socket that nobody answers on is
/// replaced. The caller runs inside a tokio runtime.
///
/// # Errors
/// When the path is too long or taken, or the kernel refuses.
pub async fn bind(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile), SocketError> {
    check(path)?;
    let failed = |step| {
        move |source| SocketError::System {
            path: path.to_owned(),
            step,
            source,
        }
    };
    make_way(path).await?;
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    let metadata = fs::symlink_metadata(path).map_err(failed("stat"))?;
    let file = SocketFile {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed("set the mode"))?;
    Ok((listener, file))
}

async fn make_way(path: &Path) -> Result<(), SocketError> {
    let failed = |step| {
        move |source| SocketError::System {
            path: path.to_owned(),
            step,
            source,
        }
    };
    let there: Metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("stat")(error)),
    };
    if !there.file_type().is_socket() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed("remove what an earlier process left"))
        }
        // Its queue of connections is full: it lives.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SocketError::InUse {
            path: path.to_owned(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("ask who is there")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (_listener, file) = bind(&path, 0o600).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(&path, 0o600).await, Err(SocketError::InUse { .. })));
        drop(file);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            bind(&path, 0o600).await,
            Err(SocketError::NotASocket { .. })
        ));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(
            bind(&link, 0o600).await,
            Err(SocketError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_owner_that_was_replaced_leaves_its_successors_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let (first, first_file) = bind(&path, 0o600).await.unwrap();
        // While `first` lives its inode cannot be given to the second file.
        fs::remove_file(&path).unwrap();
        let (_second, _second_file) = bind(&path, 0o600).await.unwrap();
        drop(first_file);
        assert!(path.exists());
        drop(first);
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_has_no_room_for_is_refused_in_words() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(103)));
        let text = bind(&path, 0o600).await.unwrap_err().to_string();
        assert!(text.contains("108 bytes") && text.contains("107"), "{text}");
    }
}
