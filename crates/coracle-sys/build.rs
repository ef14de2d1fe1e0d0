//! Compiles the programs that are included in this crate: stable cargo cannot put one crate's program into
//! another's, so the compiler is called on one file each.

use std::path::Path;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let source = "programs/pod_init.rs";
    println!("cargo::rerun-if-changed={source}");
    println!("cargo::rerun-if-changed=build.rs");
    let output = Path::new(&variable("OUT_DIR")).join("pod_init");
    let status = Command::new(variable("RUSTC"))
        .args([
            source,
            "--edition",
            "2024",
            "--crate-name",
            "pod_init",
            "--crate-type",
            "bin",
        ])
        .args(["--target", &variable("TARGET"), "-o"])
        .arg(&output)
        .args([
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
            "-C",
            "strip=symbols",
            "-C",
            "force-unwind-tables=no",
        ])
        .args([
            "-C",
            "relocation-model=static",
            "-C",
            "target-feature=+crt-static",
        ])
        .args([
            "-C",
            "link-arg=-nostartfiles",
            "-C",
            "link-arg=-nostdlib",
            "-C",
            "link-arg=-static",
        ])
        .args([
            "-C",
            "link-arg=-Wl,--build-id=none",
            "-C",
            "link-arg=-Wl,-z,noseparate-code",
        ])
        .status();
    match status {
        Ok(status) if status.success() => {}
        other => panic!("compiling {source}: {other:?}"),
    }
}
