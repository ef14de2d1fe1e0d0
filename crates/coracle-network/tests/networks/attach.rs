//! Pods on bridges: addresses, routes, reachability, and nothing left behind.

use std::net::SocketAddr;

use coracle_network::{AddressPreference, Error, Networks, NetworksConfig, PluginError};
use coracle_types::{Kind, Kinded};

use crate::fresh::{ask, end, fresh_test, inside, neighbour, pod, reason, serve, sh};

fresh_test! {
    async fn root_pods_reach_gateway_and_each_other(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        networks.status().await.unwrap();
        let (a, b) = (pod(&networks, &[]).await, pod(&networks, &[]).await);
        let first = networks.attach(a.clone()).await.unwrap();
        let second = networks.attach(b.clone()).await.unwrap();
        assert_eq!(first.ips[0].to_string(), "10.77.0.2");
        assert_eq!(second.ips[0].to_string(), "10.77.0.3");
        assert_eq!(networks.attachment(&a.id), Some(first.clone()));
        assert_eq!(first.interfaces.iter().map(|interface| interface.name.len()).collect::<Vec<_>>(), [7, 15, 4]);
        let route = sh(&format!("ip netns exec tested-{} ip route", a.id));
        assert!(route.contains("default via 10.77.0.1 dev eth0"), "{route}");

        serve(&a.netns, "0.0.0.0:80", "a");
        serve("/proc/self/ns/net".as_ref(), "10.77.0.1:81", "host");
        let to_a: SocketAddr = "10.77.0.2:80".parse().unwrap();
        assert_eq!(ask(to_a).unwrap(), "a 10.77.0.1");
        assert_eq!(inside(&b.netns, || ask(to_a)).unwrap(), "a 10.77.0.3");
        assert_eq!(inside(&b.netns, || ask("10.77.0.1:81".parse().unwrap())).unwrap(), "host 10.77.0.3");
        networks.check(&a.id).await.unwrap();

        end(&networks, a.clone()).await;
        end(&networks, b).await;
        // Once more, and for a pod that never was.
        end(&networks, a.clone()).await;
        assert_eq!(networks.check(&a.id).await.unwrap_err().kind(), Kind::NotFound);
        networks.settle().await;
        machine.assert_no_pods("tested");
        networks.remove_instance_objects().await.unwrap();
        assert_eq!(sh("nft list ruleset"), "");
        assert!(!sh("ip -o link").contains("tested0"));
    }
}

fresh_test! {
    async fn root_dual_stack_pods_leave_with_the_hosts_address(machine) {
        let config = machine.with_default(&["10.77.0.0/24", "fd00:77::/64"]);
        let networks = Networks::start(config).await.unwrap();
        let outside = neighbour();
        serve(&outside, "[::]:80", "out");
        let web = pod(&networks, &[]).await;
        let attachment = networks.attach(web.clone()).await.unwrap();
        let ips: Vec<String> = attachment.ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.77.0.2", "fd00:77::2"]);
        let to = |address: &str| inside(&web.netns, || ask(address.parse().unwrap()));
        assert_eq!(to("192.0.2.2:80").unwrap(), "out 192.0.2.1");
        assert_eq!(to("[2001:db8::2]:80").unwrap(), "out 2001:db8::1");
        networks.check(&web.id).await.unwrap();
        end(&networks, web).await;
        networks.settle().await;
        sh("ip link del cable; ip netns del outside");
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_ipv6_alone_and_preference(machine) {
        let only = machine.with_default(&["fd00:77::/64"]);
        let networks = Networks::start(only).await.unwrap();
        let (a, b) = (pod(&networks, &[]).await, pod(&networks, &[]).await);
        networks.attach(a.clone()).await.unwrap();
        assert_eq!(networks.attach(b.clone()).await.unwrap().ips[0].to_string(), "fd00:77::3");
        serve(&a.netns, "[::]:80", "a");
        assert_eq!(inside(&b.netns, || ask("[fd00:77::2]:80".parse().unwrap())).unwrap(), "a fd00:77::3");
        end(&networks, a).await;
        end(&networks, b).await;
        networks.settle().await;
        networks.remove_instance_objects().await.unwrap();
        drop(networks);

        let config = NetworksConfig {
            address_preference: AddressPreference::Ipv6,
            ..machine.with_default(&["10.77.0.0/24", "fd00:77::/64"])
        };
        let networks = Networks::start(config).await.unwrap();
        let a = pod(&networks, &[]).await;
        assert!(networks.attach(a.clone()).await.unwrap().ips[0].is_ipv6());
        end(&networks, a).await;
    }
}

fresh_test! {
    async fn root_options_of_the_bridge_are_obeyed(machine) {
        machine.configure("10-x.conflist", r#"{"cniVersion":"1.0.0","name":"opts","plugins":[
            {"type":"loopback"},
            {"type":"bridge","bridge":"br-opts","isGateway":true,"hairpinMode":true,"mtu":1400,"portIsolation":true,
             "dns":{"nameservers":["10.1.1.1"]},
             "ipam":{"type":"host-local","dataDir":"/run/machine/networks",
                "ranges":[[{"subnet":"10.5.0.0/24","rangeStart":"10.5.0.10","rangeEnd":"10.5.0.11","gateway":"10.5.0.254"}]],
                "routes":[{"dst":"10.6.0.0/16"},{"dst":"10.7.0.0/16","gw":"10.5.0.253","mtu":1300,"priority":7}]}}]}"#);
        let networks = Networks::start(machine.config()).await.unwrap();
        let (a, b, c) = (pod(&networks, &[]).await, pod(&networks, &[]).await, pod(&networks, &[]).await);
        let attachment = networks.attach(a.clone()).await.unwrap();
        assert_eq!(attachment.dns.servers, ["10.1.1.1"]);
        let routes = sh(&format!("ip netns exec tested-{} ip route", a.id));
        assert!(routes.contains("10.6.0.0/16 via 10.5.0.254 dev eth0"), "{routes}");
        assert!(routes.contains("10.7.0.0/16 via 10.5.0.253 dev eth0 metric 7 mtu 1300"), "{routes}");
        assert!(!routes.contains("default"), "{routes}");
        let port = sh("ip -d link show type veth");
        for wanted in ["hairpin on", "isolated on", "mtu 1400", "master br-opts", &format!("alias tested/{}", a.id)] {
            assert!(port.contains(wanted), "{wanted}: {port}");
        }
        assert!(sh("ip addr show br-opts").contains("10.5.0.254/24"));

        networks.attach(b.clone()).await.unwrap();
        let full = networks.attach(c.clone()).await.unwrap_err();
        assert_eq!(full.kind(), Kind::ResourceExhausted);
        assert!(matches!(reason(&full), PluginError::Exhausted { .. }), "{full:?}");
        assert_eq!(sh("ip -o link show type veth").lines().count(), 2, "nothing of the refused pod");
        // A freed address is given again only after the others.
        end(&networks, a).await;
        assert_eq!(networks.attach(c.clone()).await.unwrap().ips[0].to_string(), "10.5.0.10");
        end(&networks, b).await;
        end(&networks, c).await;
        networks.settle().await;
        machine.assert_no_pods("opts");
    }
}

fresh_test! {
    async fn root_a_failed_attachment_leaves_nothing(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        let a = pod(&networks, &[]).await;
        // The name eth0 is taken.
        sh(&format!("ip -n tested-{} link add eth0 type bridge", a.id));
        networks.attach(a.clone()).await.unwrap_err();
        networks.settle().await;
        assert_eq!(machine.reserved("tested"), Vec::<String>::new());
        assert!(!sh("ip -o link").contains("veth"));
        sh(&format!("ip -n tested-{} link del eth0", a.id));
        networks.attach(a.clone()).await.unwrap();
        assert_eq!(networks.attach(a.clone()).await.unwrap_err().kind(), Kind::AlreadyExists);
        end(&networks, a.clone()).await;
        // No namespace at all.
        assert!(matches!(networks.attach(a).await.unwrap_err(), Error::Netns { .. }));

        // The bridge's name is another link's.
        networks.settle().await;
        networks.remove_instance_objects().await.unwrap();
        sh("ip link add tested0 type veth peer name other");
        let b = pod(&networks, &[]).await;
        let error = networks.attach(b.clone()).await.unwrap_err();
        assert!(matches!(reason(&error), PluginError::Config { .. }), "{error:?}");
        end(&networks, b).await;
        sh("ip link del tested0");
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_a_stopped_pods_address_is_mute_at_once(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/29"])).await.unwrap();
        let (old, new) = (pod(&networks, &[]).await, pod(&networks, &[]).await);
        networks.attach(old.clone()).await.unwrap();
        serve(&old.netns, "0.0.0.0:80", "old");
        let at: SocketAddr = "10.77.0.2:80".parse().unwrap();
        assert_eq!(ask(at).unwrap(), "old 10.77.0.1");
        // Its namespace lives on, as with a process that takes its time.
        networks.detach(old.clone()).await.unwrap();
        std::fs::remove_file(machine.root.join("networks/tested/last_reserved_ip.0")).unwrap();
        assert_eq!(networks.attach(new.clone()).await.unwrap().ips[0].to_string(), "10.77.0.2");
        serve(&new.netns, "0.0.0.0:80", "new");
        assert_eq!(ask(at).unwrap(), "new 10.77.0.1");
        networks.settle().await;
        assert_eq!(sh("ip -o link show type veth").lines().count(), 1);
        networks.remove_netns(&old.id).await.unwrap();
        end(&networks, new).await;
    }
}
