//! The shim's extension service: messages for rust-protobuf, client and server for async ttrpc.

use std::path::{Path, PathBuf};
use std::{env, fs};

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

/// Compiles `proto/shim_ext.proto` into `OUT_DIR/shim`.
pub(crate) fn generate() {
    let proto = Path::new("proto/shim_ext.proto");
    println!("cargo::rerun-if-changed={}", proto.display());
    let out =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts")).join("shim");
    fs::create_dir_all(&out).expect("OUT_DIR can be written");
    Codegen::new()
        .input(proto)
        .include("proto")
        .rust_protobuf()
        .rust_protobuf_customize(ProtobufCustomize::default().generate_accessors(false))
        .customize(Customize {
            async_all: true,
            ..Customize::default()
        })
        .out_dir(&out)
        .run()
        .expect("proto/shim_ext.proto compiles");
    for name in ["shim_ext.rs", "shim_ext_ttrpc.rs"] {
        without_inner_attributes(&out.join(name));
    }
}

/// `include!` takes no inner attributes or inner documentation (rust-lang/rust#18810).
fn without_inner_attributes(path: &Path) {
    let text = fs::read_to_string(path).expect("the generator wrote it");
    let kept: String = text
        .lines()
        .filter(|line| !line.starts_with("#!") && !line.starts_with("//!"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(path, kept).expect("OUT_DIR can be written");
}
