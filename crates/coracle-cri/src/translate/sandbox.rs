//! Pod sandboxes.

use std::net::IpAddr;

use coracle_engine::api::{PodFilter, PodStatus, PodSummary};
use coracle_proto::cri;
use coracle_types::pod::{
    DnsConfig, PodSandboxConfig, PodSandboxMetadata, PodSandboxState, PortMapping, Protocol,
};

use super::{FieldError, container, id_filter, known, resources, security};

pub(crate) fn config(wire: cri::PodSandboxConfig) -> Result<PodSandboxConfig, FieldError> {
    let metadata = wire.metadata.ok_or_else(|| FieldError::missing("metadata"))?;
    let linux = wire.linux.unwrap_or_default();
    let port_mappings = wire
        .port_mappings
        .into_iter()
        .enumerate()
        .map(|(index, mapping)| port(mapping).map_err(|e| e.within(&format!("port_mappings[{index}]"))))
        .collect::<Result<_, _>>()?;
    Ok(PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: metadata.name,
            uid: metadata.uid,
            namespace: metadata.namespace,
            attempt: metadata.attempt,
        },
        hostname: wire.hostname,
        log_directory: wire.log_directory,
        dns: wire.dns_config.map(|dns| DnsConfig {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        }),
        port_mappings,
        labels: wire.labels,
        annotations: wire.annotations,
        cgroup_parent: linux.cgroup_parent,
        security: security::pod(linux.security_context.unwrap_or_default())
            .map_err(|e| e.within("linux.security_context"))?,
        sysctls: linux.sysctls,
        overhead: linux.overhead.map(resources::from_wire),
        resources: linux.resources.map(resources::from_wire),
    })
}

fn port(wire: cri::PortMapping) -> Result<PortMapping, FieldError> {
    let number = |field: &str, value: i32| {
        u16::try_from(value).map_err(|_| FieldError::new(field, value, "a port from 0 to 65535"))
    };
    Ok(PortMapping {
        protocol: match known("protocol", wire.protocol)? {
            cri::Protocol::Tcp => Protocol::Tcp,
            cri::Protocol::Udp => Protocol::Udp,
            cri::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: number("container_port", wire.container_port)?,
        host_port: number("host_port", wire.host_port)?,
        host_ip: match wire.host_ip.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| FieldError::new("host_ip", text, "an IPv4 or IPv6 address"))?,
            ),
        },
    })
}

pub(crate) fn filter(wire: Option<cri::PodSandboxFilter>) -> Result<PodFilter, FieldError> {
    let Some(wire) = wire else {
        return Ok(PodFilter::default());
    };
    let state = wire
        .state
        .map(|value| known("filter.state", value.state))
        .transpose()?;
    Ok(PodFilter {
        id: id_filter(wire.id),
        state: state.map(|state| match state {
            cri::PodSandboxState::SandboxReady => PodSandboxState::Ready,
            cri::PodSandboxState::SandboxNotready => PodSandboxState::NotReady,
        }),
        labels: wire.label_selector,
    })
}

fn state(own: PodSandboxState) -> i32 {
    let wire = match own {
        PodSandboxState::Ready => cri::PodSandboxState::SandboxReady,
        PodSandboxState::NotReady => cri::PodSandboxState::SandboxNotready,
    };
    wire.into()
}

fn metadata(own: PodSandboxMetadata) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: own.name,
        uid: own.uid,
        namespace: own.namespace,
        attempt: own.attempt,
    }
}

pub(crate) fn summary(own: PodSummary) -> cri::PodSandbox {
    cri::PodSandbox {
        id: own.id.into(),
        metadata: Some(metadata(own.metadata)),
        state: state(own.state),
        created_at: own.created_at.0,
        labels: own.labels,
        annotations: own.annotations,
        runtime_handler: own.handler.0,
    }
}

/// A status whole; `image_of` says what is known of a container's image.
pub(crate) fn status(own: PodStatus, image_of: &container::ImageLookup<'_>) -> cri::PodSandboxStatusResponse {
    let pod = own.summary;
    cri::PodSandboxStatusResponse {
        status: Some(cri::PodSandboxStatus {
            id: pod.id.into(),
            metadata: Some(metadata(pod.metadata)),
            state: state(pod.state),
            created_at: pod.created_at.0,
            network: Some(network(&own.ips)),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace {
                    options: Some(security::namespaces_to_wire(own.namespaces)),
                }),
            }),
            labels: pod.labels,
            annotations: pod.annotations,
            runtime_handler: pod.handler.0,
        }),
        info: own.info,
        containers_statuses: own
            .containers
            .into_iter()
            .map(|status| container::status(status, image_of))
            .collect(),
        timestamp: own.timestamp.0,
    }
}

fn network(ips: &[IpAddr]) -> cri::PodSandboxNetworkStatus {
    let mut addresses = ips.iter().map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: addresses.next().unwrap_or_default(),
        additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_port(mapping: cri::PortMapping) -> Result<PodSandboxConfig, FieldError> {
        config(cri::PodSandboxConfig {
            metadata: Some(cri::PodSandboxMetadata::default()),
            port_mappings: vec![mapping],
            ..Default::default()
        })
    }

    #[test]
    fn ports_protocols_and_addresses_that_are_none_are_refused() {
        let good = cri::PortMapping {
            container_port: 65535,
            host_ip: "::1".into(),
            ..Default::default()
        };
        assert_eq!(
            with_port(good.clone()).unwrap().port_mappings[0].container_port,
            65535
        );
        let bad = [
            (
                cri::PortMapping {
                    container_port: 65536,
                    ..good.clone()
                },
                "container_port: 65536",
            ),
            (
                cri::PortMapping {
                    host_port: -1,
                    ..good.clone()
                },
                "host_port: -1",
            ),
            (
                cri::PortMapping {
                    protocol: 3,
                    ..good.clone()
                },
                "protocol: 3",
            ),
            (
                cri::PortMapping {
                    host_ip: "1.2.3".into(),
                    ..good
                },
                "host_ip: \"1.2.3\"",
            ),
        ];
        for (mapping, words) in bad {
            let text = with_port(mapping).unwrap_err().to_string();
            assert!(
                text.starts_with("port_mappings[0].") && text.contains(words),
                "{text}"
            );
        }
    }

    #[test]
    fn the_first_address_is_the_primary_one() {
        let ips = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let wire = network(&ips);
        assert_eq!(
            (wire.ip.as_str(), wire.additional_ips[0].ip.as_str()),
            ("10.0.0.2", "fd00::2")
        );
        assert_eq!(network(&[]), cri::PodSandboxNetworkStatus::default());
    }
}
