//! Commands that cannot be executed, and users that the image does not know.

use std::time::Duration;

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_testkit::image::debian::busybox_root;
use coracle_testkit::image::{Compression, Image, ImageBuilder};
use coracle_tests::Bed;
use tonic::Code;

use crate::refused;

const X86_64: u16 = 62;
const AARCH64: u16 = 183;

/// An ELF program of nothing but its headers, and of the interpreter that it asks for.
fn elf(machine: u16, interpreter: &str) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    let named = !interpreter.is_empty();
    let headers: u16 = if named { 2 } else { 1 };
    let place = HEADER + PROGRAM_HEADER * u64::from(headers);
    let name = interpreter.len() as u64 + 1;
    let (base, entry) = (0x40_0000_u64, 0x40_0000 + place + name);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let half = |file: &mut Vec<u8>, number: u16| file.extend(number.to_le_bytes());
    let word = |file: &mut Vec<u8>, number: u32| file.extend(number.to_le_bytes());
    let long = |file: &mut Vec<u8>, number: u64| file.extend(number.to_le_bytes());
    // ET_EXEC, the machine, version 1; entry, program headers, no section headers; sizes (elf(5)).
    half(&mut file, 2);
    half(&mut file, machine);
    word(&mut file, 1);
    for number in [entry, HEADER, 0] {
        long(&mut file, number);
    }
    word(&mut file, 0);
    for number in [64, 56, headers, 64, 0, 0] {
        half(&mut file, number);
    }
    let mut header = |kind: u32, offset: u64, size: u64, alignment: u64| {
        word(&mut file, kind);
        word(&mut file, 5);
        for number in [offset, base + offset, base + offset, size, size, alignment] {
            long(&mut file, number);
        }
    };
    if named {
        header(3, place, name, 1);
    }
    header(1, 0, place + name, 0x1000);
    file.extend(interpreter.bytes().chain([0]));
    file
}

fn image() -> Result<Image> {
    let layer = busybox_root()?
        .directory("/directory", 0o755)
        .file("/plain", 0o644, "not executable")
        .file("/text", 0o755, "no program at all\n")
        .file("/empty", 0o755, "")
        .file("/foreign", 0o755, elf(AARCH64, ""))
        .file("/lost.sh", 0o755, "#!/no/such/shell -e\n")
        .file("/odd.sh", 0o755, "#!/directory\n")
        .file("/closed.sh", 0o755, "#!/plain\n")
        .file("/lost", 0o755, elf(X86_64, "/lib/no-such-loader.so"))
        .file("/odd", 0o755, elf(X86_64, "/text"));
    Ok(ImageBuilder::new()
        .layer(layer.build(), Compression::Gzip)
        .env("PATH=/bin")
        .build())
}

/// Case, command, code, and what the words hold.
type Case = (&'static str, &'static str, Code, &'static [&'static str]);

fn cases() -> Vec<Case> {
    let invalid = Code::InvalidArgument;
    vec![
        (
            "missing command",
            "/no/such",
            Code::NotFound,
            &["/no/such", "no such file"],
        ),
        (
            "command not in PATH",
            "no-such",
            Code::NotFound,
            &["no-such", "PATH", "/bin"],
        ),
        ("command below a file", "/plain/x", Code::NotFound, &["/plain/x"]),
        (
            "command is a directory",
            "/directory",
            invalid,
            &["/directory", "directory"],
        ),
        (
            "command not executable",
            "/plain",
            Code::PermissionDenied,
            &["/plain", "chmod"],
        ),
        ("command is no program", "/text", invalid, &["/text", "#!"]),
        ("command is empty", "/empty", invalid, &["/empty"]),
        (
            "command for another machine",
            "/foreign",
            invalid,
            &["/foreign", "aarch64", "x86_64"],
        ),
        (
            "interpreter of a script missing",
            "/lost.sh",
            invalid,
            &["/lost.sh", "/no/such/shell"],
        ),
        (
            "interpreter of a script is a directory",
            "/odd.sh",
            invalid,
            &["/odd.sh", "/directory"],
        ),
        (
            "interpreter of a script not executable",
            "/closed.sh",
            invalid,
            &["/closed.sh", "\"/plain\""],
        ),
        (
            "dynamic loader missing",
            "/lost",
            invalid,
            &["/lost", "/lib/no-such-loader.so"],
        ),
        (
            "dynamic loader is no program",
            "/odd",
            invalid,
            &["/odd", "\"/text\""],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_cannot_be_executed() -> Result<()> {
    let bed = Bed::make().await?;
    let image = bed.pull(&image()?, "commands").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("commands")).await?;
    for (case, command, code, parts) in cases() {
        let name = command.replace('/', "x");
        let container = pod.create(&ContainerSpec::new(&name, &image, &[command])).await?;
        let words = refused(case, container.start().await, code, parts);
        // The container says so, too, in containerd's words.
        let status = container.status().await?;
        assert_eq!(status.state(), cri::ContainerState::ContainerExited, "{case}");
        assert_eq!(
            (status.reason.as_str(), status.exit_code),
            ("StartError", 128),
            "{case}"
        );
        assert!(
            words.contains(&status.message),
            "{case}: {} is not {words}",
            status.message
        );
        container.remove().await?;
    }
    pod.remove().await?;
    bed.runtime.remove_image(&image).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn execs_that_cannot_be() -> Result<()> {
    let bed = Bed::make().await?;
    let image = bed.pull(&image()?, "execs").await?;
    let pod = bed.runtime.run_pod(PodSpec::new("execs")).await?;
    let container = pod.run(&ContainerSpec::idle("execs", &image)).await?;
    refused(
        "exec for another machine",
        container.exec(&["/foreign"]).await,
        Code::InvalidArgument,
        &["/foreign", "aarch64"],
    );
    refused(
        "exec whose interpreter is missing",
        container.exec(&["/lost.sh"]).await,
        Code::InvalidArgument,
        &["/lost.sh", "/no/such/shell"],
    );
    // The container goes on as if nothing had been.
    assert_eq!(container.exec(&["true"]).await?.code, 0);
    container.stop(Duration::ZERO).await?;
    pod.remove().await?;
    bed.runtime.remove_image(&image).await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_groups_that_the_image_does_not_know() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed.runtime.run_pod(PodSpec::new("users")).await?;
    let root = busybox_root()?.build();
    for (case, user, parts) in [
        ("user of the image unknown", "ghost", ["ghost", "/etc/passwd"]),
        (
            "group of the image unknown",
            "root:ghosts",
            ["ghosts", "/etc/group"],
        ),
        (
            "user of the image too large",
            "4294967296",
            ["4294967296", "User of the image"],
        ),
    ] {
        let image = ImageBuilder::new()
            .layer(root.clone(), Compression::Gzip)
            .user(user)
            .build();
        let reference = bed.pull(&image, &format!("user-{}", user.len())).await?;
        let answer = pod
            .create(&ContainerSpec::new("user", &reference, &["true"]))
            .await;
        refused(case, answer.map(drop), Code::InvalidArgument, &parts);
        bed.runtime.remove_image(&reference).await?;
    }
    let spec = ContainerSpec::new("user", &bed.busybox, &["true"])
        .security(|security| security.run_as_username = "ghost".into());
    let answer = pod.create(&spec).await;
    refused(
        "run_as_username unknown",
        answer.map(drop),
        Code::InvalidArgument,
        &["run_as_username", "ghost", "/etc/passwd"],
    );
    pod.remove().await?;
    bed.leave().await
}
