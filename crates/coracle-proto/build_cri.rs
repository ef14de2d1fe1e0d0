//! Types and services of the CRI and of the admin service: prost and tonic, fed by protox.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use protox::prost_reflect::{Cardinality, Kind, MessageDescriptor};

/// The files that name all others: each package's services.
const ROOTS: [&str; 3] = [
    "runtime/v1/runtime_service.proto",
    "runtime/v1/image_service.proto",
    "coracle/admin/v1/admin.proto",
];

/// Compiles `proto/runtime` and `proto/coracle/admin` into `OUT_DIR`: `runtime.v1.rs`,
/// `coracle.admin.v1.rs` and, for messages with fields that are marked `debug_redact`,
/// `<package>.redacted.rs` with a `Debug` that leaves these fields out.
pub(crate) fn generate() {
    println!("cargo::rerun-if-changed=proto/runtime");
    println!("cargo::rerun-if-changed=proto/coracle");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));

    let mut compiler = protox::Compiler::new(["proto"]).expect("proto/ is a directory");
    compiler.include_imports(true).include_source_info(true);
    compiler
        .open_files(ROOTS)
        .unwrap_or_else(|error| panic!("{error:?}"));

    let secretive: Vec<MessageDescriptor> = compiler
        .descriptor_pool()
        .all_messages()
        .filter(|message| message.fields().any(|field| is_redacted(&field)))
        .collect();
    for package in ["runtime.v1", "coracle.admin.v1"] {
        write_debug(&out, package, &secretive);
    }

    tonic_prost_build::configure()
        .btree_map(".")
        .skip_debug(
            secretive
                .iter()
                .map(|message| format!(".{}", message.full_name())),
        )
        .compile_fds(compiler.file_descriptor_set())
        .expect("the generators accept what protox compiled");
}

fn is_redacted(field: &protox::prost_reflect::FieldDescriptor) -> bool {
    field
        .options()
        .get_field_by_name("debug_redact")
        .is_some_and(|value| value.as_bool() == Some(true))
}

/// prost's derived `Debug` knows nothing of the mark, so its messages get one of their own.
fn write_debug(out: &Path, package: &str, secretive: &[MessageDescriptor]) {
    let mut text = String::new();
    for message in secretive
        .iter()
        .filter(|message| message.package_name() == package)
    {
        let name = message.name();
        assert!(
            message.parent_message().is_none(),
            "{name}: marks in nested messages are not supported"
        );
        let _ = writeln!(
            text,
            "impl ::core::fmt::Debug for {name} {{\n    \
             fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{\n        \
             let mut text = f.debug_struct({name:?});"
        );
        for field in message.fields() {
            let field_name = field.name();
            let plain = field.cardinality() != Cardinality::Repeated
                && matches!(field.kind(), Kind::String | Kind::Bytes);
            if is_redacted(&field) {
                assert!(plain, "{name}.{field_name}: only strings and bytes can be marked");
                let _ = writeln!(
                    text,
                    "        text.field({field_name:?}, &if self.{field_name}.is_empty() {{ \"\" }} \
                     else {{ \"[redacted]\" }});"
                );
            } else {
                let _ = writeln!(text, "        text.field({field_name:?}, &self.{field_name});");
            }
        }
        text.push_str("        text.finish()\n    }\n}\n");
    }
    fs::write(out.join(format!("{package}.redacted.rs")), text).expect("OUT_DIR can be written");
}
