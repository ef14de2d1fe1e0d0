//! Contents of the files that a pod's containers share: resolver, hosts, host name.

use std::fmt::Write;
use std::net::IpAddr;

use coracle_types::pod::DnsConfig;

/// `resolv.conf` as resolv.conf(5) reads it; empty when the configuration says nothing, in which
/// case the node's own file is what CRI wants. The configuration must have passed
/// [`crate::validate_pod`], which keeps line breaks out.
#[must_use]
pub fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    let mut line = |keyword: &str, words: &[String]| {
        if !words.is_empty() {
            writeln!(text, "{keyword} {}", words.join(" ")).expect("a string grows as it must");
        }
    };
    line("search", &dns.searches);
    for server in &dns.servers {
        line("nameserver", std::slice::from_ref(server));
    }
    line("options", &dns.options);
    text
}

/// `hosts` with the loopback names and the pod's addresses, for pods to which the kubelet gives none.
#[must_use]
pub fn hosts_file(hostname: &str, addresses: &[IpAddr]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    if !hostname.is_empty() {
        for address in addresses {
            writeln!(text, "{address}\t{hostname}").expect("a string grows as it must");
        }
    }
    text
}

/// `hostname`: the name and a line end.
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolver_file_has_a_line_a_server() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into(), "fd00::a".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a.svc svc\nnameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }

    #[test]
    fn the_pods_name_leads_to_each_address() {
        let text = hosts_file("web", &[IpAddr::from([10, 1, 0, 7])]);
        assert!(text.ends_with("10.1.0.7\tweb\n"), "{text}");
        assert_eq!(hostname_file("web"), "web\n");
    }
}
