//! A container's life: create, start, exec, exit; root file systems, mounts, consoles, hooks.

use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use coracle_container::{
    CommandProblem, ConsoleSize, CreateRequest, ExecTree, ProcessIo, RootfsSource, create,
};
use coracle_types::{ContainerId, ExecId, Kind, Kinded as _};
use rustix::io::Errno;
use serde_json::json;

use crate::fixture::{
    Running, busybox, exec_shell, finish, process, read_all, read_spec, run, shell, spec, start, stop,
    try_create, try_create_on, try_exec, wait, write_file,
};

pub(crate) const TESTS: &[super::Test] = &[
    ("root_a_container_runs_and_its_exit_is_known", exits),
    ("root_a_container_waits_for_its_start", waits),
    ("root_the_overlay_takes_what_is_written", overlay),
    ("root_every_way_to_mount_layers_works", overlay_methods),
    (
        "root_layers_are_id_mapped_on_old_and_new_kernels",
        mapped_overlays,
    ),
    ("root_mounts_have_their_flags", mounts),
    ("root_layers_are_mounted_whole_and_in_part", layer_mounts),
    ("root_exec_runs_beside_the_init", execs),
    ("root_an_exec_tree_dies_whole", exec_tree),
    (
        "root_an_exec_gets_in_beside_a_manager_inside",
        exec_beside_a_manager,
    ),
    (
        "root_an_exec_gets_in_beside_threads_in_cgroups",
        exec_beside_threads,
    ),
    ("root_a_command_that_cannot_run_is_told_precisely", commands),
    ("root_a_console_is_a_terminal", console),
    ("root_hooks_run_in_order", hooks),
    ("root_what_fails_leaves_nothing", failures),
];

fn exits() {
    let image = busybox();
    let (code, text) = shell(&image, "echo out; echo err >&2; hostname; echo $$; exit 7");
    assert_eq!((code, text.as_str()), (7, "out\nerr\ninside\n1\n"));
    let (code, _) = shell(&image, "kill -9 $$; sleep 1");
    assert_eq!(code, 0, "an init without handler ignores its own signals");
}

fn waits() {
    let image = busybox();
    let mut running = try_create(&image, &spec(&["echo", "started"])).unwrap();
    assert!(
        running
            .init
            .steps()
            .iter()
            .any(|step| step.name == "container.ready")
    );
    running.init.start().unwrap();
    assert!(running.init.start().is_err(), "a second start");
    assert_eq!(finish(running), (0, "started\n".into()));

    let running = try_create(&image, &spec(&["echo", "never"])).unwrap();
    running.init.discard().unwrap();
    assert_eq!(read_all(running.output), "");
}

fn layers(image: &crate::fixture::Image, count: usize) -> (Vec<PathBuf>, PathBuf, PathBuf) {
    let base = image.directory.path();
    let mut lowers = Vec::new();
    for index in (0..count).rev() {
        let layer = base.join(format!("layer-{index}"));
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join(format!("file-{index}")), "x").unwrap();
        std::fs::write(layer.join("top"), index.to_string()).unwrap();
        lowers.push(layer);
    }
    lowers.push(image.root());
    let (upper, work) = (base.join("upper"), base.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    (lowers, upper, work)
}

fn overlay() {
    let image = busybox();
    let (lowers, upper, work) = layers(&image, 30);
    let source = RootfsSource::Overlay {
        lowers: lowers.clone(),
        upper: upper.clone(),
        work,
        mapped: false,
    };
    let script =
        "cat /top; ls / | grep -c file-; echo new > /new; grep ' / / ' /proc/self/mountinfo | head -1";
    let mut running = try_create_on(&image, &spec(&["sh", "-c", script]), source).unwrap();
    running.init.start().unwrap();
    let (code, text) = finish(running);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("2930\n") && text.contains("overlay"), "{text}");
    assert_eq!(std::fs::read_to_string(upper.join("new")).unwrap(), "new\n");

    let mut running = try_create_on(
        &image,
        &spec(&["touch", "/refused"]),
        RootfsSource::View { lowers },
    )
    .unwrap();
    running.init.start().unwrap();
    let (code, text) = finish(running);
    assert!(code != 0 && text.contains("Read-only"), "{text}");
}

fn overlay_methods() {
    for method in 0..3 {
        let image = busybox();
        let (lowers, upper, work) = layers(&image, 10);
        let mount = coracle_container::rootfs::probe::overlay(method, &lowers, (&upper, &work), None);
        if method == 0 && !has_an_option_a_layer() {
            assert!(mount.is_err(), "older kernels do not know it");
            continue;
        }
        let mount = mount.unwrap_or_else(|error| panic!("method {method}: {error}"));
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(&mount, "top", flags, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(read_all(file), "9", "method {method}");
    }
}

/// `lowerdir+` is in every Linux from 6.7 on.
fn has_an_option_a_layer() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_str().unwrap();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    let mut next = || numbers.next().unwrap().unwrap();
    (next(), next()) >= (6, 7)
}

/// With ids mapped, by the newest way and by the one that kernels before 6.15 are left with.
fn mapped_overlays() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let mapping = [coracle_types::security::IdMapping {
        host_id: 500_000,
        container_id: 0,
        length: 65536,
    }];
    let user = coracle_container::namespace::user_namespace(&mapping, &mapping).unwrap();
    for method in [0, 2] {
        let image = busybox();
        let (lowers, upper, work) = layers(&image, 20);
        chown(lowers[3].join("file-16"), Some(7), Some(8)).unwrap();
        let mount =
            coracle_container::rootfs::probe::overlay(method, &lowers, (&upper, &work), Some(user.as_fd()))
                .unwrap_or_else(|error| panic!("method {method}: {error}"));
        let ids = |name: &str| {
            let stat = rustix::fs::statat(&mount, name, rustix::fs::AtFlags::empty()).unwrap();
            (stat.st_uid, stat.st_gid)
        };
        assert_eq!(ids("top"), (500_000, 500_000), "method {method}");
        assert_eq!(ids("file-16"), (500_007, 500_008), "method {method}");
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE | rustix::fs::OFlags::CLOEXEC;
        let mode = rustix::fs::Mode::RUSR;
        // What is written keeps the node's ids: an upper directory cannot be mapped.
        rustix::fs::openat(&mount, "mine", flags, mode)
            .unwrap_or_else(|error| panic!("method {method}: {error}"));
        let stat = std::fs::metadata(upper.join("mine")).unwrap();
        assert_eq!((stat.uid(), ids("mine")), (0, (0, 0)), "method {method}");
    }
}

fn layer_mounts() {
    let image = busybox();
    let (mut lowers, _, _) = layers(&image, 3);
    lowers.pop();
    let top = lowers[0].clone();
    std::fs::create_dir_all(top.join("models/small")).unwrap();
    std::fs::write(lowers[2].join("below"), "b").unwrap();
    std::fs::write(top.join("models/small/a"), "model").unwrap();
    for (link, to) in [
        ("inside", "models/small"),
        ("outside", "../../../etc"),
        ("absolute", "/etc"),
        ("here", "."),
    ] {
        symlink(to, top.join(link)).unwrap();
    }
    let options = |lowers: &[PathBuf], more: &[&str]| {
        let lowers = lowers.iter().map(|path| format!("lowerdir={}", path.display()));
        lowers
            .chain(more.iter().map(|text| (*text).to_owned()))
            .collect::<Vec<_>>()
    };
    let mounted = |lowers: &[PathBuf], more: &[&str], script: &str| {
        let mut value = spec(&["sh", "-c", script]);
        let mounts = value["mounts"].as_array_mut().unwrap();
        // A file is mounted where no directory was made before.
        let at = if more.iter().any(|option| option.ends_with("/a")) {
            "/w"
        } else {
            "/v"
        };
        mounts.push(json!({"destination": at, "type": "coracle.layers", "source": "image", "options": options(lowers, more)}));
        let mut running = try_create(&image, &value)?;
        running.init.start()?;
        Ok::<_, coracle_container::Error>(finish(running))
    };
    let script =
        "cat /v/top /v/file-0 /v/below; touch /v/x 2>&1; grep -o ' /v r[wo][^ ]*' /proc/self/mountinfo";
    let (_, text) = mounted(&lowers, &["ro", "nosuid", "nodev", "noexec"], script).unwrap();
    assert!(text.starts_with("2xb") && text.contains("Read-only"), "{text}");
    assert!(text.contains(" /v ro,nosuid,nodev,noexec"), "{text}");
    // One layer is no overlay; a file is mounted as one.
    for stack in [&lowers[..], &lowers[..1]] {
        for path in ["models/small", "inside", "here/inside"] {
            let more = ["ro", &format!("subpath={path}")];
            let (_, text) = mounted(stack, &more, "ls /v; cat /v/a; touch /v/x 2>&1").unwrap();
            assert!(
                text.starts_with("a\nmodel") && text.contains("Read-only"),
                "{path}: {text}"
            );
        }
        let (_, text) = mounted(stack, &["ro", "subpath=models/small/a"], "cat /w; echo >/w").unwrap();
        assert!(text.starts_with("model"), "{text}");
        for path in [
            "none",
            "outside",
            "absolute",
            "models/../../x",
            "../x",
            "models/small/a/b",
        ] {
            let error = mounted(stack, &["ro", &format!("subpath={path}")], "true").expect_err(path);
            assert!(error.to_string().contains(path), "{error}");
        }
        let part = coracle_container::rootfs::probe::part(stack, "inside").unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        let file = rustix::fs::openat(&part, "a", flags, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(read_all(file), "model");
        assert!(coracle_container::rootfs::probe::part(stack, "outside").is_err());
    }
    assert!(mounted(&lowers, &["size=1"], "true").is_err());
}

fn mounts() {
    let image = busybox();
    let volume = tempfile::tempdir().unwrap();
    std::fs::write(volume.path().join("f"), "content").unwrap();
    let file = volume.path().join("f");
    let mut value = spec(&[
        "sh",
        "-c",
        "cat /volume/f /single/file; touch /volume/x 2>&1; touch /rw/x && echo written; touch /x 2>&1; grep ' /volume ' /proc/self/mountinfo",
    ]);
    let mounts = value["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["rbind", "ro", "rro", "nosuid", "rprivate"]}));
    mounts.push(json!({"destination": "/rw", "source": volume.path(), "options": ["rbind", "rw", "rslave"]}));
    mounts.push(json!({"destination": "/single/file", "source": file, "options": ["bind", "ro"]}));
    value["root"]["readonly"] = json!(true);
    let (code, text) = run(&image, &value);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("contentcontent"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.contains("written") && text.contains("ro,nosuid"), "{text}");

    let mut value = spec(&["true"]);
    value["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/v", "source": "/no/such", "options": ["bind"]}));
    let error = try_create(&image, &value).err().unwrap();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    assert!(error.to_string().contains("/no/such"), "{error}");
}

fn execs() {
    let image = busybox();
    let running = start(&image, &spec(&["sleep", "1000"]));
    let (code, text) = exec_shell(
        &running,
        "hostname; ps | grep -c sleep; cat /proc/self/cgroup | head -1; pwd; exit 3",
    );
    assert_eq!(code, 3);
    assert!(
        text.starts_with("inside\n") && text.ends_with(":/\n/\n"),
        "{text}"
    );
    let mut process = process(&running, &["id"]);
    process.set_user(serde_json::from_value(json!({"uid": 12, "gid": 34, "additionalGids": [56]})).unwrap());
    let (executed, output) = try_exec(&running, &process, ExecTree::Shared).unwrap();
    assert_eq!(read_all(output).trim(), "uid=12 gid=34 groups=56");
    assert_eq!(wait(executed.pidfd()), 0);
    stop(running);
}

fn exec_tree() {
    let image = busybox();
    let running = start(&image, &spec(&["sleep", "1000"]));
    let process = process(&running, &["sh", "-c", "(sleep 900 &) ; echo ready; sleep 900"]);
    let (executed, output) = try_exec(&running, &process, ExecTree::Own(ExecId::generate())).unwrap();
    let mut ready = [0; 6];
    rustix::io::read(&output, &mut ready).unwrap();
    assert_eq!(executed.tree_is_empty(), Some(false));
    executed.kill_tree().unwrap();
    assert_eq!(wait(executed.pidfd()), 137);
    // Its end comes when the last process that holds the pipe is dead.
    assert_eq!(read_all(output), "");
    executed.remove().unwrap();
    let (_, text) = exec_shell(
        &running,
        "ps | grep -c 'sleep [9]00'; ps | grep -c 'sleep [1]000'",
    );
    assert_eq!(text, "0\n1\n");
    stop(running);
}

/// The container's directory in the v2 hierarchy, and a controller that it may give to its children.
fn of_version_2(running: &Running) -> Option<(PathBuf, String)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let mount = mount.split(' ').nth(4)?;
    let pid = running.init.pid().as_raw_nonzero();
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = PathBuf::from(mount).join(own);
    let controllers = std::fs::read_to_string(own.join("cgroup.controllers")).unwrap();
    let first = controllers.split_whitespace().next()?.to_owned();
    Some((own, first))
}

fn words_of(running: &Running, tree: ExecTree) -> (String, Option<bool>) {
    let process = process(running, &["sh", "-c", "grep ^0:: /proc/self/cgroup; sleep 0.1"]);
    let (executed, output) =
        try_exec(running, &process, tree).unwrap_or_else(|error| panic!("exec: {error}"));
    let in_its_own = executed.tree_is_empty();
    let text = read_all(output);
    assert_eq!(wait(executed.pidfd()), 0, "{text}");
    executed.remove().unwrap();
    (text, in_its_own)
}

/// systemd and container engines inside move all processes below and give the controllers away; then the kernel
/// lets nobody into the container's cgroup itself.
fn exec_beside_a_manager() {
    let image = busybox();
    let running = start(&image, &spec(&["sleep", "1000"]));
    let Some((own, controller)) = of_version_2(&running) else {
        // With version 1 alone, or without a controller on 2, nobody is kept out.
        assert_eq!(
            words_of(&running, ExecTree::Shared).0.matches("0::/init").count(),
            0
        );
        return stop(running);
    };
    let below = own.join("init");
    std::fs::create_dir(&below).unwrap();
    let pid = running.init.pid().as_raw_nonzero().to_string();
    std::fs::write(below.join("cgroup.procs"), &pid).unwrap();
    std::fs::write(own.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
    let refused = std::fs::write(own.join("cgroup.procs"), &pid).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::BUSY.raw_os_error()));

    // One among the container's processes goes where its init is.
    assert_eq!(
        words_of(&running, ExecTree::Shared),
        ("0::/init\n".to_owned(), None)
    );
    // One that is to be killed as a whole has a leaf beside the manager's.
    let (text, in_its_own) = words_of(&running, ExecTree::Own(ExecId::generate()));
    assert!(text.starts_with("0::/exec-"), "{text}");
    assert_eq!(in_its_own, Some(false));
    stop(running);
}

/// Above threaded cgroups a new leaf takes no process: the exec goes to the init, and nobody pretends to know
/// when its tree is empty.
fn exec_beside_threads() {
    let image = busybox();
    let running = start(&image, &spec(&["sleep", "1000"]));
    let Some((own, _)) = of_version_2(&running) else {
        return stop(running);
    };
    let threads = own.join("threads");
    std::fs::create_dir(&threads).unwrap();
    std::fs::write(threads.join("cgroup.type"), "threaded").unwrap();
    let kind = std::fs::read_to_string(own.join("cgroup.type")).unwrap();
    assert_eq!(kind.trim(), "domain threaded");
    for tree in [ExecTree::Shared, ExecTree::Own(ExecId::generate())] {
        assert_eq!(words_of(&running, tree), ("0::/\n".to_owned(), None));
    }
    let left = std::fs::read_dir(&own).unwrap().flatten();
    let left = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("exec-"));
    assert_eq!(left.count(), 0, "a leaf that nobody used is left");
    stop(running);
}

fn commands() {
    let image = busybox();
    let bin = image.root().join("bin");
    write_file(&bin.join("plain"), b"#!/bin/sh\n", 0o644);
    write_file(&bin.join("garbage"), b"\x7fELF garbage", 0o755);
    write_file(&bin.join("lost"), b"#!/no/such/interpreter\n", 0o755);
    let running = start(&image, &spec(&["sleep", "1000"]));
    for (command, problem, code) in [
        ("nothing-of-that-name", CommandProblem::Missing, 127),
        ("/bin/nothing", CommandProblem::Missing, 127),
        ("/bin", CommandProblem::Directory, 126),
        ("plain", CommandProblem::NotExecutable, 126),
        ("/bin/plain", CommandProblem::NotExecutable, 126),
        ("garbage", CommandProblem::WrongFormat, 126),
        ("lost", CommandProblem::InterpreterMissing, 126),
    ] {
        let error = match try_create(&image, &spec(&[command])) {
            Ok(mut running) => {
                let error = running.init.start().unwrap_err();
                running.init.discard().unwrap();
                error
            }
            Err(error) => error,
        };
        assert_eq!(error.command_problem(), Some(problem), "{command}: {error}");
        assert_eq!(problem.exit_code(), code);
        assert!(error.to_string().contains(command), "{error}");
        let error = try_exec(
            &running,
            &process(&running, &[command]),
            ExecTree::Own(ExecId::generate()),
        )
        .err()
        .unwrap();
        assert_eq!(
            error.command_problem(),
            Some(problem),
            "exec of {command}: {error}"
        );
    }
    stop(running);
}

fn console() {
    let image = busybox();
    let value = spec(&["sh", "-c", "tty; stty size; ls -l /dev/console | head -1; exit 5"]);
    let spec = read_spec(&value);
    let id = ContainerId::generate();
    let mut init = create(CreateRequest {
        id: &id,
        spec: &spec,
        bundle: image.directory.path(),
        rootfs: RootfsSource::Path(image.root()),
        io: ProcessIo::Console(Some(ConsoleSize {
            columns: 91,
            rows: 17,
        })),
    })
    .unwrap();
    let master = init.take_console().unwrap();
    init.start().unwrap();
    let code = wait(init.pidfd());
    let mut buffer = [0; 1000];
    let length = rustix::io::read(&master, &mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..length]);
    assert_eq!(code, 5, "{text}");
    assert!(text.starts_with("/dev/") && text.contains("17 91"), "{text}");
    init.cgroup().remove().unwrap();
}

fn hooks() {
    let image = busybox();
    let log = image.directory.path().join("hooks");
    let hook = |name: &str| json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo {name} >> {}; cat >> {}.state", log.display(), log.display())], "env": ["PATH=/bin:/usr/bin"]});
    let inside = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo startContainer > /tmp/hook"], "env": ["PATH=/bin"]});
    let mut value = spec(&["cat", "/tmp/hook"]);
    value["hooks"] = json!({"prestart": [hook("prestart")], "createRuntime": [hook("createRuntime")], "createContainer": [hook("createContainer")],
        "startContainer": [inside], "poststart": [hook("poststart")], "poststop": [hook("poststop")]});
    let running = start(&image, &value);
    let spec = read_spec(&value);
    assert_eq!(finish(running).1, "startContainer\n");
    let errors = coracle_container::hooks::poststop(&spec, &ContainerId::generate(), image.directory.path());
    assert!(errors.is_empty(), "{errors:?}");
    let order = std::fs::read_to_string(&log).unwrap();
    assert_eq!(
        order,
        "prestart\ncreateRuntime\ncreateContainer\npoststart\npoststop\n"
    );
    let states = std::fs::read_to_string(image.directory.path().join("hooks.state")).unwrap();
    assert!(
        states.contains("\"status\":\"creating\"") && states.contains("\"status\":\"stopped\""),
        "{states}"
    );

    value["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "echo no >&2; exit 4"]}]});
    let error = try_create(&image, &value).err().unwrap().to_string();
    assert!(error.contains("createRuntime") && error.contains("no"), "{error}");
}

fn failures() {
    let image = busybox();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = spec(&["true"]);
        change(&mut value);
        match try_create(&image, &value) {
            Ok(running) => {
                running.init.discard().unwrap();
                panic!("{value}");
            }
            Err(error) => error,
        }
    };
    let error = refused(&|value| value["process"]["args"] = json!([]));
    assert_eq!(error.kind(), Kind::InvalidArgument);
    refused(&|value| value["process"]["cwd"] = json!("relative"));
    refused(&|value| value["process"]["user"]["uid"] = json!(u32::MAX));
    refused(&|value| value["linux"]["cgroupsPath"] = json!("/../x"));
    refused(&|value| value["linux"]["namespaces"] = json!([{"type": "pid"}]));
    refused(&|value| value["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/x"}));
    refused(&|value| value["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]));
    refused(&|value| value["process"]["apparmorProfile"] = json!("no-such-profile"));
    refused(&|value| value["mounts"][1]["type"] = json!("nosuchfs"));
    refused(&|value| value["mounts"][1]["options"] = json!(["size=nonsense"]));
    refused(&|value| value["linux"]["resources"]["memory"] = json!({"limit": 1}));
    let error = refused(&|value| {
        value["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"}))
    });
    assert!(error.to_string().contains("/proc"), "{error}");
    let _ = symlink("x", image.root().join("bin/unused"));
}
