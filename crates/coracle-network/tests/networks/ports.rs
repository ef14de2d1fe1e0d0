//! Ports of the host that lead into pods.

use std::net::SocketAddr;

use coracle_network::{NetworkObject, Networks, PluginError};
use coracle_types::pod::{PortMapping, Protocol};

use crate::fresh::{ask, ask_udp, end, fresh_test, inside, neighbour, pod, reason, serve, serve_udp, sh};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fresh_test! {
    async fn root_a_port_is_reached_from_everywhere(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24", "fd00:77::/64"])).await.unwrap();
        let outside = neighbour();
        let (web, other) = (pod(&networks, &[(8080, 80)]).await, pod(&networks, &[]).await);
        networks.attach(web.clone()).await.unwrap();
        networks.attach(other.clone()).await.unwrap();
        serve(&web.netns, "[::]:80", "web");
        println!("{}", sh("nft list ruleset"));

        assert_eq!(ask(at("127.0.0.1:8080")).unwrap(), "web 10.77.0.1", "loopback");
        assert_eq!(ask(at("192.0.2.1:8080")).unwrap(), "web 192.0.2.1", "the host's own address");
        assert_eq!(ask(at("[2001:db8::1]:8080")).unwrap(), "web 2001:db8::1");
        assert_eq!(inside(&outside, || ask(at("192.0.2.1:8080"))).unwrap(), "web 192.0.2.2", "the source is kept");
        assert_eq!(inside(&outside, || ask(at("[2001:db8::1]:8080"))).unwrap(), "web 2001:db8::2");
        // By way of the host, and masqueraded: the answer would go past it else.
        assert_eq!(inside(&other.netns, || ask(at("192.0.2.1:8080"))).unwrap(), "web 10.77.0.1");
        assert_eq!(inside(&web.netns, || ask(at("192.0.2.1:8080"))).unwrap(), "web 10.77.0.1", "hairpin");
        assert_eq!(inside(&web.netns, || ask(at("[2001:db8::1]:8080"))).unwrap(), "web fd00:77::1");
        let refused = ask(at("[::1]:8080")).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "and not left to time out");
        networks.check(&web.id).await.unwrap();
        sh("nft delete element inet tested-pods ports4 '{ tcp . 8080 }'");
        let missing = networks.check(&web.id).await.unwrap_err();
        assert!(matches!(reason(&missing), PluginError::Missing { .. }), "{missing:?}");

        end(&networks, web).await;
        assert!(ask(at("127.0.0.1:8080")).is_err());
        end(&networks, other).await;
        networks.settle().await;
        sh("ip link del cable; ip netns del outside");
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_addresses_and_protocols_of_a_port_are_kept_apart(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        let outside = neighbour();
        sh("ip addr add 192.0.2.9/24 dev cable");
        let mapping = |protocol, ip: &str, container_port| PortMapping {
            protocol,
            container_port,
            host_port: 5300,
            host_ip: Some(ip.parse().unwrap()),
        };
        let mut one = pod(&networks, &[]).await;
        one.port_mappings = vec![mapping(Protocol::Tcp, "192.0.2.1", 80), mapping(Protocol::Udp, "0.0.0.0", 53)];
        let mut two = pod(&networks, &[]).await;
        two.port_mappings = vec![mapping(Protocol::Tcp, "192.0.2.9", 80), mapping(Protocol::Sctp, "0.0.0.0", 53)];

        // A flow that begins before its port is mapped must not keep its way.
        let early = inside(&outside, || std::net::UdpSocket::bind("192.0.2.2:4000").unwrap());
        early.send_to(b"?", "192.0.2.1:5300").unwrap();
        networks.attach(one.clone()).await.unwrap();
        networks.attach(two.clone()).await.unwrap();
        serve(&one.netns, "0.0.0.0:80", "one");
        serve(&two.netns, "0.0.0.0:80", "two");
        serve_udp(&one.netns, "0.0.0.0:53", "udp");
        let from_outside = |address: &str| inside(&outside, || ask(at(address)));
        assert_eq!(from_outside("192.0.2.1:5300").unwrap(), "one 192.0.2.2");
        assert_eq!(from_outside("192.0.2.9:5300").unwrap(), "two 192.0.2.2");
        assert_eq!(inside(&outside, || ask_udp(at("192.0.2.9:5300"))).unwrap(), "udp 192.0.2.2");
        assert_eq!(ask_udp(at("127.0.0.1:5300")).unwrap(), "udp 10.77.0.1");
        early.set_read_timeout(Some(std::time::Duration::from_secs(3))).unwrap();
        early.send_to(b"?", "192.0.2.1:5300").unwrap();
        let mut buffer = [0; 64];
        let length = early.recv(&mut buffer).expect("the early flow reaches the pod");
        assert_eq!(&buffer[..length], b"udp 192.0.2.2");
        assert!(sh("nft list map inet tested-pods ports4").contains("sctp . 5300 : 10.77.0.3 . 53"));
        end(&networks, one).await;
        end(&networks, two).await;
    }
}

fresh_test! {
    async fn root_a_port_in_use_is_refused_and_costs_the_holder_nothing(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        let (holder, second) = (pod(&networks, &[(8080, 80)]).await, pod(&networks, &[(9090, 90), (8080, 81)]).await);
        networks.attach(holder.clone()).await.unwrap();
        serve(&holder.netns, "0.0.0.0:80", "holder");
        let refused = networks.attach(second.clone()).await.unwrap_err();
        let source = reason(&refused);
        assert!(matches!(source, PluginError::PortInUse { .. }), "{refused:?}");
        assert!(source.to_string().contains(holder.id.as_str()), "{source}");
        assert_eq!(machine.reserved("tested"), ["10.77.0.2"]);
        assert_eq!(ask(at("127.0.0.1:8080")).unwrap(), "holder 10.77.0.1");
        let survey = networks.survey().await.unwrap();
        let kinds: Vec<&str> = survey
            .iter()
            .filter(|(pod, _)| *pod == holder.id)
            .map(|(_, object)| match object {
                NetworkObject::Link(_) => "link",
                NetworkObject::Netns(_) => "netns",
                NetworkObject::Addresses(_) => "addresses",
                NetworkObject::Record(_) => "record",
                NetworkObject::PortMap { .. } => "port map",
            })
            .collect();
        assert_eq!(kinds, ["link", "netns", "addresses", "record", "port map"]);
        assert_eq!(networks.intents(&holder).len(), 5);
        networks.detach(second.clone()).await.unwrap();
        assert_eq!(ask(at("127.0.0.1:8080")).unwrap(), "holder 10.77.0.1");
        end(&networks, holder).await;
        networks.attach(second.clone()).await.unwrap();
        end(&networks, second).await;
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_a_pod_does_not_reach_the_hosts_loopback(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        serve("/proc/self/ns/net".as_ref(), "127.0.0.1:7000", "secret");
        let web = pod(&networks, &[(8080, 80)]).await;
        networks.attach(web.clone()).await.unwrap();
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/conf/tested0/route_localnet").unwrap(), "1\n");
        // A pod with the right to do so sends the host packets for 127.0.0.1.
        sh(&format!(
            "ip netns exec tested-{} sh -c 'echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet
             ip addr del 127.0.0.1/8 dev lo; ip route del local 127.0.0.0/8 table local 2>/dev/null
             ip route add 127.0.0.1/32 via 10.77.0.1 src 10.77.0.2'",
            web.id
        ));
        assert!(inside(&web.netns, || ask(at("127.0.0.1:7000"))).is_err());
        sh("nft flush chain inet tested-pods guard");
        assert_eq!(inside(&web.netns, || ask(at("127.0.0.1:7000"))).unwrap(), "secret 10.77.0.2", "the attack itself works");
        end(&networks, web).await;
    }
}

fresh_test! {
    async fn root_a_flushed_ruleset_comes_back_with_the_next_change(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        let (a, b) = (pod(&networks, &[(8080, 80)]).await, pod(&networks, &[(8081, 80)]).await);
        networks.attach(a.clone()).await.unwrap();
        serve(&a.netns, "0.0.0.0:80", "a");
        sh("nft flush ruleset");
        assert!(ask(at("127.0.0.1:8080")).is_err());
        networks.attach(b.clone()).await.unwrap();
        assert_eq!(ask(at("127.0.0.1:8080")).unwrap(), "a 10.77.0.1");
        sh("nft flush ruleset");
        end(&networks, a).await;
        end(&networks, b).await;
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}
