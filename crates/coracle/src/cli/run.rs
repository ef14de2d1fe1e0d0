//! What `run` takes.

use std::net::IpAddr;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::manifest::{ManifestArgs, is_manifest};

/// A container to run, or manifests with pods.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Image, pulled when it is not on the node; or Kubernetes manifests: files that end in .yaml, .yml or
    /// .json, or `-` for standard input
    #[arg(value_name = "IMAGE|MANIFEST", required_unless_present = "files", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) what: Vec<String>,
    /// What goes with manifests.
    #[command(flatten)]
    pub(crate) manifest: ManifestArgs,
    /// Program and arguments; the image's own when left out
    #[arg(last = true)]
    pub(crate) command: Vec<String>,
    /// Name of the pod [default: made from the image's]
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: Option<String>,
    /// Return when it runs, instead of showing what it prints until it ends
    #[arg(long, short)]
    pub(crate) detach: bool,
    /// Keep the pod after its container has ended
    #[arg(long)]
    pub(crate) keep: bool,
    /// Environment variable; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = parse_variable)]
    pub(crate) env: Vec<Variable>,
    /// Port of the host that leads to one of the pod; may be given several times
    #[arg(long, short, value_name = "[IP:]HOST:POD[/udp]", value_parser = parse_publish)]
    pub(crate) publish: Vec<Publish>,
    /// Use the host's network
    #[arg(long)]
    pub(crate) host_network: bool,
    /// Working directory inside
    #[arg(long, short, value_name = "DIR", default_value = "")]
    pub(crate) workdir: String,
}

impl RunArgs {
    /// Whether manifests are meant, and no image.
    pub(crate) fn has_manifests(&self) -> bool {
        !self.manifest.files.is_empty() || self.what.iter().any(|what| is_manifest(what))
    }

    /// The manifests' files.
    pub(crate) fn manifests(&self) -> Vec<String> {
        self.manifest.files.iter().chain(&self.what).cloned().collect()
    }

    /// The image.
    pub(crate) fn image(&self) -> &str {
        self.what.first().map_or("", String::as_str)
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    /// Address of the host that listens.
    pub(crate) host_ip: Option<IpAddr>,
    /// Port of the host.
    pub(crate) host_port: u16,
    /// Port of the pod.
    pub(crate) pod_port: u16,
    /// UDP instead of TCP.
    pub(crate) udp: bool,
}

/// A variable of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Variable {
    /// Before the first `=`.
    pub(crate) name: String,
    /// Behind it.
    pub(crate) value: String,
}

fn parse_variable(text: &str) -> Result<Variable, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok(Variable {
            name: name.to_owned(),
            value: value.to_owned(),
        }),
        Some(_) => Err("a variable needs a name before the =".to_owned()),
        // Others take its value from the environment here: what a container gets is to be read on the line.
        None => Err(format!("write NAME=VALUE; the one of here is {text}=\"${text}\"")),
    }
}

fn parse_publish(text: &str) -> Result<Publish, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let udp = match protocol {
        "tcp" => false,
        "udp" => true,
        other => return Err(format!("protocol {other:?} is neither tcp nor udp")),
    };
    let (rest, pod) = ports
        .rsplit_once(':')
        .ok_or("write it as HOST:POD, for instance 8080:80")?;
    let (ip, host) = match rest.rsplit_once(':') {
        Some((ip, host)) => (Some(ip.trim_matches(['[', ']'])), host),
        None => (None, rest),
    };
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{text:?} is no port: 1 to 65535")),
    };
    let host_ip = ip
        .map(|ip| ip.parse().map_err(|_| format!("{ip:?} is no address")))
        .transpose()?;
    Ok(Publish {
        host_ip,
        host_port: port(host)?,
        pod_port: port(pod)?,
        udp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_bad_ones_named() {
        let variable = |text| parse_variable(text).map(|one| (one.name, one.value));
        let pair = |name: &str, value: &str| Ok((name.to_owned(), value.to_owned()));
        assert_eq!(variable("A=b=c"), pair("A", "b=c"));
        assert_eq!(variable("A="), pair("A", ""));
        assert!(variable("=b").is_err());
        assert!(variable("A").unwrap_err().contains("NAME=VALUE"));
    }

    #[test]
    fn published_ports_are_read_and_bad_ones_named() {
        let plain = parse_publish("8080:80").unwrap();
        assert_eq!(
            (plain.host_ip, plain.host_port, plain.pod_port, plain.udp),
            (None, 8080, 80, false)
        );
        let full = parse_publish("127.0.0.1:53:5353/udp").unwrap();
        assert_eq!(
            (full.host_ip, full.host_port, full.udp),
            (Some([127, 0, 0, 1].into()), 53, true)
        );
        assert!(parse_publish("[::1]:1:2").unwrap().host_ip.is_some());
        for bad in [
            "80",
            "0:80",
            "80:0",
            "x:80",
            "1:2/sctp",
            "70000:1",
            "300.0.0.1:1:2",
        ] {
            assert!(parse_publish(bad).is_err(), "{bad}");
        }
    }
}
