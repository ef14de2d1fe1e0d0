//! Builds the setuid program of one test image, so that no compiler is asked for when tests run.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let source = "src/image/effective_uid.rs";
    println!("cargo::rerun-if-changed={source}");
    let variable = |name: &str| std::env::var(name).expect("cargo sets it for build scripts");
    let program = PathBuf::from(variable("OUT_DIR")).join("effective_uid");
    let status = Command::new(variable("RUSTC"))
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "-Copt-level=s",
            "-Cstrip=symbols",
            "-Cpanic=abort",
        ])
        .args(["-Ctarget-feature=+crt-static", "-Crelocation-model=static"])
        .arg(format!("--target={}", variable("TARGET")))
        .arg("-o")
        .arg(program)
        .arg(source)
        .status()
        .expect("the compiler that builds this crate can be run");
    assert!(status.success(), "cannot build {source}");
}
