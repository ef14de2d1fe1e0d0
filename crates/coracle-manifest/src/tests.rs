//! Manifests whole: what is honoured, ignored and refused.

use crate::{Facts, File, Pod, Reading, Resolver, Weight, read};

/// A pod of a text that must be clean.
pub(crate) fn pod(text: &str) -> Pod {
    let mut reading = reading(text);
    assert!(reading.problems.is_empty(), "{:#?}", reading.problems);
    reading.pods.remove(0)
}

fn reading(text: &str) -> Reading {
    let file = File {
        name: "pod.yaml".into(),
        text: text.into(),
    };
    read(&[file], &[])
}

fn said(text: &str) -> String {
    reading(text)
        .problems
        .iter()
        .map(|problem| format!("{problem}\n"))
        .collect()
}

fn facts() -> Facts {
    Facts {
        uid: "uid-1".into(),
        node_name: "node-1".into(),
        host_ip: "192.0.2.1".into(),
        pod_ips: vec!["10.1.0.7".into(), "fd00::7".into()],
        memory: 4 << 30,
        cpus: 2,
        resolver: Resolver::default(),
    }
}

const FULL: &str = include_str!("tests/full.yaml");
const WRONG: &str = include_str!("tests/wrong.yaml");
const IGNORED: &str = include_str!("tests/ignored.yaml");

#[test]
fn a_pod_with_every_honoured_field_is_read() {
    let reading = reading(FULL);
    assert!(reading.problems.is_empty(), "{:#?}", reading.problems);
    insta::assert_debug_snapshot!("full", reading.pods);
}

#[test]
fn what_a_container_gets_is_resolved() {
    let pod = pod(FULL);
    let second = reading(FULL).pods.remove(1);
    let container = &pod.containers[0];
    let environment = pod.environment(container, &facts());
    let files: Vec<_> = pod
        .volumes
        .iter()
        .filter_map(|volume| match &volume.source {
            crate::VolumeSource::Files(files) => Some(files),
            _ => None,
        })
        .flatten()
        .map(|file| {
            (
                &file.path,
                file.mode,
                String::from_utf8_lossy(&pod.file_content(&file.content, &facts())).into_owned(),
            )
        })
        .collect();
    insta::assert_debug_snapshot!(
        "resolved",
        (
            Pod::words(&container.command, &environment),
            Pod::words(&container.args, &environment),
            &environment,
            second.environment(&second.containers[0], &facts()),
            files,
            container
                .mounts
                .iter()
                .map(|mount| Pod::sub_path(mount, &environment))
                .collect::<Vec<_>>(),
            pod.limits(container, facts().memory),
            pod.hosts_file(&facts()),
            pod.resolver(&Resolver {
                servers: vec!["192.0.2.53".into()],
                searches: vec!["lan".into()],
                options: vec!["ndots:1".into()]
            }),
        )
    );
}

#[test]
fn every_mistake_is_named_at_once() {
    insta::assert_snapshot!("wrong", said(WRONG));
    assert!(
        reading(WRONG)
            .problems
            .iter()
            .all(|problem| problem.weight == Weight::Refused)
    );
}

#[test]
fn every_field_that_is_not_honoured_is_named() {
    insta::assert_snapshot!("ignored", said(IGNORED));
    assert!(
        reading(IGNORED)
            .problems
            .iter()
            .all(|problem| problem.weight == Weight::Ignored)
    );
    assert_eq!(reading(IGNORED).pods.len(), 2);
}

#[test]
fn a_secret_does_not_show_itself() {
    let text = format!("{:?}", reading(FULL).pods);
    assert!(!text.contains("swordfish"), "{text}");
}

#[test]
fn pods_of_lists_templates_and_json_are_found() {
    let list = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a}\n  spec: {containers: [{name: c, image: i}]}\n";
    assert_eq!(pod(list).name, "a");
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"j"},"spec":{"containers":[{"name":"c","image":"i:1"}]}}"#;
    assert_eq!(pod(json).containers[0].pull, crate::PullPolicy::IfNotPresent);
    let job = "apiVersion: batch/v1\nkind: Job\nmetadata: {name: job}\nspec:\n  template:\n    metadata: {labels: {a: b}}\n    spec: {restartPolicy: Never, containers: [{name: c, image: i}]}\n";
    assert_eq!(
        (pod(job).name, pod(job).labels["a"].as_str()),
        ("job".to_owned(), "b")
    );
}

#[test]
fn objects_come_from_other_files_and_namespaces_are_kept_apart() {
    let user = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: NS}\nspec: {containers: [{name: c, image: i, envFrom: [{configMapRef: {name: m}}]}]}\n";
    let map = File {
        name: "map.yaml".into(),
        text: "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: team}\ndata: {A: a}\n".into(),
    };
    let of = |namespace: &str| {
        let file = File {
            name: "pod.yaml".into(),
            text: user.replace("NS", namespace),
        };
        read(&[file], std::slice::from_ref(&map))
    };
    let found = of("team");
    assert!(found.problems.is_empty(), "{found:?}");
    assert_eq!(
        found.pods[0].environment(&found.pods[0].containers[0], &facts()),
        [("A".into(), "a".into())]
    );
    let missing = of("other");
    assert!(
        missing.problems[0].to_string().contains("--configmap"),
        "{missing:?}"
    );
}

#[test]
fn restarts_go_by_policy_and_kind() {
    let text = |policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  restartPolicy: {policy}\n  initContainers: [{{name: i, image: i}}, {{name: s, image: i, restartPolicy: Always}}]\n  containers: [{{name: c, image: i}}]\n"
        )
    };
    for (policy, init, container) in [
        ("Always", [false, true], [true, true]),
        ("OnFailure", [false, true], [false, true]),
        ("Never", [false, false], [false, false]),
    ] {
        let pod = pod(&text(policy));
        let both = |container| [pod.restarts(container, 0), pod.restarts(container, 1)];
        assert_eq!(both(&pod.init_containers[0]), init, "{policy}");
        assert_eq!(both(&pod.init_containers[1]), [true, true], "{policy}: a sidecar");
        assert_eq!(both(&pod.containers[0]), container, "{policy}");
    }
}
