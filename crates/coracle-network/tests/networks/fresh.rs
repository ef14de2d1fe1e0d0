//! A machine of one's own for a test: the test binary runs itself again under unshare(1).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use coracle_network::{DefaultNetwork, Error, Networks, NetworksConfig, PluginError, PodNetwork};
use coracle_types::PodSandboxId;
use coracle_types::pod::{PortMapping, Protocol};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const MARK: &str = "CORACLE_FRESH_TEST";

/// Declares a test that runs in a fresh machine.
macro_rules! fresh_test {
    ($(#[$attribute:meta])* async fn $name:ident($machine:ident) $body:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            let module = module_path!().split_once("::").expect("a module of the crate").1;
            crate::fresh::run(&format!("{module}::{}", stringify!($name)), async |$machine: &crate::fresh::Machine| $body);
        }
    };
}
pub(crate) use fresh_test;

/// Runs the body in new namespaces, and fails if it fails there.
pub(crate) fn run(name: &str, body: impl AsyncFnOnce(&Machine)) {
    if std::env::var(MARK).is_ok_and(|marked| marked == name) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body(&Machine::new()));
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            name,
            "--nocapture",
            "--include-ignored",
            "--test-threads=1",
        ])
        .env(MARK, name)
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        output.status.success() && text.contains("1 passed"),
        "in the fresh machine:\n{text}"
    );
    println!("{text}");
}

/// A machine with `lo` up, an empty /run, and nothing else on the network.
pub(crate) struct Machine {
    pub(crate) root: PathBuf,
}

impl Machine {
    fn new() -> Self {
        sh("mount -t tmpfs tmpfs /run && ip link set lo up");
        let root = PathBuf::from("/run/machine");
        fs::create_dir_all(root.join("net.d")).unwrap();
        Self { root }
    }

    /// Settings with everything below the machine's root.
    pub(crate) fn config(&self) -> NetworksConfig {
        NetworksConfig {
            conf_dir: self.root.join("net.d"),
            bin_dirs: vec![self.root.join("bin")],
            state_dir: self.root.join("state"),
            netns_dir: "/run/netns".into(),
            ..NetworksConfig::new("tested".parse().unwrap())
        }
    }

    /// Settings with a default network of these subnets.
    pub(crate) fn with_default(&self, subnets: &[&str]) -> NetworksConfig {
        let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        NetworksConfig {
            default_network: Some(DefaultNetwork {
                subnets,
                data_dir: self.root.join("networks"),
            }),
            ..self.config()
        }
    }

    /// Writes a configuration file.
    pub(crate) fn configure(&self, file: &str, text: &str) {
        fs::write(self.root.join("net.d").join(file), text).unwrap();
    }

    /// Names in a network's directory of reservations that are addresses.
    pub(crate) fn reserved(&self, network: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.root.join("networks").join(network))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.parse::<IpAddr>().is_ok())
            .collect();
        names.sort();
        names
    }

    /// Nothing of any pod is left.
    pub(crate) fn assert_no_pods(&self, network: &str) {
        assert_eq!(self.reserved(network), Vec::<String>::new());
        assert!(!sh("ip -o link").contains("veth"), "{}", sh("ip -o link"));
        let rules = sh("nft list ruleset");
        assert!(!rules.contains("elements"), "{rules}");
        assert_eq!(fs::read_dir("/run/netns").unwrap().count(), 0);
        assert_eq!(fs::read_dir(self.root.join("state")).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains("/tested-"), "{mounts}");
    }
}

/// A pod with a namespace, not yet attached.
pub(crate) async fn pod(networks: &Networks, ports: &[(u16, u16)]) -> PodNetwork {
    let id = PodSandboxId::generate();
    let netns = networks.create_netns(&id, None).await.unwrap();
    let mapping = |(host_port, container_port): &(u16, u16)| PortMapping {
        protocol: Protocol::Tcp,
        container_port: *container_port,
        host_port: *host_port,
        host_ip: None,
    };
    PodNetwork {
        id,
        name: "web".into(),
        namespace: "default".into(),
        uid: "1234".into(),
        netns,
        port_mappings: ports.iter().map(mapping).collect(),
        annotations: BTreeMap::new(),
        dns: None,
        cgroup_path: String::new(),
    }
}

/// Detaches the pod and removes its namespace.
pub(crate) async fn end(networks: &Networks, pod: PodNetwork) {
    networks.detach(pod.clone()).await.unwrap();
    networks.remove_netns(&pod.id).await.unwrap();
}

/// Why a plugin failed.
pub(crate) fn reason(error: &Error) -> &PluginError {
    match error {
        Error::Plugin { source, .. } => source,
        other => panic!("no plugin failed: {other:?}"),
    }
}

/// Runs a shell command that must succeed and gives its output.
pub(crate) fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// Runs something in a network namespace.
pub(crate) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(netns).unwrap();
    thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            })
            .join()
            .unwrap()
    })
}

/// Serves TCP in the namespace: each client is told its own address and the pod's greeting.
pub(crate) fn serve(netns: &Path, address: &str, greeting: &'static str) {
    let listener = inside(netns, || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = write!(stream, "{greeting} {peer}");
        }
    });
}

/// Serves UDP likewise.
pub(crate) fn serve_udp(netns: &Path, address: &str, greeting: &'static str) {
    let socket = inside(netns, || UdpSocket::bind(address).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(
                format!("{greeting} {}", peer.ip().to_canonical()).as_bytes(),
                peer,
            );
        }
    });
}

/// What the server at the address says; an error when it is not reached soon.
pub(crate) fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(3))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// What the server at the address says by UDP.
pub(crate) fn ask_udp(address: SocketAddr) -> std::io::Result<String> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A second machine, cabled to ours: 192.0.2.1 and 2001:db8::1 are ours, .2 and ::2 are its.
pub(crate) fn neighbour() -> PathBuf {
    sh("ip netns add outside
        ip link add cable type veth peer name cable netns outside
        ip addr add 192.0.2.1/24 dev cable; ip addr add 2001:db8::1/64 dev cable nodad; ip link set cable up
        ip -n outside link set lo up
        ip -n outside addr add 192.0.2.2/24 dev cable; ip -n outside addr add 2001:db8::2/64 dev cable nodad
        ip -n outside link set cable up");
    "/run/netns/outside".into()
}
