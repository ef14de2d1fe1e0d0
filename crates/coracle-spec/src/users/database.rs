//! passwd(5) and group(5) of an image, read through its root directory and never trusted.

use std::io;
use std::os::fd::BorrowedFd;

use crate::error::SpecError;
use crate::regular_file;

/// Where users are.
pub(super) const PASSWD: &str = "etc/passwd";
/// Where groups are.
pub(super) const GROUP: &str = "etc/group";
/// Longest file: 10,000 users fit, a bomb does not (CVE-2025-4437).
const FILE_MAX: usize = 1 << 20;
/// Longest line: a group of some thousand members.
const LINE_MAX: usize = 1 << 16;

/// A line of passwd; an id that is no number in the kernel's range is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) home: String,
}

/// A line of group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) gid: Option<u32>,
    pub(super) members: Vec<String>,
}

/// The two files below one root.
pub(super) struct Database<'a> {
    root: BorrowedFd<'a>,
}

impl<'a> Database<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root }
    }

    /// The first user for whom `wanted` holds, as getpwnam(3) finds it.
    pub(super) fn user(&self, wanted: impl Fn(&User) -> bool) -> Result<Option<User>, SpecError> {
        let text = self.read(PASSWD)?;
        Ok(entries(PASSWD, &text)?
            .into_iter()
            .filter_map(user)
            .find(|user| wanted(user)))
    }

    /// All groups.
    pub(super) fn groups(&self) -> Result<Vec<Group>, SpecError> {
        let text = self.read(GROUP)?;
        Ok(entries(GROUP, &text)?.into_iter().filter_map(group).collect())
    }

    /// The whole file; empty when the image has none.
    fn read(&self, file: &'static str) -> Result<String, SpecError> {
        let failed = |reason: &str, source: io::Error| SpecError::ImageFile {
            file,
            reason: format!("{reason}: {source}"),
            source: Some(source),
        };
        let found = match regular_file::find_in_root(self.root, file) {
            Ok(found) => found,
            Err(missing)
                if matches!(
                    missing.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(String::new());
            }
            Err(error) => return Err(failed("it cannot be opened", error)),
        };
        let bytes =
            regular_file::read(&found, FILE_MAX).map_err(|error| failed("it cannot be used", error))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// Lines that hold something; one that is too long spoils the file.
fn entries<'t>(file: &'static str, text: &'t str) -> Result<Vec<&'t str>, SpecError> {
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.len() > LINE_MAX {
            return Err(SpecError::ImageFile {
                file,
                reason: format!("it has a line of more than {LINE_MAX} bytes"),
                source: None,
            });
        }
        if !line.is_empty() && !line.starts_with(['#', '+', '-']) {
            lines.push(line);
        }
    }
    Ok(lines)
}

/// `name:password:uid:gid:comment:home:shell`; the last three may be missing.
fn user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let name = fields.first().filter(|name| !name.is_empty())?;
    Some(User {
        name: (*name).to_owned(),
        uid: number(fields.get(2)?),
        gid: number(fields.get(3)?),
        home: fields.get(5).copied().unwrap_or_default().to_owned(),
    })
}

/// `name:password:gid:member,member`.
fn group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let name = fields.first().filter(|name| !name.is_empty())?;
    let members = fields.get(3).copied().unwrap_or_default();
    Some(Group {
        name: (*name).to_owned(),
        gid: number(fields.get(2)?),
        members: members
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect(),
    })
}

/// Digits only: `str::parse` would take a `+`.
fn number(text: &str) -> Option<u32> {
    text.parse()
        .ok()
        .filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}
