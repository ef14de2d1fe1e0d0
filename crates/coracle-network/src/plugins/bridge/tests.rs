//! Tests of what the bridge decides without a kernel.

use serde_json::{Value, json};

use super::*;

fn read(value: Value) -> Result<Option<Config>, PluginError> {
    Config::read(value.as_object().unwrap(), "net")
}

#[test]
fn what_only_the_program_does_is_left_to_it() {
    let ipam = json!({ "type": "host-local", "ranges": [[{ "subnet": "10.0.0.0/24" }]] });
    assert!(
        read(json!({ "type": "bridge", "bridge": "b0", "ipam": ipam, "vlan": 0 }))
            .unwrap()
            .is_some()
    );
    for other in [
        json!({ "vlan": 5 }),
        json!({ "macspoofchk": true }),
        json!({ "somethingNew": 1 }),
        json!({ "ipam": { "type": "dhcp" } }),
        json!({ "ipam": { "type": "host-local", "somethingNew": 1 } }),
        json!({ "ipMasqBackend": "iptables" }),
    ] {
        assert!(read(other.clone()).unwrap().is_none(), "{other}");
    }
}

#[test]
fn wrong_values_name_their_field() {
    for (value, field) in [
        (json!({ "bridge": "a/b" }), "bridge"),
        (json!({ "bridge": "this-name-is-too-long" }), "bridge"),
        (json!({ "mtu": 12 }), "mtu"),
        (json!({ "mtu": "x" }), "type bridge"),
        (json!({ "hairpinMode": true, "promiscMode": true }), "hairpinMode"),
        (
            json!({ "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.0.0.1/24" }]] } }),
            "subnet",
        ),
    ] {
        let error = read(value.clone()).unwrap_err().to_string();
        assert!(error.contains(field), "{value}: {error}");
    }
}

#[test]
fn a_bridge_with_other_addresses_is_not_taken() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    assert!(refuse_strangers("b", net("10.0.0.1/24"), &[net("10.0.0.1/24"), net("fe80::1/64")]).is_ok());
    assert!(refuse_strangers("b", net("10.0.0.1/24"), &[net("192.168.0.1/24")]).is_err());
    assert!(refuse_strangers("b", net("fd00::1/64"), &[net("fd01::1/64"), net("10.0.0.1/8")]).is_ok());
    assert!(refuse_strangers("b", net("fd00::1/64"), &[net("fd00::2/64")]).is_err());
}

#[test]
fn routes_find_their_gateway() {
    let lease = host_local::Lease {
        ips: ["10.0.0.2/24 10.0.0.1", "fd00::2/64 fd00::1"]
            .iter()
            .map(|text| {
                let (address, gateway) = text.split_once(' ').unwrap();
                IpConfig {
                    interface: None,
                    address: address.parse().unwrap(),
                    gateway: gateway.parse().ok(),
                }
            })
            .collect(),
        routes: serde_json::from_value(
            json!([{ "dst": "0.0.0.0/0" }, { "dst": "10.9.0.0/16", "gw": "10.0.0.9" }]),
        )
        .unwrap(),
        ..host_local::Lease::default()
    };
    let routes = routes_of(
        &Written {
            is_default_gateway: true,
            ..Written::default()
        },
        &lease,
    );
    let text: Vec<String> = routes
        .iter()
        .map(|route| format!("{} {}", route.to, route.via.unwrap()))
        .collect();
    assert_eq!(
        text,
        ["0.0.0.0/0 10.0.0.1", "10.9.0.0/16 10.0.0.9", "::/0 fd00::1"]
    );
}
