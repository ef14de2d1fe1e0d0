//! One rule of the default profile and the conditions under which it is written to a container's.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
    LinuxSyscallBuilder,
};

/// What a profile is written for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// Full names (`CAP_…`) of the container's bounding set.
    pub(crate) capabilities: BTreeSet<String>,
    /// Architecture as libseccomp calls it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// Major and minor version of the kernel.
    pub(crate) kernel: (u32, u32),
}

/// A condition; all of a rule's must hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// The container has the capability.
    With(&'static str),
    /// It has not.
    Without(&'static str),
    /// The machine is one of these.
    Arch(&'static [&'static str]),
    /// It is none of these.
    NotArch(&'static [&'static str]),
    /// The kernel is at least this.
    Kernel(u32, u32),
}

impl When {
    fn holds(self, target: &Target) -> bool {
        match self {
            Self::With(capability) => target.capabilities.contains(capability),
            Self::Without(capability) => !target.capabilities.contains(capability),
            Self::Arch(list) => list.contains(&target.architecture),
            Self::NotArch(list) => !list.contains(&target.architecture),
            Self::Kernel(major, minor) => target.kernel >= (major, minor),
        }
    }
}

/// A comparison of one argument.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arg {
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    second: Option<u64>,
}

impl Arg {
    /// The argument is `value`.
    pub(super) fn equal(index: usize, value: u64) -> Self {
        Self {
            index,
            operator: LinuxSeccompOperator::ScmpCmpEq,
            value,
            second: None,
        }
    }

    /// The argument's bits in `mask` are `value`.
    pub(super) fn masked(index: usize, mask: u64, value: u64) -> Self {
        Self {
            index,
            operator: LinuxSeccompOperator::ScmpCmpMaskedEq,
            value: mask,
            second: Some(value),
        }
    }

    fn to_oci(self) -> LinuxSeccompArg {
        let builder = LinuxSeccompArgBuilder::default()
            .index(self.index)
            .value(self.value)
            .op(self.operator);
        let builder = match self.second {
            Some(second) => builder.value_two(second),
            None => builder,
        };
        builder.build().expect("index, value and operator are set")
    }
}

/// System calls that are treated alike.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    names: &'static str,
    when: &'static [When],
    errno: Option<u32>,
    arg: Option<Arg>,
}

impl Rule {
    /// Lets the calls (names between blanks) pass.
    pub(super) const fn allow(names: &'static str, when: &'static [When]) -> Self {
        Self {
            names,
            when,
            errno: None,
            arg: None,
        }
    }

    /// Answers the calls with an error number.
    pub(super) const fn errno(names: &'static str, when: &'static [When], errno: u32) -> Self {
        Self {
            names,
            when,
            errno: Some(errno),
            arg: None,
        }
    }

    /// Only for calls with such an argument.
    pub(super) fn if_arg(self, arg: Arg) -> Self {
        Self {
            arg: Some(arg),
            ..self
        }
    }

    /// The rule for `target`, if its conditions hold.
    pub(super) fn for_target(&self, target: &Target) -> Option<LinuxSyscall> {
        if !self.when.iter().all(|condition| condition.holds(target)) {
            return None;
        }
        let action = match self.errno {
            Some(_) => LinuxSeccompAction::ScmpActErrno,
            None => LinuxSeccompAction::ScmpActAllow,
        };
        Some(syscall(
            self.names.split_whitespace(),
            action,
            self.errno,
            self.arg.map(Arg::to_oci),
        ))
    }
}

/// A rule of a profile.
pub(super) fn syscall<'a>(
    names: impl Iterator<Item = &'a str>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    arg: Option<LinuxSeccompArg>,
) -> LinuxSyscall {
    let mut builder = LinuxSyscallBuilder::default()
        .names(names.map(str::to_owned).collect::<Vec<_>>())
        .action(action);
    if let Some(errno) = errno {
        builder = builder.errno_ret(errno);
    }
    if let Some(arg) = arg {
        builder = builder.args(vec![arg]);
    }
    builder.build().expect("names and action are set")
}
