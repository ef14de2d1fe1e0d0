//! One question about the node, and its answer.

/// Whether it is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// As it should be.
    Ok,
    /// Could not be found out.
    Unknown,
    /// Pods run, but something is slower, missing or less safe.
    Costs,
    /// Pods do not run, or not as they should.
    Broken,
}

impl State {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Costs => "costs",
            Self::Broken => "broken",
        }
    }

    /// A sign that stands beside the word, never for it.
    #[must_use]
    pub fn sign(self) -> &'static str {
        match self {
            Self::Ok => "+",
            Self::Unknown => "?",
            Self::Costs => "!",
            Self::Broken => "x",
        }
    }
}

/// A part of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// What the daemon goes by.
    Configuration,
    /// What the kernel offers.
    Kernel,
    /// Limits and measures of what runs.
    Cgroups,
    /// Addresses, links and rules.
    Network,
    /// Where images and layers lie.
    Storage,
    /// The daemon's socket and who may use it.
    Sockets,
    /// What the daemon itself may use.
    Limits,
    /// AppArmor, SELinux, seccomp.
    Security,
    /// The init system, time, swap.
    System,
}

impl Topic {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::Configuration,
        Self::Kernel,
        Self::Cgroups,
        Self::Network,
        Self::Storage,
        Self::Sockets,
        Self::Limits,
        Self::Security,
        Self::System,
    ];

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Kernel => "kernel",
            Self::Cgroups => "cgroups",
            Self::Network => "network",
            Self::Storage => "storage",
            Self::Sockets => "sockets",
            Self::Limits => "limits",
            Self::Security => "security",
            Self::System => "system",
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The part of the node.
    pub topic: Topic,
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is well.
    pub state: State,
    /// What is there.
    pub seen: String,
    /// What it costs that it is so; empty when it is well.
    pub cost: String,
    /// What to do; empty when it is well.
    pub remedy: String,
}

impl Finding {
    pub(crate) fn ok(topic: Topic, name: &'static str, seen: impl Into<String>) -> Self {
        Self {
            topic,
            name,
            state: State::Ok,
            seen: seen.into(),
            cost: String::new(),
            remedy: String::new(),
        }
    }

    /// Worse than well.
    pub(crate) fn but(mut self, state: State, cost: impl Into<String>, remedy: impl Into<String>) -> Self {
        self.state = state;
        self.cost = cost.into();
        self.remedy = remedy.into();
        self
    }

    /// Worse than well only if it is not so.
    pub(crate) fn unless(
        self,
        well: bool,
        state: State,
        cost: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        if well { self } else { self.but(state, cost, remedy) }
    }
}
