//! Security contexts of pods and containers.

use std::collections::BTreeMap;

use crate::container::{ContainerSecurity, SeccompProfile, Selinux};
use crate::fields::{At, Fields};
use crate::pod::PodSecurity;

/// The largest id that Kubernetes takes.
const ID_MAX: i64 = i32::MAX as i64;

/// `spec.securityContext`.
pub(crate) fn pod(fields: &mut Fields<'_>) -> PodSecurity {
    let Some(mut inner) = fields.get("securityContext").and_then(|at| at.fields()) else {
        return PodSecurity::default();
    };
    inner.ignored(&["windowsOptions"], "the node runs Linux");
    inner.ignored(&["seLinuxChangePolicy"], "volumes are not relabelled");
    let mut security = PodSecurity {
        fs_group: id(&mut inner, "fsGroup"),
        fs_group_on_root_mismatch: inner
            .get("fsGroupChangePolicy")
            .and_then(|at| at.one_of(&[("Always", false), ("OnRootMismatch", true)]))
            .unwrap_or(false),
        supplemental_groups: groups(&mut inner),
        strict_groups: inner
            .get("supplementalGroupsPolicy")
            .and_then(|at| at.one_of(&[("Merge", false), ("Strict", true)]))
            .unwrap_or(false),
        sysctls: sysctls(&mut inner),
        run_as_user: id(&mut inner, "runAsUser"),
        run_as_group: id(&mut inner, "runAsGroup"),
        run_as_non_root: inner.bool("runAsNonRoot"),
        ..PodSecurity::default()
    };
    security.seccomp = inner.get("seccompProfile").and_then(|at| profile(&at));
    security.apparmor = inner.get("appArmorProfile").and_then(|at| profile(&at));
    security.selinux = inner.get("seLinuxOptions").and_then(|at| selinux(&at));
    inner.finish();
    security
}

/// `securityContext` of a container, above the pod's.
pub(crate) fn container(fields: &mut Fields<'_>, pod: &PodSecurity) -> ContainerSecurity {
    let mut security = ContainerSecurity {
        run_as_user: pod.run_as_user,
        run_as_group: pod.run_as_group,
        run_as_non_root: pod.run_as_non_root.unwrap_or(false),
        seccomp: pod.seccomp.clone().unwrap_or_default(),
        apparmor: pod.apparmor.clone(),
        selinux: pod.selinux.clone(),
        ..ContainerSecurity::default()
    };
    let Some(at) = fields.get("securityContext") else {
        return security;
    };
    let Some(mut inner) = at.fields() else {
        return security;
    };
    inner.ignored(&["windowsOptions"], "the node runs Linux");
    security.privileged = inner.bool("privileged").unwrap_or(false);
    security.run_as_user = id(&mut inner, "runAsUser").or(security.run_as_user);
    security.run_as_group = id(&mut inner, "runAsGroup").or(security.run_as_group);
    security.run_as_non_root = inner.bool("runAsNonRoot").unwrap_or(security.run_as_non_root);
    security.read_only_root = inner.bool("readOnlyRootFilesystem").unwrap_or(false);
    security.allow_escalation = inner.bool("allowPrivilegeEscalation");
    security.unmasked_proc = inner
        .get("procMount")
        .and_then(|at| at.one_of(&[("Default", false), ("Unmasked", true)]))
        .unwrap_or(false);
    if let Some(mut fields) = inner.get("capabilities").and_then(|at| at.fields()) {
        security.add = fields.texts("add");
        security.drop = fields.texts("drop");
        fields.finish();
    }
    security.seccomp = inner
        .get("seccompProfile")
        .and_then(|at| profile(&at))
        .unwrap_or(security.seccomp);
    security.apparmor = inner
        .get("appArmorProfile")
        .and_then(|at| profile(&at))
        .or(security.apparmor);
    security.selinux = inner
        .get("seLinuxOptions")
        .and_then(|at| selinux(&at))
        .or(security.selinux);
    inner.finish();
    contradictions(&at, &security);
    security
}

fn contradictions(at: &At<'_>, security: &ContainerSecurity) {
    let all_powerful = |name: &String| matches!(name.as_str(), "SYS_ADMIN" | "CAP_SYS_ADMIN");
    if security.allow_escalation == Some(false) {
        if security.privileged {
            at.refuse("allowPrivilegeEscalation: false with privileged: true: keep one of them");
        } else if security.add.iter().any(all_powerful) {
            at.refuse("allowPrivilegeEscalation: false with the capability SYS_ADMIN: keep one of them");
        }
    }
    if security.run_as_non_root && security.run_as_user == Some(0) {
        at.refuse("runAsNonRoot: true with runAsUser: 0: name another user");
    }
}

fn id(fields: &mut Fields<'_>, name: &'static str) -> Option<i64> {
    fields.get(name)?.int(0, ID_MAX)
}

fn groups(fields: &mut Fields<'_>) -> Vec<i64> {
    let list = fields
        .get("supplementalGroups")
        .map(|at| at.list())
        .unwrap_or_default();
    list.iter().filter_map(|at| at.int(0, ID_MAX)).collect()
}

fn sysctls(fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    let one = |at: At<'_>| {
        let mut fields = at.fields()?;
        let name = fields.required("name").and_then(|at| at.text());
        let value = fields.required("value").and_then(|at| at.text());
        fields.finish();
        Some((name?, value?))
    };
    let list = fields.get("sysctls").map(|at| at.list()).unwrap_or_default();
    list.into_iter().filter_map(one).collect()
}

fn profile(at: &At<'_>) -> Option<SeccompProfile> {
    let mut fields = at.fields()?;
    let kind = fields
        .required("type")
        .and_then(|at| at.one_of(&[("RuntimeDefault", 0), ("Unconfined", 1), ("Localhost", 2)]));
    let path = fields.get("localhostProfile");
    fields.finish();
    match (kind?, path) {
        (2, Some(path)) => path.text().map(SeccompProfile::Localhost),
        (2, None) => {
            at.refuse("Localhost needs localhostProfile: the profile's name on the node");
            None
        }
        (_, Some(path)) => {
            path.refuse("goes with type: Localhost only");
            None
        }
        (0, None) => Some(SeccompProfile::RuntimeDefault),
        (_, None) => Some(SeccompProfile::Unconfined),
    }
}

fn selinux(at: &At<'_>) -> Option<Selinux> {
    let mut fields = at.fields()?;
    let label = Selinux {
        user: fields.text("user"),
        role: fields.text("role"),
        kind: fields.text("type"),
        level: fields.text("level"),
    };
    fields.finish();
    Some(label)
}
