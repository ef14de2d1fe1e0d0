//! Identifiers as newtypes: a pod's id never goes where a container's is wanted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An identifier that does not have the form its type asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is malformed: {expected}")]
pub struct MalformedId {
    /// Which identifier was read, in words.
    pub what: &'static str,
    /// The value as it was given, cut after 80 characters.
    pub value: String,
    /// The form that was expected.
    pub expected: &'static str,
}

impl MalformedId {
    pub(crate) fn new(what: &'static str, value: &str, expected: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(80).collect(),
            expected,
        }
    }
}

macro_rules! string_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $expected:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The identifier's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = MalformedId;

            fn from_str(text: &str) -> Result<Self, MalformedId> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(MalformedId::new($what, text, $expected))
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = MalformedId;

            fn try_from(text: String) -> Result<Self, MalformedId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_hex64(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.')
        && text.as_bytes()[0] != b'-'
        && text.as_bytes()[0] != b'.'
}

/// 256 random bits in hexadecimal: the form that cAdvisor recognises in a cgroup's name.
fn random_hex64() -> Box<str> {
    let mut bytes = [0_u8; 32];
    getrandom::fill(&mut bytes).expect("getrandom(2) cannot fail on the supported kernels (>= 5.14)");
    hex::encode(bytes).into()
}

macro_rules! random_id {
    ($name:ident) => {
        impl $name {
            /// A new id from the kernel's random numbers.
            #[must_use]
            pub fn generate() -> Self {
                Self(random_hex64())
            }

            /// The first 13 digits, as tables show them.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..13]
            }
        }
    };
}

string_id!(
    /// Names a pod sandbox: 64 lower-case hexadecimal digits.
    PodSandboxId, "pod sandbox id", "64 lower-case hexadecimal digits", is_hex64
);
random_id!(PodSandboxId);

string_id!(
    /// Names a container: 64 lower-case hexadecimal digits.
    ContainerId, "container id", "64 lower-case hexadecimal digits", is_hex64
);
random_id!(ContainerId);

string_id!(
    /// Names a further process in a container: 64 lower-case hexadecimal digits.
    ExecId, "exec id", "64 lower-case hexadecimal digits", is_hex64
);
random_id!(ExecId);

string_id!(
    /// The name under which one daemon makes global things (cgroups, bridge, nft tables), so that two
    /// daemons on different directories never meet. At most 63 of `a-z 0-9 - .`.
    Instance, "instance name", "1 to 63 of a-z, 0-9, '-' and '.', not starting with '-' or '.'", is_name
);

impl Default for Instance {
    fn default() -> Self {
        Self("coracle".into())
    }
}

/// A RuntimeClass's handler as CRI names it; the empty name is the default handler.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RuntimeHandlerName(pub String);

impl fmt::Display for RuntimeHandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_parse_and_differ() {
        let (a, b) = (ContainerId::generate(), ContainerId::generate());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<ContainerId>(), Ok(a));
    }

    #[test]
    fn an_id_that_would_leave_its_directory_is_refused() {
        for bad in [
            "",
            "../x",
            "ABC",
            &"g".repeat(64),
            &"a".repeat(63),
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<PodSandboxId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn instance_names_stay_plain() {
        assert!("node-1.a".parse::<Instance>().is_ok());
        for bad in ["", "-x", ".x", "a/b", "A", "a b", &"a".repeat(64)] {
            assert!(bad.parse::<Instance>().is_err(), "{bad}");
        }
    }
}
