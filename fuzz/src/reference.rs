//! Image references: what is understood is written in one way only.

use coracle_image::Reference;

/// A reference, as a user or the kubelet writes it.
pub(crate) fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let Ok(parsed) = text.parse::<Reference>() else {
        return;
    };
    let written = parsed.to_string();
    let again: Reference = written
        .parse()
        .unwrap_or_else(|error| panic!("{text:?} is written {written:?}, which is refused: {error}"));
    assert_eq!(parsed, again, "{text:?}");
    // Both become parts of URLs and of paths below hosts.toml's directories.
    for part in [parsed.registry(), parsed.repository()] {
        assert!(!part.is_empty(), "{text:?}");
        let odd = part
            .bytes()
            .any(|byte| byte.is_ascii_control() || b" \\?#%@".contains(&byte));
        let climbs = part
            .split('/')
            .any(|step| step.is_empty() || step == "." || step == "..");
        assert!(!odd && !climbs, "{text:?} has {part:?}");
    }
    if let Some(tag) = parsed.repo_tag() {
        assert_eq!(
            tag.parse::<Reference>().map(|tag| tag.digest().cloned()),
            Ok(None),
            "{text:?}"
        );
    }
}
