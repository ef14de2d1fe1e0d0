//! The texts of manifests, from files and standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use coracle_manifest::{File, Reading};

use crate::cli::RunArgs;
use crate::terminal::{Status, Trouble};

/// Bytes of one file; the manifests' crate takes no more.
const TEXT_MAX: u64 = 8 << 20;

/// All texts of one run.
#[derive(Debug)]
pub(super) struct Sources {
    /// With pods.
    pub(super) files: Vec<File>,
    /// With ConfigMaps and Secrets only.
    configs: Vec<File>,
    /// What came from standard input.
    pub(super) stdin: Option<String>,
}

impl Sources {
    /// Reads what the command line names.
    pub(super) fn load(args: &RunArgs) -> anyhow::Result<Self> {
        must_not_be_said(args)?;
        let mut sources = Self {
            files: Vec::new(),
            configs: Vec::new(),
            stdin: None,
        };
        for name in args.manifests() {
            let text = if name == "-" {
                if sources.stdin.is_some() {
                    return Err(
                        Trouble::new("- is given twice, and standard input can be read once only")
                            .next("write one of the manifests to a file")
                            .status(Status::Usage)
                            .into(),
                    );
                }
                let text = limited(&mut std::io::stdin(), "standard input")?;
                sources.stdin = Some(text.clone());
                text
            } else {
                read(Path::new(&name))?
            };
            let name = if name == "-" {
                "standard input".to_owned()
            } else {
                name
            };
            sources.files.push(File { name, text });
        }
        for path in &args.manifest.configmap {
            let text = read(path)?;
            let name = path.display().to_string();
            sources.configs.push(File { name, text });
        }
        Ok(sources)
    }

    /// What they mean.
    pub(super) fn read(&self) -> Reading {
        coracle_manifest::read(&self.files, &self.configs)
    }
}

/// Options that say of a container what a manifest says itself.
fn must_not_be_said(args: &RunArgs) -> Result<(), Trouble> {
    for (said, option) in [
        (args.name.is_some(), "--name"),
        (!args.env.is_empty(), "--env"),
        (!args.publish.is_empty(), "--publish"),
        (args.host_network, "--host-network"),
        (!args.workdir.is_empty(), "--workdir"),
        (!args.command.is_empty(), "a command"),
    ] {
        if said {
            return Err(Trouble::new(format!("{option} goes with an image"))
                .next("say it in the manifest")
                .status(Status::Usage));
        }
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let shown = path.display().to_string();
    let mut file = std::fs::File::open(path).with_context(|| format!("open the manifest {shown}"))?;
    limited(&mut file, &shown)
}

fn limited(from: &mut impl Read, name: &str) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    from.take(TEXT_MAX + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {name}"))?;
    ensure!(
        bytes.len() as u64 <= TEXT_MAX,
        "{name} has more than {TEXT_MAX} bytes: split it"
    );
    String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("{name} is no UTF-8 text"))
}

/// The same file for a process that may stand elsewhere.
pub(super) fn absolute(name: &str) -> anyhow::Result<PathBuf> {
    std::path::absolute(name).with_context(|| format!("the path of {name}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};
    use crate::terminal::status_of;

    #[test]
    fn what_does_not_go_with_manifests_is_a_mistake_of_the_command_line() {
        for line in [
            &["pod.yaml", "--name", "a"][..],
            &["pod.yaml", "--env", "A=b"],
            &["pod.yaml", "--publish", "1:2"],
            &["pod.yaml", "--host-network"],
            &["pod.yaml", "--workdir", "/"],
            &["pod.yaml", "--", "true"],
        ] {
            let parsed = Cli::try_parse_from(["coracle", "run"].iter().chain(line)).unwrap();
            let Command::Run(args) = parsed.command else {
                panic!("{line:?}");
            };
            let error = Sources::load(&args).unwrap_err();
            assert_eq!(status_of(&error), Status::Usage, "{line:?}");
        }
    }
}
