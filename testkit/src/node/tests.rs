//! A node is private, and leaves nothing behind.

use std::time::Duration;

use super::*;
use crate::wait;

#[test]
fn root_a_node_is_private_and_leaves_nothing() {
    let node = Node::start().unwrap();
    let (directory, instance) = (node.directory().to_owned(), node.instance().clone());
    assert_eq!(node.run("hostname", &[]).unwrap().trim(), instance.as_str());
    assert_eq!(
        node.run("ls", &["/etc/cni/net.d", "/run/netns"]).unwrap(),
        "/etc/cni/net.d:\n\n/run/netns:\n"
    );
    assert!(
        node.run("ip", &["link", "show", "dev", "lo"])
            .unwrap()
            .contains("LOWER_UP")
    );
    // What the node changes on the host's side of paths stays inside.
    node.run(
        "sh",
        &["-c", "echo x > /etc/written-inside && mkdir /run/netns/x"],
    )
    .unwrap();
    assert!(!Path::new("/etc/written-inside").exists() && !Path::new("/run/netns/x").exists());
    assert_eq!(std::fs::read(node.path("/etc/written-inside")).unwrap(), b"x\n");

    let groups: Vec<PathBuf> = crate::census::cgroup::hierarchies()
        .unwrap()
        .into_iter()
        .map(|hierarchy| hierarchy.join(instance.as_str()).join("kubepods"))
        .collect();
    assert!(!groups.is_empty());
    for group in &groups {
        std::fs::create_dir_all(group).unwrap();
    }
    // A process that nobody waits for, in one of the cgroups.
    node.run("sh", &["-c", "setsid sleep 1000 >/dev/null 2>&1 &"])
        .unwrap();
    let sleeper = node.processes().unwrap();
    assert_eq!(sleeper.len(), 1, "{sleeper:?}");
    std::fs::write(
        groups[0].join("cgroup.procs"),
        host_pid_of("sleep", &node).to_string(),
    )
    .unwrap();

    drop(node);
    assert!(!directory.exists());
    for group in &groups {
        assert!(!group.exists(), "{}", group.display());
        assert!(!group.parent().unwrap().exists(), "{}", group.display());
    }
}

fn host_pid_of(name: &str, node: &Node) -> u32 {
    let children = format!("/proc/{0}/task/{0}/children", node.init());
    // It bears the name of the program before it until it is executed.
    crate::wait::until("a process of that name", Duration::from_secs(30), || {
        let children = std::fs::read_to_string(&children)?;
        let pids = children.split_whitespace().map(str::parse::<u32>);
        Ok(pids.flatten().find(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        }))
    })
    .unwrap()
}

#[test]
fn root_nodes_run_side_by_side_and_orphans_are_reaped() {
    let (one, two) = (Node::start().unwrap(), Node::start().unwrap());
    assert_ne!(one.instance(), two.instance());
    one.run("ip", &["link", "add", "only-here", "type", "bridge"])
        .unwrap();
    assert!(two.run("ip", &["link", "show", "dev", "only-here"]).is_err());
    one.run("sh", &["-c", "setsid sleep 0.05 >/dev/null 2>&1 &"])
        .unwrap();
    wait::until("the orphan to be reaped", Duration::from_secs(5), || {
        Ok(one.processes()?.is_empty().then_some(()))
    })
    .unwrap();
}

#[test]
fn root_sockets_are_opened_inside_from_outside() {
    let node = Node::start().unwrap();
    let listener = node.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    assert!(
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err(),
        "reached from outside"
    );
    let mut near = node.connect(address).unwrap();
    near.write_all(b"hello\n").unwrap();
    let (far, _) = listener.accept().unwrap();
    let mut line = String::new();
    BufReader::new(far).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
}

#[test]
fn root_a_service_is_killed_and_its_log_is_shown() {
    let node = Node::start().unwrap();
    let mut sleeper = Service::start(&node, "sleeper", node_sleep(&node), || true).unwrap();
    assert!(sleeper.is_running().unwrap());
    assert!(!sleeper.kill9().unwrap().success());
    assert!(node.processes().unwrap().is_empty());

    let mut command = node.command("sh");
    command.args(["-c", "echo what went wrong; exit 3"]);
    let error = Service::start(&node, "failing", command, || false).unwrap_err();
    assert!(format!("{error:#}").contains("what went wrong"), "{error:#}");
}

fn node_sleep(node: &Node) -> Command {
    let mut command = node.command("sleep");
    command.arg("1000");
    command
}
