//! `$(NAME)` in commands, arguments and variables, as Kubernetes expands it.

/// Replaces `$(NAME)` by what `lookup` knows; an unknown one stays as it is, `$$` is a dollar sign.
#[must_use]
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|inside| inside.split_once(')')) {
            match lookup(name) {
                Some(value) => expanded.push_str(&value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded.push_str(rest);
    expanded
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "A" => Some("a".into()),
            "LOOP" => Some("$(LOOP)".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn references_are_expanded_once_and_unknown_ones_stay() {
        for (text, expected) in [
            ("$(A)", "a"),
            ("x$(A)$(A)y", "xaay"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$a"),
            ("$$$$", "$$"),
            ("$A ${A} $", "$A ${A} $"),
            ("$(A", "$(A"),
            ("$(LOOP)", "$(LOOP)"),
            ("[$(EMPTY)]", "[]"),
            ("$()", "$()"),
            ("", ""),
        ] {
            assert_eq!(expand(text, known), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_without_dollars_is_itself(text in "[^$]{0,80}") {
            prop_assert_eq!(expand(&text, known), text);
        }

        #[test]
        fn doubled_dollars_protect_anything(text in "\\PC{0,80}") {
            prop_assert_eq!(expand(&text.replace('$', "$$"), known), text);
        }

        #[test]
        fn nothing_known_loses_only_doubled_dollars(text in "[$()AB]{0,40}") {
            let expanded = expand(&text, |_| None);
            prop_assert_eq!(expanded.replace("$", ""), text.replace("$", ""));
        }
    }
}
