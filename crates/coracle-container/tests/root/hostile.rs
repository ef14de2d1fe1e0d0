//! What an image, a sibling or a specification may try.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use serde_json::json;

use crate::fixture::{
    Image, busybox, exec_shell, finish, process, run, spec, start, stop, try_create, try_exec,
};
use coracle_container::ExecTree;

pub(crate) const TESTS: &[super::Test] = &[
    ("root_an_image_of_links_does_not_touch_the_host", links),
    ("root_a_null_device_of_the_image_masks_nothing", fake_null),
    (
        "root_a_working_directory_cannot_leave_the_root",
        working_directory,
    ),
    ("root_the_joining_process_cannot_be_inspected", inspection),
    ("root_mounts_of_a_container_are_not_on_the_host", invisible),
    ("root_long_fields_are_carried_or_refused", long_fields),
];

fn tree(path: &Path) -> BTreeMap<String, (u64, u32, u64)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let stat = std::fs::symlink_metadata(entry.path()).unwrap();
        found.insert(
            entry.path().display().to_string(),
            (stat.ino(), stat.mode(), stat.len()),
        );
        if stat.is_dir() {
            found.extend(tree(&entry.path()));
        }
    }
    found
}

fn linked(link: &str, to: &str) -> Image {
    let image = busybox();
    let at = image.root().join(link);
    std::fs::remove_dir_all(&at).unwrap();
    symlink(to, at).unwrap();
    image
}

fn links() {
    let victim = tempfile::tempdir().unwrap();
    for below in ["dev", "proc", "sys", "etc"] {
        std::fs::create_dir(victim.path().join(below)).unwrap();
    }
    let before = tree(victim.path());
    let up = format!("../../../../../../../..{}", victim.path().display());
    for link in ["dev", "proc", "sys", "etc"] {
        for to in [
            victim.path().to_str().unwrap(),
            up.as_str(),
            link,
            "/",
            "missing/deep",
        ] {
            let image = linked(link, to);
            let mut value = spec(&["sh", "-c", "grep -c . /proc/1/status"]);
            let file = image.directory.path().join("resolv");
            std::fs::write(&file, "x").unwrap();
            value["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": "/etc/resolv.conf", "source": file, "options": ["bind", "ro"]}));
            if let Ok(mut running) = try_create(&image, &value) {
                // What was made anew lies inside; procfs is at /proc or nowhere.
                match running.init.start() {
                    Ok(()) => {
                        let (code, text) = finish(running);
                        assert_eq!(code, 0, "{link} -> {to}: {text}");
                    }
                    Err(_) => running.init.discard().unwrap(),
                }
            }
            assert_eq!(tree(victim.path()), before, "{link} -> {to}");
        }
    }
    let image = linked("proc", "/tmp");
    let error = try_create(&image, &spec(&["true"])).err().unwrap().to_string();
    assert!(error.contains("/proc must be a directory"), "{error}");
}

fn fake_null() {
    // /dev of the image is used as it is: null there is a link to a file of the host's, or a plain file.
    for plain in [true, false] {
        let image = busybox();
        let null = image.root().join("dev/null");
        if plain {
            std::fs::write(&null, "secret").unwrap();
        } else {
            symlink("/proc/sys/kernel/core_pattern", &null).unwrap();
        }
        let mut value = spec(&["wc", "-c", "/proc/keys"]);
        value["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        let error = try_create(&image, &value).err().unwrap().to_string();
        assert!(error.contains("/dev/null"), "{error}");
    }
}

fn working_directory() {
    let image = busybox();
    let kept: Vec<std::fs::File> = (0..8).map(|_| std::fs::File::open("/").unwrap()).collect();
    let running = start(&image, &spec(&["sleep", "1000"]));
    for number in 0..24 {
        let cwd = format!("/proc/self/fd/{number}");
        let mut value = spec(&["sh", "-c", "pwd; ls"]);
        value["process"]["cwd"] = json!(cwd);
        match try_create(&image, &value) {
            Ok(created) => {
                created.init.discard().unwrap();
                panic!("cwd {cwd} was taken");
            }
            Err(error) => assert!(error.to_string().contains(&cwd), "{error}"),
        }
        let mut process = process(&running, &["pwd"]);
        process.set_cwd(cwd.clone().into());
        let error = try_exec(&running, &process, ExecTree::Shared)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(&cwd), "{error}");
    }
    drop(kept);
    stop(running);
    let mut value = spec(&["pwd"]);
    value["process"]["cwd"] = json!("/made/when/missing");
    assert_eq!(run(&image, &value).1, "/made/when/missing\n");
}

fn inspection() {
    let image = busybox();
    // Root without CAP_SYS_PTRACE, and without those by which newer kernels let read memory, as in a container; what it can do to an ordinary process shows that it
    // is the flag which stops it.
    let sees = |pid: i32, file: &str| {
        std::process::Command::new("setpriv")
            .args([
                "--bounding-set",
                "-sys_ptrace,-perfmon,-sys_admin",
                "--inh-caps",
                "-sys_ptrace,-perfmon,-sys_admin",
                "sh",
                "-c",
            ])
            .arg(format!("cat /proc/{pid}/{file} || readlink /proc/{pid}/{file}"))
            .output()
            .unwrap()
            .status
            .success()
    };
    const FILES: [&str; 6] = ["environ", "maps", "fd/0", "cwd", "root", "exe"];
    let mut ordinary = std::process::Command::new("setpriv")
        .args([
            "--bounding-set",
            "-sys_ptrace,-perfmon,-sys_admin",
            "--inh-caps",
            "-sys_ptrace,-perfmon,-sys_admin",
            "sleep",
            "100",
        ])
        .spawn()
        .unwrap();
    while !std::fs::read_to_string(format!("/proc/{}/comm", ordinary.id()))
        .unwrap()
        .starts_with("sleep")
    {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    for file in FILES {
        assert!(
            sees(ordinary.id().cast_signed(), file),
            "{file} of an ordinary process"
        );
    }
    ordinary.kill().unwrap();
    ordinary.wait().unwrap();
    let running = try_create(&image, &spec(&["true"])).unwrap();
    let pid = running.init.pid().as_raw_nonzero().get();
    let seen: Vec<_> = FILES.into_iter().filter(|file| sees(pid, file)).collect();
    running.init.discard().unwrap();
    assert!(seen.is_empty(), "{seen:?}");
}

fn invisible() {
    let image = busybox();
    let count = || {
        std::fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count()
    };
    let before = count();
    let running = start(&image, &spec(&["sleep", "1000"]));
    assert_eq!(count(), before);
    let (_, text) = exec_shell(&running, "grep -c ' /host\\| /work ' /proc/self/mountinfo");
    assert_eq!(text, "0\n");
    stop(running);
}

fn long_fields() {
    let image = busybox();
    let long = "x".repeat(70_000);
    let mut value = spec(&["sh", "-c", "env | wc -c"]);
    value["process"]["env"] = json!(["PATH=/bin", format!("LONG={long}")]);
    let (code, text) = run(&image, &value);
    assert!(
        code == 0 && text.trim().parse::<usize>().unwrap() > 70_000,
        "{text}"
    );
    let error = try_create(&image, &{
        let mut value = spec(&["true"]);
        value["process"]["cwd"] = json!(format!("/{long}"));
        value
    })
    .err()
    .unwrap();
    assert!(error.to_string().len() < 5000);
    let mut value = spec(&["sh", "-c", "grep -c many /proc/self/mountinfo"]);
    for index in 0..300 {
        value["mounts"].as_array_mut().unwrap().push(json!({"destination": format!("/many/{index}"), "source": image.directory.path(), "options": ["bind", "ro"]}));
    }
    value["process"]["user"]["additionalGids"] = json!((1..5000).collect::<Vec<u32>>());
    assert_eq!(run(&image, &value), (0, "300\n".into()));
}
