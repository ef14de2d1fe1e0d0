//! The keeper's messages: one JSON object a SEQPACKET packet, descriptors beside it by SCM_RIGHTS.
//!
//! JSON, since a keeper outlives the daemon's version that started it: unknown fields are ignored and a
//! request that an old keeper does not know is answered in words.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use coracle_types::time::UnixNanos;
use coracle_types::{Kind, MalformedId, PodSandboxId};
use serde::{Deserialize, Serialize};

/// Largest packet either side takes, in bytes.
pub(crate) const PACKET_MAX: usize = 64 * 1024;
/// Most deposits of one pod.
pub(crate) const DEPOSITS_MAX: usize = 512;

/// Names a deposit within its pod: 1 to 128 of `a-z 0-9 - . /`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DepositKey(String);

impl DepositKey {
    /// The key's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DepositKey {
    type Err = MalformedId;

    fn from_str(text: &str) -> Result<Self, MalformedId> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-./".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.to_owned()))
        } else {
            Err(MalformedId {
                what: "deposit key",
                value: text.chars().take(80).collect(),
                expected: "1 to 128 of a-z, 0-9, '-', '.' and '/'",
            })
        }
    }
}

impl TryFrom<String> for DepositKey {
    type Error = MalformedId;

    fn try_from(text: String) -> Result<Self, MalformedId> {
        text.parse()
    }
}

impl From<DepositKey> for String {
    fn from(key: DepositKey) -> String {
        key.0
    }
}

impl fmt::Display for DepositKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a process ended that the keeper reaped in a dead shim's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanExit {
    /// 0 to 255; 128 + N after signal N.
    pub code: i32,
    /// When the keeper reaped it, by the wall clock.
    pub at: UnixNanos,
}

/// What a client asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Who are you, what do you hold?
    Status,
    /// Fork a shim that serves on `<state_dir>/shim.sock`.
    Spawn {
        pod: PodSandboxId,
        state_dir: PathBuf,
        /// For the shim: what it logs.
        #[serde(default)]
        log: String,
    },
    /// Kill the shim of a pod that is your child.
    Kill { pod: PodSandboxId },
    /// Whose shims live, and of which pods do you hold anything?
    Pods,
    /// Hold the descriptors beside this packet. With a pid, the first of them is that process's pidfd.
    Deposit {
        pod: PodSandboxId,
        key: DepositKey,
        pid: Option<i32>,
    },
    /// Which keys do you hold?
    Keys { pod: PodSandboxId },
    /// Give me duplicates.
    Copy { pod: PodSandboxId, key: DepositKey },
    /// Close one deposit.
    Remove { pod: PodSandboxId, key: DepositKey },
    /// Close all of a pod's and forget its exits.
    Forget { pod: PodSandboxId },
    /// How did the process of this deposit end? Taken once.
    TakeExit { pod: PodSandboxId, key: DepositKey },
    /// Leave as soon as there are neither shims nor deposits.
    Retire,
    /// Do not.
    Stay,
}

/// What the keeper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    /// To [`Request::Status`].
    Status { pid: i32, pods: usize, shims: usize },
    /// To [`Request::Spawn`].
    Spawned { pid: i32 },
    /// To [`Request::Pods`].
    Pods { pods: Vec<PodSandboxId> },
    /// Done, nothing to say.
    Done,
    /// To [`Request::Keys`].
    Keys { keys: Vec<DepositKey> },
    /// To [`Request::Copy`]; the descriptors are beside the packet.
    Copied { pid: Option<i32> },
    /// To [`Request::TakeExit`].
    Exit { exit: Option<OrphanExit> },
    /// It was not done.
    Failed { kind: Kind, message: String },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_surprises() {
        assert!("stdout/0a1b".parse::<DepositKey>().is_ok());
        for bad in ["", "A", "a b", "a\n", &"x".repeat(129)] {
            assert!(bad.parse::<DepositKey>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_key_that_would_not_parse_is_refused_on_the_wire() {
        let text = format!(r#"{{"copy":{{"pod":"{}","key":"A"}}}}"#, "a".repeat(64));
        assert!(serde_json::from_str::<Request>(&text).is_err());
    }
}
