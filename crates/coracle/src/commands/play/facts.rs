//! What a manifest needs to know of the node that its pod runs on.

use std::net::{Ipv4Addr, UdpSocket};

use coracle_manifest::{Facts, Resolver};

/// The node as this process sees it; the pod's addresses come later.
pub(super) fn of_node(uid: String) -> Facts {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Facts {
        uid,
        node_name: read("/proc/sys/kernel/hostname").trim().to_owned(),
        host_ip: host_ip(),
        pod_ips: Vec::new(),
        memory: memory(&read("/proc/meminfo")),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        resolver: resolver(&read("/etc/resolv.conf")),
    }
}

/// Whether cgroup v2 has all controllers: `/sys/fs/cgroup` is its root then.
pub(super) fn has_unified_cgroups() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The address from which the node would speak to the world; no packet is sent to find it.
fn host_ip() -> String {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
    let found = socket.and_then(|socket| {
        // An address for documentation (RFC 5737): connecting only chooses a route.
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    found.map_or_else(
        |_| Ipv4Addr::LOCALHOST.to_string(),
        |address| address.ip().to_string(),
    )
}

/// Bytes of `MemTotal` (proc_meminfo(5)).
fn memory(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() << 10
}

/// The settings in a resolv.conf(5).
fn resolver(text: &str) -> Resolver {
    let mut resolver = Resolver::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let keyword = words.next().unwrap_or_default();
        let words = words
            .take_while(|word| !word.starts_with(['#', ';']))
            .map(str::to_owned);
        match keyword {
            "nameserver" => resolver.servers.extend(words.take(1)),
            "search" | "domain" => resolver.searches = words.collect(),
            "options" => resolver.options.extend(words),
            _ => {}
        }
    }
    resolver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_files_are_understood() {
        assert_eq!(
            memory("MemTotal:       24572112 kB\nMemFree: 1 kB\n"),
            24_572_112 << 10
        );
        assert_eq!(memory(""), 0);
        let read = resolver(
            "# made\nsearch a.lan b.lan\nnameserver 192.0.2.53 # first\nnameserver ::1\noptions ndots:2 edns0\n",
        );
        assert_eq!(read.servers, ["192.0.2.53", "::1"]);
        assert_eq!(read.searches, ["a.lan", "b.lan"]);
        assert_eq!(read.options, ["ndots:2", "edns0"]);
    }
}
