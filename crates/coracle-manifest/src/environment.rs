//! Variables: where a manifest takes them from.

use crate::config_objects::ConfigObjects;
use crate::fields::{At, Fields};
use crate::quantity::Quantity;

/// Words of a command line in which `$(NAME)` is to be expanded.
pub type Words = Vec<String>;

/// A variable of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub source: Source,
}

/// Where a variable's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Stands in the manifest; `$(NAME)` is expanded.
    Text(String),
    /// From a ConfigMap or Secret, as it is there.
    Given(Secrecy),
    /// From the pod's own fields.
    Field(FieldRef),
    /// From a container's requests and limits.
    Resource(ResourceRef),
}

/// A value that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secrecy {
    value: String,
    shown: bool,
}

impl Secrecy {
    pub(crate) fn new(value: String, secret: bool) -> Self {
        Self {
            value,
            shown: !secret,
        }
    }

    /// Whether it comes from a Secret.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        !self.shown
    }

    /// The value.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.value
    }
}

impl std::fmt::Debug for Secrecy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.shown {
            write!(f, "{:?}", self.value)
        } else {
            write!(f, "<{} bytes of a Secret>", self.value.len())
        }
    }
}

/// A field of the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldRef {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`.
    Uid,
    /// `metadata.labels`, all of them; files only.
    Labels,
    /// `metadata.annotations`, all of them; files only.
    Annotations,
    /// `metadata.labels['KEY']`.
    Label(String),
    /// `metadata.annotations['KEY']`.
    Annotation(String),
    /// `spec.nodeName`.
    NodeName,
    /// `spec.serviceAccountName`.
    ServiceAccount,
    /// `status.hostIP`, and `status.hostIPs`: one is known.
    HostIp,
    /// `status.podIP`.
    PodIp,
    /// `status.podIPs`.
    PodIps,
}

/// A number of a container's resources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceRef {
    /// Whose; empty for the container that asks.
    pub container: String,
    /// Which.
    pub resource: Resource,
    /// In units of this.
    pub divisor: Quantity,
}

/// A number of a container's resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// `limits.cpu`; the node's CPUs without one.
    CpuLimit,
    /// `requests.cpu`.
    CpuRequest,
    /// `limits.memory`; the node's memory without one.
    MemoryLimit,
    /// `requests.memory`.
    MemoryRequest,
    /// `limits.ephemeral-storage`.
    StorageLimit,
    /// `requests.ephemeral-storage`.
    StorageRequest,
}

const RESOURCES: [(&str, Resource); 6] = [
    ("limits.cpu", Resource::CpuLimit),
    ("requests.cpu", Resource::CpuRequest),
    ("limits.memory", Resource::MemoryLimit),
    ("requests.memory", Resource::MemoryRequest),
    ("limits.ephemeral-storage", Resource::StorageLimit),
    ("requests.ephemeral-storage", Resource::StorageRequest),
];

/// Who asks for a field: files may have some that variables may not, and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Variable,
    File,
}

/// `envFrom` and `env`: later ones of a name win.
pub(crate) fn variables(fields: &mut Fields<'_>, objects: &ConfigObjects<'_>) -> Vec<Variable> {
    let mut variables = Vec::new();
    for at in fields.get("envFrom").iter().flat_map(At::list) {
        from_object(&at, objects, &mut variables);
    }
    for at in fields.get("env").iter().flat_map(At::list) {
        if let Some(variable) = variable(&at, objects) {
            variables.push(variable);
        }
    }
    variables
}

fn from_object(at: &At<'_>, objects: &ConfigObjects<'_>, variables: &mut Vec<Variable>) {
    let Some(mut fields) = at.fields() else { return };
    let prefix = fields.text("prefix");
    for (name, secret) in [("configMapRef", false), ("secretRef", true)] {
        let Some(at) = fields.get(name) else { continue };
        let Some(object) = objects.named(&at, "name", secret) else {
            continue;
        };
        for (key, value) in &object.data {
            let name = format!("{prefix}{key}");
            match std::str::from_utf8(value) {
                Ok(value) if is_variable(&name) => variables.push(Variable {
                    name,
                    source: Source::Given(Secrecy::new(value.to_owned(), secret)),
                }),
                Ok(_) => at.ignore(format!("key {key:?} makes no name of a variable")),
                Err(_) => at.ignore(format!("the value of key {key:?} is no text")),
            }
        }
    }
    fields.finish();
}

fn variable(at: &At<'_>, objects: &ConfigObjects<'_>) -> Option<Variable> {
    let mut fields = at.fields()?;
    let name = fields.required("name").and_then(|at| {
        let name = at.text()?;
        if !is_variable(&name) {
            at.refuse(format!(
                "{name:?} is no name of a variable: give printable characters without '='"
            ));
        }
        Some(name)
    });
    let value = fields.get("value").map(|at| at.text());
    let from = fields.get("valueFrom");
    fields.finish();
    let source = match (value, from) {
        (Some(_), Some(from)) => {
            from.refuse("has a value beside it: keep one of them");
            None
        }
        (Some(value), None) => value.map(Source::Text),
        (None, None) => Some(Source::Text(String::new())),
        (None, Some(from)) => value_from(&from, objects),
    };
    Some(Variable {
        name: name?,
        source: source?,
    })
}

fn value_from(at: &At<'_>, objects: &ConfigObjects<'_>) -> Option<Source> {
    let mut fields = at.fields()?;
    let mut found = Vec::new();
    if let Some(at) = fields.get("fieldRef") {
        found.push(field_ref(&at, Asker::Variable).map(Source::Field));
    }
    if let Some(at) = fields.get("resourceFieldRef") {
        found.push(resource_ref(&at, Asker::Variable).map(Source::Resource));
    }
    for (name, secret) in [("configMapKeyRef", false), ("secretKeyRef", true)] {
        if let Some(at) = fields.get(name) {
            let value = objects.value(&at, secret);
            found.push(value.map(|value| Source::Given(Secrecy::new(value, secret))));
        }
    }
    fields.refused(
        &["fileKeyRef"],
        "variables are not read from a volume's files: give a ConfigMap instead",
    );
    fields.finish();
    if found.len() != 1 {
        at.refuse("give one of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef");
        return None;
    }
    found.remove(0)
}

/// Printable ASCII without `=`, as Kubernetes has it.
fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=')
}

/// A `fieldRef`.
pub(crate) fn field_ref(at: &At<'_>, asker: Asker) -> Option<FieldRef> {
    let mut fields = at.fields()?;
    if let Some(version) = fields
        .get("apiVersion")
        .filter(|at| at.node.scalar() != Some("v1"))
    {
        version.refuse("give v1");
    }
    let path = fields.required("fieldPath");
    fields.finish();
    let at = path?;
    let path = at.text()?;
    let found = field_path(&path).filter(|field| allowed(field, asker));
    if found.is_none() {
        let ways = match asker {
            Asker::Variable => {
                "metadata.name, metadata.namespace, metadata.uid, metadata.labels['KEY'], metadata.annotations['KEY'], \
                 spec.nodeName, spec.serviceAccountName, status.hostIP, status.hostIPs, status.podIP or status.podIPs"
            }
            Asker::File => {
                "metadata.name, metadata.namespace, metadata.uid, metadata.labels, metadata.annotations, \
                 metadata.labels['KEY'] or metadata.annotations['KEY']"
            }
        };
        at.refuse(format!("{path:?}: give {ways}"));
    }
    found
}

fn allowed(field: &FieldRef, asker: Asker) -> bool {
    match field {
        FieldRef::Labels | FieldRef::Annotations => asker == Asker::File,
        FieldRef::NodeName
        | FieldRef::ServiceAccount
        | FieldRef::HostIp
        | FieldRef::PodIp
        | FieldRef::PodIps => asker == Asker::Variable,
        _ => true,
    }
}

fn field_path(path: &str) -> Option<FieldRef> {
    let key = |of: &str| {
        let inside = path.strip_prefix(of)?.strip_prefix("['")?.strip_suffix("']")?;
        Some(inside.to_owned()).filter(|key| !key.is_empty())
    };
    Some(match path {
        "metadata.name" => FieldRef::Name,
        "metadata.namespace" => FieldRef::Namespace,
        "metadata.uid" => FieldRef::Uid,
        "metadata.labels" => FieldRef::Labels,
        "metadata.annotations" => FieldRef::Annotations,
        "spec.nodeName" => FieldRef::NodeName,
        "spec.serviceAccountName" => FieldRef::ServiceAccount,
        "status.hostIP" | "status.hostIPs" => FieldRef::HostIp,
        "status.podIP" => FieldRef::PodIp,
        "status.podIPs" => FieldRef::PodIps,
        _ => {
            return key("metadata.labels")
                .map(FieldRef::Label)
                .or_else(|| key("metadata.annotations").map(FieldRef::Annotation));
        }
    })
}

/// A `resourceFieldRef`; a file must say whose it means.
pub(crate) fn resource_ref(at: &At<'_>, asker: Asker) -> Option<ResourceRef> {
    let mut fields = at.fields()?;
    let container = if asker == Asker::File {
        fields.required("containerName").and_then(|at| at.text())
    } else {
        Some(fields.text("containerName"))
    };
    let resource = fields.required("resource").and_then(|at| at.one_of(&RESOURCES));
    let divisor = fields.get("divisor").and_then(|at| at.quantity());
    fields.finish();
    Some(ResourceRef {
        container: container?,
        resource: resource?,
        divisor: divisor
            .filter(|divisor| !divisor.is_zero())
            .unwrap_or(Quantity::whole(1)),
    })
}
