//! Reading files: documents by their kind.

use crate::config_objects::{self, ConfigObject};
use crate::fields::{At, nearest};
use crate::node::{Node, Value};
use crate::pod::Pod;
use crate::read_pod::{self, Metadata};
use crate::report::{Problem, Report, Weight};
use crate::yaml;

/// A file's text and name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As problems name it.
    pub name: String,
    /// YAML or JSON, one document or several.
    pub text: String,
}

/// What came of reading.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Pods, in the order of the files; only to be run when no problem is [`Weight::Refused`].
    pub pods: Vec<Pod>,
    /// All that is wrong or not honoured.
    pub problems: Vec<Problem>,
}

/// Kinds whose template is run as one pod.
const WORKLOADS: [&str; 6] = [
    "DaemonSet",
    "Deployment",
    "Job",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];

/// Kinds that say something to a cluster and nothing to a node.
const OF_CLUSTERS: [&str; 28] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CSIDriver",
    "CustomResourceDefinition",
    "EndpointSlice",
    "Endpoints",
    "Gateway",
    "HTTPRoute",
    "HorizontalPodAutoscaler",
    "Ingress",
    "IngressClass",
    "Lease",
    "LimitRange",
    "MutatingWebhookConfiguration",
    "Namespace",
    "NetworkPolicy",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "PriorityClass",
    "ResourceQuota",
    "Role",
    "RoleBinding",
    "RuntimeClass",
    "Service",
    "ServiceAccount",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

/// Fields of workloads beside the template; what they ask of a controller, nobody does here.
const OF_CONTROLLERS: [&str; 26] = [
    "activeDeadlineSeconds",
    "backoffLimit",
    "backoffLimitPerIndex",
    "completionMode",
    "completions",
    "managedBy",
    "manualSelector",
    "maxFailedIndexes",
    "minReadySeconds",
    "ordinals",
    "parallelism",
    "paused",
    "persistentVolumeClaimRetentionPolicy",
    "podFailurePolicy",
    "podManagementPolicy",
    "podReplacementPolicy",
    "progressDeadlineSeconds",
    "replicas",
    "revisionHistoryLimit",
    "scheduling",
    "selector",
    "serviceName",
    "strategy",
    "successPolicy",
    "suspend",
    "ttlSecondsAfterFinished",
];

/// Reads files with pods, and files with nothing but ConfigMaps and Secrets for them.
#[must_use]
pub fn read(files: &[File], config_files: &[File]) -> Reading {
    let mut problems = Vec::new();
    let mut parsed: Vec<(&File, bool, Vec<Node>)> = Vec::new();
    let of_pods = files.iter().map(|file| (file, true));
    for (file, may_have_pods) in of_pods.chain(config_files.iter().map(|file| (file, false))) {
        match yaml::documents(&file.text) {
            Ok(documents) => parsed.push((file, may_have_pods, flattened(documents))),
            Err(error) => problems.push(Problem {
                source: file.name.clone(),
                line: error.line,
                path: String::new(),
                weight: Weight::Refused,
                words: error.words,
            }),
        }
    }
    let mut objects = Vec::new();
    for (file, _, documents) in &parsed {
        let report = Report::of(&file.name);
        objects.extend(documents.iter().filter_map(|node| config_object(node, &report)));
        problems.extend(report.into_problems());
    }
    let mut pods: Vec<Pod> = Vec::new();
    for (file, may_have_pods, documents) in &parsed {
        let report = Report::of(&file.name);
        for node in documents {
            let at = At::top(node, &report);
            let Some(pod) = document(&at, *may_have_pods, &file.name, &objects) else {
                continue;
            };
            if pods
                .iter()
                .any(|have| (&have.name, &have.namespace) == (&pod.name, &pod.namespace))
            {
                at.refuse(format!(
                    "another pod is called {}/{}: give each its own name",
                    pod.namespace, pod.name
                ));
            }
            pods.push(pod);
        }
        problems.extend(report.into_problems());
    }
    Reading { pods, problems }
}

/// Documents, with the items of lists in their places.
fn flattened(documents: Vec<Node>) -> Vec<Node> {
    let mut flat = Vec::new();
    for node in documents {
        let is_list = node.get("kind").and_then(Node::scalar) == Some("List");
        match node.get("items").map(|items| &items.value) {
            Some(Value::List(items)) if is_list => flat.extend(items.iter().cloned()),
            _ => flat.push(node),
        }
    }
    flat
}

fn config_object(node: &Node, report: &Report) -> Option<ConfigObject> {
    let at = At::top(node, report);
    match node.get("kind").and_then(Node::scalar) {
        Some("ConfigMap") => config_objects::read(&at, false),
        Some("Secret") => config_objects::read(&at, true),
        _ => None,
    }
}

fn document(at: &At<'_>, may_have_pods: bool, source: &str, objects: &[ConfigObject]) -> Option<Pod> {
    let mut fields = at.fields()?;
    fields.required("apiVersion");
    let kind_at = fields.required("kind")?;
    let kind = kind_at.text()?;
    match kind.as_str() {
        "ConfigMap" | "Secret" => None,
        _ if !may_have_pods => {
            kind_at.ignore(format!(
                "{kind}: only ConfigMaps and Secrets are taken from a file given with --configmap"
            ));
            None
        }
        "Pod" => pod(at, source, objects),
        name if WORKLOADS.contains(&name) => workload(at, &kind, source, objects),
        "CronJob" => {
            kind_at.refuse("CronJob: nothing here starts pods by the clock: give its jobTemplate as a Job");
            None
        }
        name if OF_CLUSTERS.contains(&name) => {
            kind_at.ignore(format!("{name}: there is no cluster that it could tell anything"));
            None
        }
        name => {
            let known: Vec<&str> = ["Pod", "ConfigMap", "Secret"]
                .into_iter()
                .chain(WORKLOADS)
                .chain(OF_CLUSTERS)
                .collect();
            let hint = nearest(name, &known)
                .map(|name| format!("did you mean {name}? "))
                .unwrap_or_default();
            kind_at.refuse(format!(
                "{name:?} is not known here: {hint}Pod, ConfigMap, Secret and {} are",
                WORKLOADS.join(", ")
            ));
            None
        }
    }
}

fn pod(at: &At<'_>, source: &str, objects: &[ConfigObject]) -> Option<Pod> {
    let mut fields = at.fields()?;
    version(&mut fields, &["v1"]);
    fields.get("kind");
    fields.ignored(
        &["status"],
        "it says how a pod was somewhere, not how it should be",
    );
    let metadata = fields
        .required("metadata")
        .and_then(|at| read_pod::metadata(&at, true));
    let spec = fields.required("spec");
    fields.finish();
    read_pod::pod(&spec?, source, metadata?, objects)
}

fn version(fields: &mut crate::fields::Fields<'_>, known: &[&str]) {
    if let Some(at) = fields.get("apiVersion")
        && !at.node.scalar().is_some_and(|text| known.contains(&text))
    {
        at.refuse(format!("{}: give {}", at.shown(), known.join(" or ")));
    }
}

/// One pod of a workload's template.
fn workload(at: &At<'_>, kind: &str, source: &str, objects: &[ConfigObject]) -> Option<Pod> {
    let mut fields = at.fields()?;
    version(
        &mut fields,
        match kind {
            "Job" => &["batch/v1"],
            "ReplicationController" => &["v1"],
            _ => &["apps/v1"],
        },
    );
    fields.get("kind");
    fields.ignored(
        &["status"],
        "it says how a workload was somewhere, not how it should be",
    );
    let metadata = fields
        .required("metadata")
        .and_then(|at| read_pod::metadata(&at, true));
    let spec = fields.required("spec");
    fields.finish();
    let (metadata, mut spec) = (metadata?, spec?.fields()?);
    spec.ignored(
        &OF_CONTROLLERS,
        &format!("no controller watches a {kind} here: one pod of its template runs"),
    );
    spec.ignored(
        &["updateStrategy"],
        &format!("no controller watches a {kind} here: one pod of its template runs"),
    );
    spec.refused(
        &["volumeClaimTemplates"],
        "there is nothing that binds claims: take hostPath or emptyDir in the template",
    );
    let template = spec.required("template");
    spec.finish();
    let mut template = template?.fields()?;
    let inner = template
        .get("metadata")
        .and_then(|at| read_pod::metadata(&at, false))
        .unwrap_or_default();
    let spec = template.required("spec");
    template.finish();
    let spec = spec?;
    let metadata = Metadata {
        labels: inner.labels,
        annotations: inner.annotations,
        ..metadata
    };
    if spec.node.get("restartPolicy").is_none() && kind == "Job" {
        spec.refuse("a Job's template needs restartPolicy: Never or OnFailure");
    }
    read_pod::pod(&spec, source, metadata, objects)
}
