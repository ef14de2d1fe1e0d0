//! What pods find on the network, and who finds them. Needs root.

use std::io::{Read, Write};

use anyhow::Result;
use coracle_proto::cri;
use coracle_testkit::cri::{ContainerSpec, PodSpec};
use coracle_tests::checks::holds;
use coracle_tests::{Bed, Plan};

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_each_other_and_the_node_reaches_them() -> Result<()> {
    let bed = Bed::make().await?;
    let (server, inside) = bed.idle_pod("server").await?;
    let (client, asking) = bed.idle_pod("client").await?;
    let (ip, other) = (server.ip().await?, client.ip().await?);
    assert_ne!(ip, other);
    inside
        .exec(&["sh", "-c", "echo page > /tmp/index.html; httpd -p 80 -h /tmp"])
        .await?;
    assert_eq!(
        asking
            .exec(&["wget", "-qO-", &format!("http://{ip}/")])
            .await?
            .stdout,
        "page\n"
    );
    let mut stream = bed.node().connect(format!("{ip}:80").parse()?)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    holds(&answer, &["200 OK", "page"]);
    // The namespace is where `ip netns` sees it, named by the instance and the pod.
    let listed = bed.node().run("ip", &["netns", "list"])?;
    holds(&listed, &[&format!("{}-{}", bed.node().instance(), server.id())]);
    server.remove().await?;
    client.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_the_node_lead_into_the_pod() -> Result<()> {
    let bed = Bed::make().await?;
    let spec = PodSpec::new("published").publish(12000, 80);
    let pod = bed.runtime.run_pod(spec).await?;
    let container = pod.run(&ContainerSpec::idle("web", &bed.busybox)).await?;
    container
        .exec(&[
            "sh",
            "-c",
            "echo published > /tmp/index.html; httpd -p 80 -h /tmp",
        ])
        .await?;
    let mut stream = bed.node().connect("127.0.0.1:12000".parse()?)?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    holds(&answer, &["published"]);
    pod.remove().await?;
    assert!(
        bed.node().connect("127.0.0.1:12000".parse()?).is_err(),
        "the port leads nowhere any more"
    );
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_resolved_as_asked() -> Result<()> {
    let bed = Bed::make().await?;
    let spec = PodSpec::new("names").with(|config| {
        config.hostname = "named".into();
        config.dns_config = Some(cri::DnsConfig {
            servers: vec!["10.10.10.10".into()],
            searches: vec!["example.org".into()],
            options: vec!["ndots:8".into()],
        });
    });
    let pod = bed.runtime.run_pod(spec).await?;
    let container = pod.run(&ContainerSpec::idle("names", &bed.busybox)).await?;
    let text = container.exec(&["cat", "/etc/resolv.conf"]).await?.stdout;
    holds(
        &text,
        &["nameserver 10.10.10.10", "search example.org", "options ndots:8"],
    );
    assert_eq!(
        container.exec(&["cat", "/etc/hostname"]).await?.stdout.trim(),
        "named"
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_network_is_given_when_asked_for() -> Result<()> {
    let bed = Bed::make().await?;
    let pod = bed
        .runtime
        .run_pod(PodSpec::new("of-the-node").host_network())
        .await?;
    let spec = ContainerSpec::idle("main", &bed.busybox).security(|security| {
        security.namespace_options.get_or_insert_default().network = cri::NamespaceMode::Node.into();
    });
    let container = pod.run(&spec).await?;
    let link = "/proc/self/ns/net";
    assert_eq!(
        container.exec(&["readlink", link]).await?.stdout,
        bed.node().run("readlink", &[link])?
    );
    pod.remove().await?;
    bed.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_there_is_a_default_network() -> Result<()> {
    let bed = Bed::planned(Plan::default()).await?;
    let (pod, container) = bed.idle_pod("default").await?;
    let ip = pod.ip().await?;
    assert!(!ip.is_empty());
    holds(
        &container
            .exec(&["ip", "addr", "show", "dev", "eth0"])
            .await?
            .stdout,
        &[&ip],
    );
    holds(&container.exec(&["ip", "route"]).await?.stdout, &["default via"]);
    pod.remove().await?;
    bed.leave().await
}
