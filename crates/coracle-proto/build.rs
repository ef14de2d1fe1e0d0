//! Generates Rust from the project's .proto files without protoc.

mod build_cri;
mod build_shim;

fn main() {
    build_cri::generate();
    build_shim::generate();
}
