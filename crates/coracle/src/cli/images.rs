//! What the commands on images take: lists, pulls, archives, prunes.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use super::PickArgs;

/// Which images to list, and how.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ImagesArgs {
    /// How they are picked and shown.
    #[command(flatten)]
    pub(crate) pick: PickArgs,
    /// With the digests by which registries know them
    #[arg(long)]
    pub(crate) digests: bool,
    /// Each image with its layers: how large they are on this node, and which images share them
    #[arg(long, conflicts_with = "watch")]
    pub(crate) tree: bool,
}

/// An image to pull.
#[derive(Debug, Clone, Args)]
pub(crate) struct PullArgs {
    /// Reference: docker.io/library/nginx, registry.example/app:1.2, app@sha256:...
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) image: String,
    /// User name for the registry; the password is read from the variable CORACLE_REGISTRY_PASSWORD
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
}

/// From where to load images.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// An OCI layout, on the daemon's file system
    pub(crate) path: PathBuf,
}

/// From where to load images.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Archive: an OCI layout (directory or tar) or what `docker save` writes, also gzip or zstd; `-` reads
    /// standard input
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub(crate) input: PathBuf,
}

/// What to save, and where to.
#[derive(Debug, Clone, Args)]
pub(crate) struct SaveArgs {
    /// Images, by any of their names; one that is named by a tag keeps that tag only
    #[arg(required = true, value_name = "IMAGE", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) images: Vec<String>,
    /// File to write, or directory with --format oci-dir; `-` writes to standard output
    #[arg(long, short, value_name = "FILE", default_value = "-")]
    pub(crate) file: PathBuf,
    /// What is written
    #[arg(long, value_enum, default_value_t = SaveFormat::OciArchive, value_name = "FORMAT")]
    pub(crate) format: SaveFormat,
    /// Ask no registry: what is not in an archive on this node is written anew, with a new digest
    #[arg(long)]
    pub(crate) offline: bool,
    /// User name for the registry; the password is read from the variable CORACLE_REGISTRY_PASSWORD
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
}

/// What to push, and where to.
#[derive(Debug, Clone, Args)]
pub(crate) struct PushArgs {
    /// The image, by any of its names
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) image: String,
    /// Where to: registry.example/team/app:1.2; the image's own name when it is left out
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) destination: Option<String>,
    /// User name for the registry; the password is read from the variable CORACLE_REGISTRY_PASSWORD
    #[arg(long, value_name = "USER")]
    pub(crate) username: Option<String>,
}

/// Forms of archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SaveFormat {
    /// A tar of an OCI layout, which `docker load` reads as well
    OciArchive,
    /// A directory with an OCI layout; it must not be there yet, or be empty
    OciDir,
    /// What `docker save` wrote before version 25, with plain layers
    DockerArchive,
}

/// What to prune.
#[derive(Debug, Clone, Args)]
pub(crate) struct PruneArgs {
    /// Also images that have a tag, if no container uses them
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Only images that came more than so long ago: until=24h, until=7days
    #[arg(long, value_name = "until=TIME")]
    pub(crate) filter: Vec<String>,
    /// Only tell what would go
    #[arg(long, short = 'n')]
    pub(crate) dry_run: bool,
    /// Do not ask; needed where standard input is no terminal
    #[arg(long, short)]
    pub(crate) yes: bool,
}
