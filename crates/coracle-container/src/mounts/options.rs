//! Mount options as the OCI specification names them (config.md, "Linux mount options").

use coracle_sys::mount_attr::{Change, Depth, Flag, Propagation};

/// Options of one mount, sorted by what they act on.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) bind: Option<Depth>,
    /// For this mount.
    pub(super) change: Change<'static>,
    /// For this mount and those below.
    pub(super) tree_change: Change<'static>,
    pub(super) propagation: Option<(Propagation, Depth)>,
    pub(super) read_only: bool,
    /// Ids are mapped: of this mount or of the tree.
    pub(super) mapped: Option<Depth>,
    /// Left to the file system: `size=64k`, `newinstance`.
    pub(super) data: Vec<(String, Option<String>)>,
    /// Flags of the superblock.
    pub(super) superblock: Vec<&'static str>,
}

fn flag(name: &str) -> Option<(Flag, bool)> {
    Some(match name {
        "ro" => (Flag::ReadOnly, true),
        "rw" => (Flag::ReadOnly, false),
        "nosuid" => (Flag::NoSuid, true),
        "suid" => (Flag::NoSuid, false),
        "nodev" => (Flag::NoDev, true),
        "dev" => (Flag::NoDev, false),
        "noexec" => (Flag::NoExec, true),
        "exec" => (Flag::NoExec, false),
        "noatime" => (Flag::NoAtime, true),
        "atime" => (Flag::NoAtime, false),
        "nodiratime" => (Flag::NoDirAtime, true),
        "diratime" => (Flag::NoDirAtime, false),
        "relatime" => (Flag::RelAtime, true),
        "norelatime" => (Flag::RelAtime, false),
        "strictatime" => (Flag::StrictAtime, true),
        "nostrictatime" => (Flag::StrictAtime, false),
        "nosymfollow" => (Flag::NoSymFollow, true),
        "symfollow" => (Flag::NoSymFollow, false),
        _ => return None,
    })
}

fn propagation(name: &str) -> Option<(Propagation, Depth)> {
    let (depth, name) = match name.strip_prefix('r') {
        Some(rest) => (Depth::Tree, rest),
        None => (Depth::This, name),
    };
    let propagation = match name {
        "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => return None,
    };
    Some((propagation, depth))
}

impl Options {
    pub(super) fn parse(texts: &[String]) -> Self {
        let mut options = Self::default();
        for text in texts {
            options.read(text);
        }
        options
    }

    fn read(&mut self, text: &str) {
        if let Some((flag, on)) = flag(text) {
            if flag == Flag::ReadOnly {
                self.read_only = on;
            }
            // `rw` of a bind mount asks for no more than the source has: it does not lift its `ro`.
            if on {
                self.change = self.change.set(flag);
            } else if flag != Flag::ReadOnly {
                self.change = self.change.clear(flag);
            }
            return;
        }
        if let Some((flag, on)) = text.strip_prefix('r').and_then(flag) {
            self.tree_change = if on {
                self.tree_change.set(flag)
            } else {
                self.tree_change.clear(flag)
            };
            return;
        }
        if let Some(found) = propagation(text) {
            self.propagation = Some(found);
            return;
        }
        match text {
            "bind" => self.bind = self.bind.or(Some(Depth::This)),
            "rbind" => self.bind = Some(Depth::Tree),
            "idmap" => self.mapped = Some(Depth::This),
            "ridmap" => self.mapped = Some(Depth::Tree),
            "sync" => self.superblock.push("sync"),
            "dirsync" => self.superblock.push("dirsync"),
            "lazytime" => self.superblock.push("lazytime"),
            "" | "defaults" | "async" | "mand" | "nomand" | "silent" | "loud" | "remount" | "iversion"
            | "noiversion" | "nolazytime" => {}
            data => {
                let (key, value) = match data.split_once('=') {
                    Some((key, value)) => (key, Some(value.to_owned())),
                    None => (data, None),
                };
                self.data.push((key.to_owned(), value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_go_where_they_act() {
        let texts = ["rbind", "rro", "nosuid", "rslave", "size=64k", "newinstance"].map(str::to_owned);
        let options = Options::parse(&texts);
        assert_eq!(options.bind, Some(Depth::Tree));
        assert_eq!(options.propagation, Some((Propagation::Slave, Depth::Tree)));
        assert!(!options.change.is_empty() && !options.tree_change.is_empty());
        assert_eq!(options.data.len(), 2);
        assert!(Options::parse(&["rw".into()]).change.is_empty());
        assert!(Options::parse(&["ro".into()]).read_only);
    }
}
