//! What the keeper holds for this pod, under which keys.
//!
//! A container has two deposits, and a key's last part says which descriptors it holds, in order:
//! `<id>/init.pidfd[.start]` and `<id>/io.stdout[.stderr][.stdin]`; the pod's init has `sandbox.pidfd`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use coracle_keeper::client::Keeper;
use coracle_keeper::{DepositKey, OrphanExit};
use coracle_types::{ContainerId, PodSandboxId};

use crate::error::Error;

/// The part of a key for the pod's init.
const SANDBOX: &str = "sandbox";

/// Which process a deposit is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The pod's init.
    Sandbox,
    /// A container's init.
    Container(ContainerId),
}

/// Descriptors of one owner as the keeper gave them back, by name.
pub(crate) type Found = BTreeMap<String, OwnedFd>;

/// The pod's account with its keeper. Without a keeper all calls do nothing: containers run on, only a
/// successor will find less.
#[derive(Debug)]
pub(crate) struct Deposits {
    pod: PodSandboxId,
    keeper: Option<Keeper>,
}

impl Deposits {
    pub(crate) fn connect(pod: PodSandboxId, keeper: Option<&Path>) -> Self {
        let keeper = keeper.and_then(|socket| {
            Keeper::connect(socket)
                .inspect_err(|error| tracing::warn!(%pod, %error, "going on without a keeper"))
                .ok()
        });
        Self { pod, keeper }
    }

    pub(crate) fn change(&mut self, socket: &Path) -> Result<(), Error> {
        self.keeper = Some(Keeper::connect(socket)?);
        Ok(())
    }

    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.keeper.as_ref().map(|keeper| keeper.socket().into())
    }

    /// Whether the keeper still does.
    pub(crate) fn answers(&self) -> bool {
        self.keeper.as_ref().is_some_and(|keeper| keeper.status().is_ok())
    }

    /// A process and, for a container not yet started, the socket that starts it.
    pub(crate) fn process(
        &self,
        owner: &Owner,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        start: Option<BorrowedFd<'_>>,
    ) {
        let key = match (owner, start.is_some()) {
            (Owner::Sandbox, _) => format!("{SANDBOX}.pidfd"),
            (Owner::Container(id), false) => format!("{id}/init.pidfd"),
            (Owner::Container(id), true) => format!("{id}/init.pidfd.start"),
        };
        let descriptors: Vec<_> = [Some(pidfd), start].into_iter().flatten().collect();
        self.attempt("deposit a process", |keeper, pod| {
            keeper.deposit_process(pod, &self::key(&key), pid, &descriptors)
        });
    }

    /// What a container's input and output hang on. Whatever was held for it before is given up.
    pub(crate) fn io(&self, id: &ContainerId, named: &[(&str, BorrowedFd<'_>)]) {
        self.withdraw_prefix(&format!("{id}/io"));
        if named.is_empty() {
            return;
        }
        let mut key = format!("{id}/io");
        for (name, _) in named {
            key.push('.');
            key.push_str(name);
        }
        let descriptors: Vec<_> = named.iter().map(|(_, descriptor)| *descriptor).collect();
        self.attempt("deposit descriptors", |keeper, pod| {
            keeper.deposit(pod, &self::key(&key), &descriptors)
        });
    }

    /// All that was deposited for `owner`.
    pub(crate) fn find(&self, owner: &Owner) -> Found {
        let mut found = Found::new();
        let prefix = owner_prefix(owner);
        self.attempt("copy descriptors", |keeper, pod| {
            for key in keeper
                .keys(pod)?
                .iter()
                .filter(|key| key.as_str().starts_with(&prefix))
            {
                let names = key.as_str().split('.').skip(1).map(str::to_owned);
                found.extend(names.zip(keeper.copy(pod, key)?));
            }
            Ok(())
        });
        found
    }

    /// How a process ended that became the keeper's child.
    pub(crate) fn exit_of(&self, owner: &Owner) -> Option<OrphanExit> {
        let prefix = owner_prefix(owner);
        let mut exit = None;
        self.attempt("ask for an exit", |keeper, pod| {
            for key in keeper
                .keys(pod)?
                .iter()
                .filter(|key| key.as_str().starts_with(&prefix))
            {
                exit = exit.or(keeper.orphan_exit(pod, key)?);
            }
            Ok(())
        });
        exit
    }

    /// Nothing of `owner` is to be held any more.
    pub(crate) fn withdraw(&self, owner: &Owner) {
        self.withdraw_prefix(&owner_prefix(owner));
    }

    /// Nothing of the pod.
    pub(crate) fn forget(&self) {
        self.attempt("forget", |keeper, pod| keeper.forget(pod));
    }

    fn withdraw_prefix(&self, prefix: &str) {
        self.attempt("withdraw descriptors", |keeper, pod| {
            for key in keeper
                .keys(pod)?
                .iter()
                .filter(|key| key.as_str().starts_with(prefix))
            {
                keeper.withdraw(pod, key)?;
            }
            Ok(())
        });
    }

    fn attempt(
        &self,
        what: &'static str,
        call: impl FnOnce(&Keeper, &PodSandboxId) -> Result<(), coracle_keeper::Error>,
    ) {
        if let Some(keeper) = &self.keeper
            && let Err(error) = call(keeper, &self.pod)
        {
            tracing::warn!(pod = %self.pod, %error, "keeper: cannot {what}");
        }
    }
}

fn owner_prefix(owner: &Owner) -> String {
    match owner {
        Owner::Sandbox => format!("{SANDBOX}."),
        Owner::Container(id) => format!("{id}/"),
    }
}

fn key(text: &str) -> DepositKey {
    text.parse()
        .expect("made of an id, '/', '.' and fixed lower-case names")
}

/// Borrows every descriptor that is there, with its name.
pub(crate) fn named<'a>(all: &[(&'a str, Option<&'a OwnedFd>)]) -> Vec<(&'a str, BorrowedFd<'a>)> {
    all.iter()
        .filter_map(|(name, descriptor)| Some((*name, (*descriptor)?.as_fd())))
        .collect()
}
