//! `VOLUME`s of an image: directories that an unprivileged writer of data expects to be able to write.
//!
//! containerd keeps each in a directory of the node, filled with a copy of what the image has there. Here it
//! is the directory of the root file system itself, bound over itself: nothing is copied, what is written
//! counts as the container's and goes with it, and a root that is read-only leaves it writable, which is what
//! images and their users count on.

use std::collections::BTreeMap;

use crate::error::SpecError;
use crate::text;

/// Most that an image may declare.
const MOST: usize = 128;
/// What the kernel shows there is nobody's to declare.
const KERNEL: [&str; 3] = ["/proc", "/sys", "/dev"];

/// Where the volumes are to be. Left out are the root itself, the kernel's own trees, and what lies below a
/// mount that was asked for, which hides the image's directory. `/../../etc` is `/etc` of the container.
///
/// # Errors
/// For an image that declares too many.
pub(crate) fn destinations(
    declared: &BTreeMap<String, serde_json::Value>,
    taken: &[String],
) -> Result<Vec<String>, SpecError> {
    if declared.len() > MOST {
        let remedy = format!("at most {MOST} are allowed: build the image with fewer");
        return Err(SpecError::field(
            "VOLUME of the image",
            format!("{} long", declared.len()),
            remedy,
        ));
    }
    let below = |path: &str, above: &str| {
        path.strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut destinations = Vec::new();
    for path in declared.keys() {
        text::plain("VOLUME of the image", path, text::PATH_MAX)?;
        let path = text::cleaned(path);
        let hidden =
            KERNEL.iter().any(|above| below(&path, above)) || taken.iter().any(|above| below(&path, above));
        if path != "/" && !hidden && !destinations.contains(&path) {
            destinations.push(path);
        }
    }
    Ok(destinations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(paths: &[&str], taken: &[&str]) -> Result<Vec<String>, SpecError> {
        let declared = paths
            .iter()
            .map(|path| ((*path).to_owned(), serde_json::Value::Null))
            .collect();
        let taken: Vec<String> = taken.iter().map(|path| (*path).to_owned()).collect();
        destinations(&declared, &taken)
    }

    #[test]
    fn volumes_stay_inside_and_give_way() {
        let found = of(
            &[
                "/data",
                "/../../etc",
                "logs/",
                "/",
                "/..",
                "/proc/sys",
                "/sys",
                "/dev/shm",
            ],
            &[],
        );
        assert_eq!(found.expect("fine"), ["/etc", "/data", "/logs"]);
        let found = of(&["/data", "/data/sub", "/database"], &["/data"]);
        assert_eq!(found.expect("fine"), ["/database"]);
        assert!(of(&["/a\nb"], &[]).is_err());
        let many: Vec<String> = (0..=MOST).map(|number| format!("/{number}")).collect();
        assert!(of(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]).is_err());
    }
}
