//! Whom a container runs as: the request's ids and the names of the image's own passwd and group files.

mod database;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use coracle_types::security::{ContainerSecurityContext, SupplementalGroupsPolicy};
use serde::{Deserialize, Serialize};

use crate::error::SpecError;
use crate::text;
use database::Database;

/// Highest id that is taken, though the kernel knows more: runc and containerd stop here, and what
/// lies above has turned into root by wrapping around before (CVE-2024-40635).
const ID_MAX: u32 = i32::MAX as u32;
/// Longest text of a user and group.
const USER_MAX: usize = 512;

/// A user as the kernel needs it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All groups, the primary one among them, ascending.
    pub additional_gids: Vec<u32>,
    /// Name in the image's passwd; empty when it has none.
    pub username: String,
    /// Home directory in the image's passwd; empty when it has none.
    pub home: String,
}

/// The two ways to say who somebody is.
#[derive(Debug, PartialEq, Eq)]
enum Who<'a> {
    Id(u32),
    Name(&'a str),
}

/// Finds out whom to run as. The request's user comes before the image's, a name before a number; a
/// group of the request needs a user of the request. Without a group it is the user's primary group
/// in the image, or 0. With the policy `Merge` the groups that list the user in the image count, too;
/// the primary group always does (CVE-2023-25173).
///
/// `root` is the image's root directory; nothing outside of it is looked at. Blocking, bounded.
///
/// # Errors
/// [`SpecError::Field`] for a malformed or too high id, [`SpecError::NotInImage`] for an unknown name,
/// [`SpecError::ImageFile`] when a file that is needed is not a readable, regular file of sane size.
pub fn resolve_user(
    root: BorrowedFd<'_>,
    image_user: &str,
    security: &ContainerSecurityContext,
) -> Result<ResolvedUser, SpecError> {
    let (field, asked) = asked(image_user, security)?;
    let (who, mut group) = parse(field, &asked)?;
    if let Some(gid) = security.run_as_group {
        if group.is_some() {
            return Err(SpecError::field(
                field,
                &asked,
                "leave out its group, or leave out run_as_group",
            ));
        }
        group = Some(Who::Id(id(
            "linux.security_context.run_as_group",
            &gid.to_string(),
        )?));
    }

    let database = Database::new(root);
    let (uid, entry) = match who {
        Who::Id(uid) => (
            uid,
            database.user(|user| user.uid == Some(uid))?.unwrap_or_default(),
        ),
        Who::Name(name) => {
            let found = database.user(|user| user.name == name)?;
            let entry = found.ok_or_else(|| not_in_image(field, "user", name, database::PASSWD))?;
            (in_range(database::PASSWD, &entry.name, entry.uid)?, entry)
        }
    };
    let gid = match group {
        Some(Who::Id(gid)) => gid,
        Some(Who::Name(name)) => {
            let found = database.groups()?.into_iter().find(|group| group.name == name);
            let group = found.ok_or_else(|| not_in_image(field, "group", name, database::GROUP))?;
            in_range(database::GROUP, &group.name, group.gid)?
        }
        None if entry.name.is_empty() => 0,
        None => in_range(database::PASSWD, &entry.name, entry.gid)?,
    };
    text::plain(
        "home directory in the image's etc/passwd",
        &entry.home,
        text::PATH_MAX,
    )?;
    Ok(ResolvedUser {
        uid,
        gid,
        additional_gids: all_groups(&database, &entry.name, gid, security)?
            .into_iter()
            .collect(),
        username: entry.name,
        home: entry.home,
    })
}

/// The text that says whom, and the field it stands in.
fn asked<'a>(
    image_user: &'a str,
    security: &'a ContainerSecurityContext,
) -> Result<(&'static str, Cow<'a, str>), SpecError> {
    if !security.run_as_username.is_empty() {
        return Ok((
            "linux.security_context.run_as_username",
            Cow::from(&security.run_as_username),
        ));
    }
    match (security.run_as_user, security.run_as_group) {
        (Some(uid), _) => Ok(("linux.security_context.run_as_user", Cow::from(uid.to_string()))),
        (None, Some(group)) => Err(group_without_user(group)),
        (None, None) => Ok(("User of the image", Cow::from(image_user))),
    }
}

/// The primary group, those of the request and, by policy, those that list `username` in the image.
fn all_groups(
    database: &Database<'_>,
    username: &str,
    primary: u32,
    security: &ContainerSecurityContext,
) -> Result<BTreeSet<u32>, SpecError> {
    let mut gids: BTreeSet<u32> = [primary].into();
    if security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge && !username.is_empty() {
        for group in database.groups()? {
            if group.members.iter().any(|member| member == username) {
                gids.insert(in_range(database::GROUP, &group.name, group.gid)?);
            }
        }
    }
    for group in &security.supplemental_groups {
        gids.insert(id(
            "linux.security_context.supplemental_groups",
            &group.to_string(),
        )?);
    }
    Ok(gids)
}

fn not_in_image(field: &'static str, what: &'static str, name: &str, file: &'static str) -> SpecError {
    SpecError::NotInImage {
        field,
        what,
        name: name.chars().take(80).collect(),
        file,
    }
}

/// `user`, `uid`, `user:group` and mixtures; nothing is root, as in an image without `USER`.
fn parse<'a>(field: &str, asked: &'a str) -> Result<(Who<'a>, Option<Who<'a>>), SpecError> {
    text::plain(field, asked, USER_MAX)?;
    if asked.is_empty() {
        return Ok((Who::Id(0), None));
    }
    let (user, group) = asked
        .split_once(':')
        .map_or((asked, None), |(user, group)| (user, Some(group)));
    if user.is_empty() || group.is_some_and(|group| group.contains(':')) {
        return Err(SpecError::field(
            field,
            asked,
            "give user, uid, user:group or uid:gid",
        ));
    }
    let group = group
        .filter(|group| !group.is_empty())
        .map(|group| who(field, group))
        .transpose()?;
    Ok((who(field, user)?, group))
}

/// Digits alone are a number, whatever the image's files say of a name that looks like one; a sign
/// before digits is refused instead of being looked up.
fn who<'a>(field: &str, text: &'a str) -> Result<Who<'a>, SpecError> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return id(field, text).map(Who::Id);
    }
    Ok(Who::Name(text))
}

fn id(field: &str, text: &str) -> Result<u32, SpecError> {
    Some(text)
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<u32>().ok())
        .filter(|id| *id <= ID_MAX)
        .ok_or_else(|| SpecError::field(field, text, format!("give an id from 0 to {ID_MAX}")))
}

fn in_range(file: &'static str, name: &str, id: Option<u32>) -> Result<u32, SpecError> {
    id.filter(|id| *id <= ID_MAX).ok_or_else(|| SpecError::ImageFile {
        file,
        reason: format!("the entry of {name:.80?} has no id from 0 to {ID_MAX}"),
        source: None,
    })
}

fn group_without_user(group: i64) -> SpecError {
    SpecError::field(
        "linux.security_context.run_as_group",
        group.to_string(),
        "give run_as_user or run_as_username, too",
    )
}

/// Most supplementary groups of a process (`NGROUPS_MAX`, limits.h).
const GROUPS_MAX: usize = 65_536;

/// Ids of a security context, as far as they can be judged without the image.
pub(crate) fn validate_ids(user: Option<i64>, group: Option<i64>, groups: &[i64]) -> Result<(), SpecError> {
    const PREFIX: &str = "linux.security_context";
    for (name, value) in [("run_as_user", user), ("run_as_group", group)] {
        if let Some(value) = value {
            id(&format!("{PREFIX}.{name}"), &value.to_string())?;
        }
    }
    if groups.len() > GROUPS_MAX {
        return Err(SpecError::field(
            format!("{PREFIX}.supplemental_groups"),
            format!("{} groups", groups.len()),
            format!("give at most {GROUPS_MAX} (NGROUPS_MAX)"),
        ));
    }
    for value in groups {
        id(&format!("{PREFIX}.supplemental_groups"), &value.to_string())?;
    }
    Ok(())
}

/// A container's user, group and groups.
pub(crate) fn validate(security: &ContainerSecurityContext) -> Result<(), SpecError> {
    validate_ids(
        security.run_as_user,
        security.run_as_group,
        &security.supplemental_groups,
    )?;
    if security.run_as_user.is_some() && !security.run_as_username.is_empty() {
        return Err(SpecError::field(
            "linux.security_context.run_as_username",
            &security.run_as_username,
            "give either run_as_user or run_as_username",
        ));
    }
    parse(
        "linux.security_context.run_as_username",
        &security.run_as_username,
    )?;
    match security.run_as_group {
        Some(group) if security.run_as_user.is_none() && security.run_as_username.is_empty() => {
            Err(group_without_user(group))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
