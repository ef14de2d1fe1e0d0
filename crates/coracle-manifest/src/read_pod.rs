//! Reading pods: metadata and specification.

use std::collections::BTreeMap;

use crate::config_objects::{ConfigObject, ConfigObjects};
use crate::fields::{At, Fields};
use crate::names;
use crate::pod::{Dns, DnsPolicy, HostAlias, Pod, PodSecurity, Resolver, RestartPolicy, Sharing};
use crate::read_container::{Context, RESTART, containers};
use crate::security;
use crate::volumes::volumes;

/// Fields that place a pod, with what there is instead.
const PLACING: [&str; 10] = [
    "affinity",
    "nodeSelector",
    "nodeName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "tolerations",
    "topologySpreadConstraints",
    "workloadRef",
    "preemptionPolicy",
];

/// What a manifest says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// `metadata`; a template needs no name.
pub(crate) fn metadata(at: &At<'_>, needs_name: bool) -> Option<Metadata> {
    let mut fields = at.fields()?;
    let name = match fields.get("name") {
        Some(at) => names::subdomain(&at),
        None => fields
            .get("generateName")
            .and_then(|at| at.text())
            .map(|prefix| prefix.trim_end_matches(['-', '.']).to_owned()),
    };
    if needs_name && name.is_none() && fields.get("name").is_none() {
        fields.required("name");
    }
    fields.ignored(
        &[
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ],
        "an API server writes it, and there is none",
    );
    let namespace = fields.get("namespace").and_then(|at| names::label(&at));
    let mut map = |name| fields.get(name).map(|at| at.text_map()).unwrap_or_default();
    let metadata = Metadata {
        name: name.unwrap_or_default(),
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        labels: map("labels"),
        annotations: map("annotations"),
    };
    fields.finish();
    Some(metadata)
}

/// `spec` of a pod or of a workload's template.
pub(crate) fn pod(at: &At<'_>, source: &str, metadata: Metadata, all: &[ConfigObject]) -> Option<Pod> {
    let mut fields = at.fields()?;
    let objects = ConfigObjects {
        all,
        namespace: &metadata.namespace,
    };
    let sharing = sharing(&mut fields);
    let security = security::pod(&mut fields);
    let volumes = volumes(&mut fields, &objects);
    let context = Context {
        objects,
        security: &security,
        volumes: &volumes,
        host_network: sharing.host_network,
        shares_processes: sharing.processes,
    };
    let mut taken = Vec::new();
    let init_containers = containers(&mut fields, "initContainers", context, &mut taken);
    let containers = containers(&mut fields, "containers", context, &mut taken);
    if fields
        .at
        .node
        .get("containers")
        .is_none_or(crate::node::Node::is_empty)
    {
        fields
            .at
            .refuse("has no containers: give at least one under spec.containers");
    }
    not_honoured(&mut fields);
    let pod = Pod {
        source: source.to_owned(),
        hostname: hostname(&mut fields, &metadata.name),
        subdomain: fields
            .get("subdomain")
            .and_then(|at| names::label(&at))
            .unwrap_or_default(),
        fqdn_as_hostname: fields.bool("setHostnameAsFQDN").unwrap_or(false),
        name: metadata.name,
        namespace: metadata.namespace,
        labels: metadata.labels,
        annotations: metadata.annotations,
        init_containers,
        containers,
        restart_policy: fields
            .get("restartPolicy")
            .and_then(|at| at.one_of(&RESTART))
            .unwrap_or(RestartPolicy::Always),
        grace_seconds: fields
            .get("terminationGracePeriodSeconds")
            .and_then(|at| at.count(0))
            .unwrap_or(30),
        active_deadline_seconds: fields.get("activeDeadlineSeconds").and_then(|at| at.count(1)),
        sharing,
        host_aliases: host_aliases(&mut fields),
        dns: dns(&mut fields, sharing.host_network),
        runtime_class: fields
            .get("runtimeClassName")
            .and_then(|at| names::subdomain(&at))
            .unwrap_or_default(),
        service_account: service_account(&mut fields),
        volumes: Vec::new(),
        security: PodSecurity::default(),
    };
    fields.finish();
    Some(Pod {
        volumes,
        security,
        ..pod
    })
}

fn sharing(fields: &mut Fields<'_>) -> Sharing {
    let host_pid = fields.bool("hostPID").unwrap_or(false);
    let processes = fields.get("shareProcessNamespace");
    let shares = processes.as_ref().and_then(At::bool).unwrap_or(false);
    if let Some(at) = processes.filter(|_| shares && host_pid) {
        at.refuse("goes not together with hostPID: keep one of them");
    }
    Sharing {
        host_network: fields.bool("hostNetwork").unwrap_or(false),
        host_pid,
        host_ipc: fields.bool("hostIPC").unwrap_or(false),
        processes: shares,
    }
}

fn not_honoured(fields: &mut Fields<'_>) {
    fields.ignored(&PLACING, "there is one node, and the pod runs on it");
    fields.ignored(
        &["priority", "priorityClassName"],
        "no pod is ended in favour of another here",
    );
    fields.ignored(
        &["imagePullSecrets"],
        "give credentials to the daemon's registry configuration, or pull first with `coracle pull --username`",
    );
    fields.ignored(&["readinessGates"], "no controller sets conditions here");
    fields.ignored(&["overhead"], "there is no scheduler to count it");
    fields.ignored(
        &["resources"],
        "there is no cgroup of the whole pod: give each container its own limits",
    );
    fields.ignored(&["enableServiceLinks"], "there are no Services here");
    if let Some(at) = fields
        .get("automountServiceAccountToken")
        .filter(|at| at.bool() == Some(true))
    {
        at.ignore("there is no API server to issue a token");
    }
    if let Some(at) = fields.get("hostUsers").filter(|at| at.bool() == Some(false)) {
        at.refuse("nothing hands out ranges of user ids here: take it away, or run the pod under a kubelet");
    }
    fields.refused(
        &["resourceClaims"],
        "there is no driver that allots devices: take the field away",
    );
    fields.refused(
        &["ephemeralContainers"],
        "they are added to running pods: take `coracle exec`",
    );
    fields.refused(&["hostnameOverride"], "set hostname and subdomain instead");
    if let Some(mut os) = fields.get("os").and_then(|at| at.fields()) {
        if let Some(at) = os.required("name").filter(|at| at.node.scalar() != Some("linux")) {
            at.refuse(format!("{}: the node runs linux", at.shown()));
        }
        os.finish();
    }
}

fn service_account(fields: &mut Fields<'_>) -> String {
    fields.ignored(&["serviceAccount"], "it is the old name of serviceAccountName");
    match fields.get("serviceAccountName") {
        Some(at) => {
            at.ignore("there is no API server that would know the account");
            at.text().unwrap_or_default()
        }
        None => "default".to_owned(),
    }
}

/// At most 63 characters, as the kubelet cuts them.
fn hostname(fields: &mut Fields<'_>, pod: &str) -> String {
    let given = fields.get("hostname").and_then(|at| names::label(&at));
    let name = given.unwrap_or_else(|| pod.to_owned());
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

fn host_aliases(fields: &mut Fields<'_>) -> Vec<HostAlias> {
    let alias = |at: At<'_>| {
        let mut fields = at.fields()?;
        let ip = fields.required("ip").and_then(|at| {
            let text = at.text()?;
            let parsed = text.parse().ok();
            if parsed.is_none() {
                at.refuse(format!("{text:?}: give an address"));
            }
            parsed
        });
        let names = fields.get("hostnames").map(|at| at.list()).unwrap_or_default();
        let hostnames = names.iter().filter_map(names::subdomain).collect();
        fields.finish();
        Some(HostAlias { ip: ip?, hostnames })
    };
    let list = fields.get("hostAliases").map(|at| at.list()).unwrap_or_default();
    list.into_iter().filter_map(alias).collect()
}

fn dns(fields: &mut Fields<'_>, host_network: bool) -> Dns {
    let at = fields.get("dnsPolicy");
    let named = at.as_ref().and_then(|at| {
        at.one_of(&[
            ("ClusterFirst", DnsPolicy::Node),
            ("ClusterFirstWithHostNet", DnsPolicy::Node),
            ("Default", DnsPolicy::Node),
            ("None", DnsPolicy::None),
        ])
    });
    if let Some(at) = at.as_ref().filter(|at| {
        at.node
            .scalar()
            .is_some_and(|text| text.starts_with("ClusterFirst"))
    }) {
        let plain = at.node.scalar() == Some("ClusterFirst") && host_network;
        if !plain {
            at.ignore("there is no cluster's DNS: the node's resolver serves, as with Default");
        }
    }
    let policy = named.unwrap_or(DnsPolicy::Node);
    let own = fields
        .get("dnsConfig")
        .map(|at| resolver(&at))
        .unwrap_or_default();
    if let Some(at) = at.filter(|_| policy == DnsPolicy::None && own.servers.is_empty()) {
        at.refuse("None needs dnsConfig.nameservers");
    }
    Dns { policy, own }
}

fn resolver(at: &At<'_>) -> Resolver {
    let Some(mut fields) = at.fields() else {
        return Resolver::default();
    };
    let servers = fields.texts("nameservers");
    let searches = fields.texts("searches");
    let option = |at: At<'_>| {
        let mut fields = at.fields()?;
        let name = fields.required("name").and_then(|at| at.text());
        let value = fields.text("value");
        fields.finish();
        let name = name?;
        Some(if value.is_empty() {
            name
        } else {
            format!("{name}:{value}")
        })
    };
    let list = fields.get("options").map(|at| at.list()).unwrap_or_default();
    let options = list.into_iter().filter_map(option).collect();
    fields.finish();
    Resolver {
        servers,
        searches,
        options,
    }
}
