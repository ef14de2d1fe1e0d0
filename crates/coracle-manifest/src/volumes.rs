//! Volumes: what a manifest asks for.

use crate::config_objects::{ConfigObject, ConfigObjects};
use crate::environment::{Asker, FieldRef, ResourceRef, Secrecy, field_ref, resource_ref};
use crate::fields::{At, Fields};

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// By which containers mount it.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A directory that lives as long as the pod.
    EmptyDir {
        /// In memory.
        memory: bool,
        /// Bytes at most, in memory only.
        size_limit: Option<u64>,
    },
    /// A path of the node.
    HostPath {
        /// The path.
        path: String,
        /// What must be there, or is made.
        kind: HostPathKind,
    },
    /// Files written for the pod.
    Files(Vec<VolumeFile>),
    /// An image's root, read-only.
    Image {
        /// Its reference.
        reference: String,
        /// When it is pulled.
        pull: Option<crate::PullPolicy>,
    },
}

/// What must be at a path of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPathKind {
    /// Not looked at.
    Unchecked,
    /// A directory, made with mode 0755 when there is nothing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made with mode 0644 when there is nothing.
    FileOrCreate,
    /// A file.
    File,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFile {
    /// Path within the volume; relative, without `..`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What is in it.
    pub content: FileContent,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// These bytes, which may be text.
    Text(Secrecy),
    /// Bytes that are no text.
    Bytes(Vec<u8>),
    /// From the pod's own fields.
    Field(FieldRef),
    /// From a container's requests and limits.
    Resource(ResourceRef),
}

const EMPTY: VolumeSource = VolumeSource::EmptyDir {
    memory: false,
    size_limit: None,
};

/// Permission bits of files when nobody names any.
const MODE: u32 = 0o644;

const STORAGE: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "iscsi",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

/// `spec.volumes`.
pub(crate) fn volumes(fields: &mut Fields<'_>, objects: &ConfigObjects<'_>) -> Vec<Volume> {
    let mut volumes: Vec<Volume> = Vec::new();
    for at in fields.get("volumes").iter().flat_map(At::list) {
        let Some(volume) = volume(&at, objects) else {
            continue;
        };
        if volumes.iter().any(|have| have.name == volume.name) {
            at.refuse(format!(
                "another volume is called {:?}: give each its own name",
                volume.name
            ));
        }
        volumes.push(volume);
    }
    volumes
}

fn volume(at: &At<'_>, objects: &ConfigObjects<'_>) -> Option<Volume> {
    let mut fields = at.fields()?;
    let name = fields.required("name").and_then(|at| crate::names::label(&at));
    fields.refused(
        &STORAGE,
        "nothing mounts a cluster's or cloud's storage here: mount it on the node and take hostPath, or take emptyDir",
    );
    fields.refused(
        &["persistentVolumeClaim"],
        "there is nothing that binds claims: take hostPath for what must stay, emptyDir for what need not",
    );
    let mut found = Vec::new();
    for kind in [
        "emptyDir",
        "hostPath",
        "configMap",
        "secret",
        "downwardAPI",
        "projected",
        "image",
    ] {
        let Some(at) = fields.get(kind) else { continue };
        found.push(match kind {
            "emptyDir" => empty_dir(&at),
            "hostPath" => host_path(&at),
            "image" => image(&at),
            "projected" => projected(&at, objects).map(VolumeSource::Files),
            kind => files(&at, kind, objects, None).map(VolumeSource::Files),
        });
    }
    fields.finish();
    let source = match found.len() {
        // Kubernetes takes a volume without a source for an emptyDir.
        0 => Some(EMPTY),
        1 => found.remove(0),
        _ => {
            at.refuse("has more than one source: keep one");
            None
        }
    };
    // What was refused stands in as something, lest each of its mounts be refused as well.
    Some(Volume {
        name: name?,
        source: source.unwrap_or(EMPTY),
    })
}

fn empty_dir(at: &At<'_>) -> Option<VolumeSource> {
    let mut fields = at.fields()?;
    let memory = fields.get("medium").and_then(|at| match at.node.scalar() {
        Some("") => Some(false),
        Some(text) if text.starts_with("HugePages") => {
            at.refuse("huge pages are not mounted here: take Memory");
            None
        }
        _ => at.one_of(&[("Memory", true)]),
    });
    let memory = memory.unwrap_or(false);
    let limit = fields.get("sizeLimit");
    if let (Some(at), false) = (&limit, memory) {
        at.ignore("nobody measures a directory on disk here: medium: Memory keeps the limit");
    }
    let size_limit = limit
        .and_then(|at| at.quantity())
        .map(|size| size.value().unsigned_abs());
    fields.finish();
    Some(VolumeSource::EmptyDir {
        memory,
        size_limit: size_limit.filter(|size| memory && *size > 0),
    })
}

fn host_path(at: &At<'_>) -> Option<VolumeSource> {
    let mut fields = at.fields()?;
    let path = fields.required("path").and_then(|at| crate::names::absolute(&at));
    let kinds = [
        ("", HostPathKind::Unchecked),
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let kind = fields
        .get("type")
        .map_or(Some(HostPathKind::Unchecked), |at| at.one_of(&kinds));
    fields.finish();
    Some(VolumeSource::HostPath {
        path: path?,
        kind: kind?,
    })
}

fn image(at: &At<'_>) -> Option<VolumeSource> {
    let mut fields = at.fields()?;
    let reference = fields.required("reference").and_then(|at| at.text());
    let pull = fields
        .get("pullPolicy")
        .and_then(|at| at.one_of(&crate::read_container::PULL));
    fields.finish();
    Some(VolumeSource::Image {
        reference: reference?,
        pull,
    })
}

fn mode(fields: &mut Fields<'_>, name: &'static str) -> Option<u32> {
    let mode = fields.get(name)?.int(0, 0o777)?;
    u32::try_from(mode).ok()
}

fn projected(at: &At<'_>, objects: &ConfigObjects<'_>) -> Option<Vec<VolumeFile>> {
    let mut fields = at.fields()?;
    let usual = mode(&mut fields, "defaultMode").unwrap_or(MODE);
    let mut all: Vec<VolumeFile> = Vec::new();
    for at in fields.get("sources").iter().flat_map(At::list) {
        let Some(mut source) = at.fields() else { continue };
        source.ignored(
            &["serviceAccountToken", "clusterTrustBundle", "podCertificate"],
            "there is no API server to issue it: the file is left out",
        );
        for kind in ["configMap", "secret", "downwardAPI"] {
            let Some(at) = source.get(kind) else { continue };
            for file in files(&at, kind, objects, Some(usual)).unwrap_or_default() {
                if all.iter().any(|have| have.path == file.path) {
                    at.refuse(format!(
                        "two sources write {:?}: give one of them another path",
                        file.path
                    ));
                }
                all.push(file);
            }
        }
        source.finish();
    }
    fields.finish();
    Some(all)
}

/// The files of a configMap, secret or downwardAPI, alone or within a projected volume.
fn files(
    at: &At<'_>,
    kind: &str,
    objects: &ConfigObjects<'_>,
    usual: Option<u32>,
) -> Option<Vec<VolumeFile>> {
    let mut fields = at.fields()?;
    let mode = match usual {
        Some(usual) => usual,
        None => mode(&mut fields, "defaultMode").unwrap_or(MODE),
    };
    if kind == "downwardAPI" {
        let items = fields.get("items").map(|at| at.list()).unwrap_or_default();
        fields.finish();
        return Some(items.iter().filter_map(|at| downward(at, mode)).collect());
    }
    let secret = kind == "secret";
    // The same thing has two names in Kubernetes.
    let name = fields.required(if secret && usual.is_none() {
        "secretName"
    } else {
        "name"
    });
    let optional = fields.bool("optional").unwrap_or(false);
    let items = fields.get("items");
    fields.finish();
    let name = name?;
    let Some(object) = objects.find(&name, &name.text()?, secret, optional) else {
        return Some(Vec::new());
    };
    let Some(items) = items else {
        let whole = |(key, value): (&String, &Vec<u8>)| VolumeFile {
            path: key.clone(),
            mode,
            content: content(value, secret),
        };
        return Some(object.data.iter().map(whole).collect());
    };
    let item = |at: &At<'_>| item(at, object, mode, optional, secret);
    Some(items.list().iter().filter_map(item).collect())
}

fn item(at: &At<'_>, object: &ConfigObject, usual: u32, optional: bool, secret: bool) -> Option<VolumeFile> {
    let mut fields = at.fields()?;
    let key = fields.required("key");
    let path = fields.required("path").and_then(|at| crate::names::relative(&at));
    let mode = mode(&mut fields, "mode").unwrap_or(usual);
    fields.finish();
    let key_at = key?;
    let key = key_at.text()?;
    let Some(value) = object.data.get(&key) else {
        if !optional {
            key_at.refuse(format!("there is no key {key:?}: there is {}", object.keys()));
        }
        return None;
    };
    Some(VolumeFile {
        path: path?,
        mode,
        content: content(value, secret),
    })
}

fn content(value: &[u8], secret: bool) -> FileContent {
    match String::from_utf8(value.to_vec()) {
        Ok(text) => FileContent::Text(Secrecy::new(text, secret)),
        Err(error) => FileContent::Bytes(error.into_bytes()),
    }
}

fn downward(at: &At<'_>, usual: u32) -> Option<VolumeFile> {
    let mut fields = at.fields()?;
    let path = fields.required("path").and_then(|at| crate::names::relative(&at));
    let mode = mode(&mut fields, "mode").unwrap_or(usual);
    let field = fields.get("fieldRef");
    let resource = fields.get("resourceFieldRef");
    fields.finish();
    let content = match (field, resource) {
        (Some(at), None) => field_ref(&at, Asker::File).map(FileContent::Field),
        (None, Some(at)) => resource_ref(&at, Asker::File).map(FileContent::Resource),
        _ => {
            at.refuse("give one of fieldRef and resourceFieldRef");
            None
        }
    };
    Some(VolumeFile {
        path: path?,
        mode,
        content: content?,
    })
}
