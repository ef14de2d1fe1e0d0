//! Archives of images as other tools read them: OCI layouts, and what `docker save` writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use super::{ArchiveForm, BUFFER, Parcel};
use crate::assemble::Workshop;
use crate::decode::{Ahead, Budget, LayerReader};
use crate::manifest::INDEX;

/// Writes all of it; blocks.
pub(super) fn archive(
    workshop: &Workshop,
    parcels: &[Parcel],
    form: ArchiveForm,
    out: impl Write,
) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    match form {
        ArchiveForm::Oci => layout(parcels, &mut tar)?,
        ArchiveForm::Docker => docker(workshop, parcels, &mut tar)?,
    }
    tar.into_inner()?.flush()
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, size: u64, content: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    tar.append_data(&mut header, name, content)
}

fn add_json(tar: &mut tar::Builder<impl Write>, name: &str, value: &Value) -> io::Result<()> {
    let text = value.to_string();
    add(tar, name, text.len() as u64, text.as_bytes())
}

/// image-layout.md of the OCI image specification; with docker's manifest.json, which `docker load` reads.
fn layout(parcels: &[Parcel], tar: &mut tar::Builder<impl Write>) -> io::Result<()> {
    let blob = |digest: &coracle_types::Digest| format!("blobs/sha256/{}", digest.hex());
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for parcel in parcels {
        let (digest, bytes) = &parcel.manifest;
        let mut entry = json!({"mediaType": parcel.media_type, "digest": digest, "size": bytes.len()});
        if parcel.tags.is_empty() {
            manifests.push(entry.clone());
        }
        for tag in &parcel.tags {
            entry["annotations"] = json!({
                "io.containerd.image.name": tag.to_string(),
                "org.opencontainers.image.ref.name": tag.tag().unwrap_or_default(),
            });
            manifests.push(entry.clone());
        }
        docker.push(json!({
            "Config": blob(&parcel.config.0),
            "RepoTags": names(parcel),
            "Layers": parcel.layers.iter().map(|(layer, _)| blob(&layer.digest)).collect::<Vec<_>>(),
        }));
    }
    add_json(tar, "oci-layout", &json!({"imageLayoutVersion": "1.0.0"}))?;
    add_json(
        tar,
        "index.json",
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}),
    )?;
    add_json(tar, "manifest.json", &Value::Array(docker))?;
    let mut there = BTreeSet::new();
    for parcel in parcels {
        for (digest, bytes) in [&parcel.manifest, &parcel.config] {
            if there.insert(digest.clone()) {
                add(tar, &blob(digest), bytes.len() as u64, &bytes[..])?;
            }
        }
        for (layer, file) in &parcel.layers {
            if there.insert(layer.digest.clone()) {
                add(tar, &blob(&layer.digest), layer.size, whole(file))?;
            }
        }
    }
    Ok(())
}

fn names(parcel: &Parcel) -> Vec<String> {
    parcel.tags.iter().map(ToString::to_string).collect()
}

/// Plain layers below their diff IDs; one that several images have is there once.
fn docker(workshop: &Workshop, parcels: &[Parcel], tar: &mut tar::Builder<impl Write>) -> io::Result<()> {
    let mut entries = Vec::new();
    let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    let mut there = BTreeSet::new();
    for parcel in parcels {
        let config = format!("{}.json", parcel.config.0.hex());
        if there.insert(config.clone()) {
            add(tar, &config, parcel.config.1.len() as u64, &parcel.config.1[..])?;
        }
        let mut layers = Vec::new();
        let budget = Arc::new(Budget::new(workshop.limits.unpacked));
        for ((layer, file), diff_id) in parcel.layers.iter().zip(&parcel.diff_ids) {
            let name = format!("{}/layer.tar", diff_id.hex());
            if there.insert(name.clone()) {
                let source = BufReader::with_capacity(BUFFER, whole(file));
                let expected = (layer.digest.clone(), layer.size);
                let unnamed = workshop.content.unnamed();
                let mut unpacked = unnamed.map_err(|error| io::Error::other(error.to_string()))?;
                let size = thread::scope(|scope| {
                    let ahead = Ahead::start(scope, source, layer.size)?;
                    let mut plain = LayerReader::new(ahead, expected, None, Arc::clone(&budget))?;
                    io::copy(&mut plain, &mut unpacked)
                })?;
                unpacked.rewind()?;
                add(tar, &name, size, unpacked)?;
            }
            layers.push(name);
        }
        let top = parcel
            .diff_ids
            .last()
            .map(|id| id.hex().to_owned())
            .unwrap_or_default();
        for tag in &parcel.tags {
            let tags = repositories.entry(tag.name()).or_default();
            tags.insert(tag.tag().unwrap_or_default().to_owned(), top.clone());
        }
        entries.push(json!({"Config": config, "RepoTags": names(parcel), "Layers": layers}));
    }
    add_json(tar, "manifest.json", &Value::Array(entries))?;
    add_json(tar, "repositories", &json!(repositories))
}

/// A file from its beginning, whatever else reads it.
pub(crate) fn whole(file: &Arc<File>) -> impl Read + Send + use<> {
    Whole {
        file: Arc::clone(file),
        offset: 0,
    }
}

struct Whole {
    file: Arc<File>,
    offset: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}
