//! The .proto files of the CRI against a table of its wire contract, and what `Debug` gives away.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};

use coracle_proto::{admin, cri};
use protox::prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, Kind};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let mut compiler = protox::Compiler::new([root]).unwrap();
    compiler
        .open_files([
            "runtime/v1/runtime_service.proto",
            "runtime/v1/image_service.proto",
        ])
        .unwrap();
    compiler.descriptor_pool()
}

/// `type` as the table spells it.
fn spelled(field: &FieldDescriptor) -> String {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else {
            unreachable!("a map is a message")
        };
        return format!(
            "map<{},{}>",
            kind(&entry.map_entry_key_field().kind()),
            kind(&entry.map_entry_value_field().kind())
        );
    }
    let list = if field.cardinality() == Cardinality::Repeated {
        "[]"
    } else {
        ""
    };
    format!("{list}{}", kind(&field.kind()))
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.name().to_owned(),
        Kind::Enum(of) => of.name().to_owned(),
        Kind::String => "string".to_owned(),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// Every line of the table, made from what the .proto files compile to.
fn lines(pool: &DescriptorPool) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    for service in pool.services() {
        for method in service.methods() {
            assert!(!method.is_client_streaming());
            lines.insert(format!(
                "rpc {}.{} {} {}{}",
                service.name(),
                method.name(),
                method.input().name(),
                if method.is_server_streaming() {
                    "stream "
                } else {
                    ""
                },
                method.output().name()
            ));
        }
    }
    for message in pool
        .all_messages()
        .filter(|m| m.package_name() == "runtime.v1" && !m.is_map_entry())
    {
        let fields: BTreeMap<u32, String> = message
            .fields()
            .map(|field| {
                let options = field.options();
                let redacted = options
                    .get_field_by_name("debug_redact")
                    .is_some_and(|v| v.as_bool() == Some(true));
                let text = format!(
                    " {}:{}:{}{}",
                    field.number(),
                    spelled(&field),
                    field.name(),
                    if redacted { "!" } else { "" }
                );
                (field.number(), text)
            })
            .collect();
        lines.insert(format!(
            "message {}{}",
            message.name(),
            fields.into_values().collect::<String>()
        ));
    }
    for of in pool.all_enums().filter(|e| e.package_name() == "runtime.v1") {
        let values: BTreeMap<i32, String> = of
            .values()
            .map(|v| (v.number(), format!(" {}={}", v.number(), v.name())))
            .collect();
        let name = of.full_name().trim_start_matches("runtime.v1.");
        lines.insert(format!("enum {name}{}", values.into_values().collect::<String>()));
    }
    lines
}

/// The table lists fields in the order of the contract's prose; numbers are what counts.
fn sorted(line: &str) -> String {
    let Some(rest) = line.strip_prefix("message ") else {
        return line.to_owned();
    };
    let mut words = rest.split(' ');
    let name = words.next().unwrap_or_default();
    let fields: BTreeMap<u32, &str> = words
        .map(|word| (word.split(':').next().unwrap().parse().unwrap(), word))
        .collect();
    let mut text = format!("message {name}");
    for field in fields.into_values() {
        text.push(' ');
        text.push_str(field);
    }
    text
}

#[test]
fn the_proto_files_are_the_wire_contract() {
    let table: BTreeSet<String> = include_str!("cri-v1.txt")
        .lines()
        .filter(|l| !l.starts_with('#'))
        .map(sorted)
        .collect();
    let ours = lines(&pool());
    let missing: Vec<_> = table.difference(&ours).collect();
    let foreign: Vec<_> = ours.difference(&table).collect();
    assert!(
        missing.is_empty() && foreign.is_empty(),
        "missing {missing:#?}\nforeign {foreign:#?}"
    );
    assert_eq!(table.iter().filter(|line| line.starts_with("rpc ")).count(), 43);
}

#[test]
fn secrets_are_not_printed() {
    let auth = cri::AuthConfig {
        username: "me".into(),
        password: "hunter2".into(),
        auth: "bWU6aHVudGVyMg==".into(),
        server_address: "r.example".into(),
        identity_token: "identity-hunter2".into(),
        registry_token: String::new(),
    };
    let request = cri::PullImageRequest {
        auth: Some(auth),
        ..Default::default()
    };
    for text in [format!("{request:?}"), format!("{request:#?}")] {
        assert!(!text.contains("hunter2") && !text.contains("bWU6"), "{text}");
        assert!(
            text.contains("me") && text.contains("r.example") && text.contains("[redacted]"),
            "{text}"
        );
    }
    let pull = admin::PullRequest {
        reference: "a/b".into(),
        credentials: Some(admin::Credentials {
            registry_token: "hunter2".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let text = format!("{pull:?}");
    assert!(!text.contains("hunter2") && text.contains("a/b"), "{text}");
}
