//! Checks of foreign text: lengths, control characters, paths and names.

use std::collections::BTreeMap;

use crate::error::SpecError;

/// Longest path that the kernel takes, without its final NUL (`PATH_MAX`, limits.h).
pub(crate) const PATH_MAX: usize = 4095;
/// Longest single argument or environment string, without its NUL (`MAX_ARG_STRLEN`, 32 pages).
pub(crate) const ARGUMENT_MAX: usize = 131_071;
/// What arguments and environment may take together whatever the stack's limit is: 6 MiB are the kernel's ceiling
/// (execve(2)). A quarter of that limit, usually 2 MiB, is judged by the kernel when the program is executed.
pub(crate) const COMMAND_LINE_MAX: usize = 6 << 20;
/// Most that labels or annotations of one object hold together; Kubernetes allows 256 KiB.
const MAP_MAX: usize = 1 << 20;

/// Refuses control characters (also DEL and those beyond ASCII) and more than `max` bytes.
pub(crate) fn plain(field: &str, value: &str, max: usize) -> Result<(), SpecError> {
    if value.len() > max {
        return Err(SpecError::field(
            field,
            value,
            format!("give at most {max} bytes"),
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(SpecError::field(
            field,
            value,
            "remove the control characters (newlines, NUL, escapes)",
        ));
    }
    Ok(())
}

/// As [`plain`], and something must be there.
pub(crate) fn required(field: &str, value: &str, max: usize) -> Result<(), SpecError> {
    if value.is_empty() {
        return Err(SpecError::field(field, value, "it is required"));
    }
    plain(field, value, max)
}

/// Something that becomes one component of a path: no `/`, not `.` or `..`.
pub(crate) fn component(field: &str, value: &str, max: usize) -> Result<(), SpecError> {
    required(field, value, max)?;
    if value.contains('/') || value == "." || value == ".." {
        return Err(SpecError::field(
            field,
            value,
            "use a plain name without '/', and neither '.' nor '..'",
        ));
    }
    Ok(())
}

/// An absolute path without `..`.
pub(crate) fn absolute(field: &str, value: &str) -> Result<(), SpecError> {
    required(field, value, PATH_MAX)?;
    if !value.starts_with('/') {
        return Err(SpecError::field(field, value, "give an absolute path"));
    }
    without_parent(field, value)
}

/// A path that stays below where it starts: not absolute, no `..`.
pub(crate) fn relative(field: &str, value: &str) -> Result<(), SpecError> {
    required(field, value, PATH_MAX)?;
    if value.starts_with('/') {
        return Err(SpecError::field(field, value, "give a relative path"));
    }
    without_parent(field, value)
}

fn without_parent(field: &str, value: &str) -> Result<(), SpecError> {
    if value.split('/').any(|part| part == "..") {
        return Err(SpecError::field(field, value, "remove '..' from the path"));
    }
    Ok(())
}

/// A string for `execve`: no NUL and not too long.
pub(crate) fn argument(field: &str, value: &str) -> Result<(), SpecError> {
    if value.contains('\0') {
        return Err(SpecError::field(
            field,
            value,
            "remove the NUL byte: the kernel would cut the string there",
        ));
    }
    if value.len() > ARGUMENT_MAX {
        return Err(SpecError::field(
            field,
            value,
            format!("give at most {ARGUMENT_MAX} bytes: the kernel refuses longer arguments"),
        ));
    }
    Ok(())
}

/// Labels or annotations: bounded, keys plain, values without NUL.
pub(crate) fn string_map(field: &str, map: &BTreeMap<String, String>) -> Result<(), SpecError> {
    let mut total = 0;
    for (key, value) in map {
        required(&format!("{field} key"), key, 512)?;
        if value.contains('\0') {
            return Err(SpecError::field(
                format!("{field}[{key}]"),
                value,
                "remove the NUL byte",
            ));
        }
        total += key.len() + value.len();
    }
    if total > MAP_MAX {
        return Err(SpecError::field(
            field,
            format!("{total} bytes in {} entries", map.len()),
            format!("give at most {MAP_MAX} bytes in all"),
        ));
    }
    Ok(())
}

/// The path as it is meant from a root: absolute, no `.`, `..` or empty parts; `..` at the root stays there.
pub(crate) fn cleaned(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_are_cleaned_inside_the_root() {
        for (given, clean) in [
            ("/../../etc", "/etc"),
            ("a//b/./c/", "/a/b/c"),
            ("/", "/"),
            ("", "/"),
            ("/a/../..", "/"),
        ] {
            assert_eq!(cleaned(given), clean);
        }
    }

    proptest! {
        #[test]
        fn a_cleaned_path_is_absolute_and_goes_nowhere(path in "[a./]{0,24}") {
            let clean = cleaned(&path);
            prop_assert!(clean.starts_with('/'));
            prop_assert!(clean.split('/').all(|part| part != ".." && part != "."));
            prop_assert_eq!(cleaned(&clean), clean);
        }

        #[test]
        fn no_control_character_passes(before in "[a-z]{0,8}", bad in proptest::char::range('\0', '\u{9f}'), after in "[a-z]{0,8}") {
            let text = format!("{before}{bad}{after}");
            prop_assert_eq!(plain("field", &text, 64).is_err(), bad.is_control());
        }

        #[test]
        fn what_is_relative_stays_below(path in "[a./]{0,24}") {
            if relative("field", &path).is_ok() {
                let joined = cleaned(&format!("/base/{path}"));
                prop_assert!(joined == "/base" || joined.starts_with("/base/"));
            }
        }
    }
}
