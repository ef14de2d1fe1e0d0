//! References, registries, verification, pulls and the images of a node.
//!
//! Owns what an image is called, how its bytes come here and are verified, and the record of what the
//! node has. Must never mount anything, run anything of an image, or write below a layer: layers go as
//! streams to a [`Snapshotter`](coracle_snapshot::Snapshotter). Shows credentials to the registry they
//! are for and to nobody else, and puts none into an error or a log.
//!
//! ```text
//! reference -> hosts.toml, registries.conf -> session (auth, retries, mirrors) -> manifest -> platform -> configuration
//!   -> layers in parallel: connection -> channel -> sha256, inflate, budget -> LayerWriter (diff ID)
//!   -> stack of layers -> documents -> record -> index in memory
//! ```
//!
//! An OCI artifact is kept as an image whose one layer has its blobs as files. It can be mounted as a volume,
//! and no container can stand on it.
//!
//! # On disk
//!
//! - `<root>/blobs/sha256/<hex>`: manifests, indexes and configurations of the images, by digest, at
//!   most 4 MiB each. Written to `.unfinished-N`, synced, renamed. Layer blobs are not kept.
//! - `<root>/images.json`: the records that are in the database, once more; read when that is damaged.
//! - `<root>/archives.json`: which archives of a directory were loaded, and which images came of them.
//! - table `images` of the database: an [`Image`] as JSON by its id.
//!
//! Each step of a publication is durable before the next: layers, documents, record. A crash leaves
//! the image or nothing visible; what was left over is removed at the next [`Images::open`], which also
//! drops images that miss a layer or a document, so that they are pulled again.
//!
//! **Invariant:** no path is made of a digest that was not parsed, and no byte is published whose digest
//! was not computed here.

mod archive;
mod artifact;
mod assemble;
mod catalog;
mod content;
pub mod decode;
mod details;
mod download;
pub mod error;
mod export;
mod images;
mod inflate;
mod load;
pub mod manifest;
mod origin;
pub mod platform;
pub mod policy;
pub mod progress;
mod pull;
mod push;
pub mod reference;
mod registry;
pub mod settings;
mod short_names;
mod words;

pub use assemble::Limits;
pub use catalog::Image;
pub use details::{Blob, Details};
pub use error::Error;
pub use export::{ArchiveForm, SaveRequest, Saved};
pub use images::{ArchivesLoaded, Images, ImagesConfig, PullRequest};
pub use origin::{ArchiveFile, Origin};
pub use platform::Platform;
pub use policy::{MalformedPolicy, Policy, PolicySource};
pub use progress::{LayerPhase, LayerProgress, Progress};
pub use push::{PushRequest, Pushed};
pub use reference::{MalformedReference, Reference};
pub use registry::breaker::HostPause;
pub use registry::config::{Downloads, Proxies, RegistryConfig, RetryPolicy};
pub use registry::credentials::MalformedAuthFile;
pub use registry::error::RegistryError;
pub use registry::hosts::MalformedHosts;
pub use registry::transport::TransportError;
pub use settings::ImageSettings;
pub use short_names::{AmbiguousName, ShortNames};
