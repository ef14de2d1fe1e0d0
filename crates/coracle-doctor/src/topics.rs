//! The questions, a file a part of the node.

mod cgroups;
mod configuration;
mod kernel;
mod limits;
mod network;
mod security;
mod sockets;
mod storage;
mod system;

use crate::{Finding, Subject, Topic};

/// Examines one part.
pub(crate) fn examine(topic: Topic, subject: &Subject) -> Vec<Finding> {
    match topic {
        Topic::Configuration => configuration::examine(subject),
        Topic::Kernel => kernel::examine(subject),
        Topic::Cgroups => cgroups::examine(subject),
        Topic::Network => network::examine(subject),
        Topic::Storage => storage::examine(subject),
        Topic::Sockets => sockets::examine(subject),
        Topic::Limits => limits::examine(subject),
        Topic::Security => security::examine(subject),
        Topic::System => system::examine(subject),
    }
}
