//! Probes and hooks: what a manifest says of them.

use crate::container::{Port, Protocol};
use crate::fields::{At, Fields};

/// The three probes of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Probes {
    /// Must succeed once before the others begin; its failure ends the container.
    pub startup: Option<Probe>,
    /// Its failure ends the container.
    pub liveness: Option<Probe>,
    /// Its failure makes the container not ready.
    pub readiness: Option<Probe>,
}

/// How and when a container is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is done.
    pub action: Action,
    /// Seconds after the container's start before the first time.
    pub initial_delay: u32,
    /// Seconds from one time to the next.
    pub period: u32,
    /// Seconds after which no answer is a failure.
    pub timeout: u32,
    /// So many successes in a row count.
    pub success_threshold: u32,
    /// So many failures in a row count.
    pub failure_threshold: u32,
    /// Seconds between stop signal and KILL when it ends the container, instead of the pod's.
    pub grace_seconds: Option<u32>,
}

/// What is done after a container's start and before its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// Right after its start.
    pub post_start: Option<Action>,
    /// Before its stop signal.
    pub pre_stop: Option<Action>,
    /// The signal that stops it, instead of the image's.
    pub stop_signal: Option<String>,
}

/// A probe's or hook's action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A command in the container; exit code 0 is success.
    Exec(Vec<String>),
    /// An HTTP GET; 200 to 399 is success.
    HttpGet(HttpGet),
    /// A TCP connection; one that is made is success.
    TcpSocket {
        /// Host; the pod's address when empty.
        host: String,
        /// Port.
        port: u16,
    },
    /// gRPC's health check; `SERVING` is success.
    Grpc {
        /// Port.
        port: u16,
        /// Service that is asked for; may be empty.
        service: String,
    },
    /// Waiting; hooks only.
    Sleep {
        /// For so long.
        seconds: u32,
    },
}

/// An HTTP GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// Host to connect to; the pod's address when empty.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// With TLS; the certificate is not checked, as the kubelet does not.
    pub tls: bool,
    /// Headers.
    pub headers: Vec<(String, String)>,
}

/// Which probe is read: some fields have one value only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ending,
    Readiness,
}

pub(crate) fn probes(fields: &mut Fields<'_>, ports: &[Port]) -> Probes {
    let mut read = |name, kind| fields.get(name).and_then(|at| probe(&at, ports, kind));
    Probes {
        startup: read("startupProbe", Kind::Ending),
        liveness: read("livenessProbe", Kind::Ending),
        readiness: read("readinessProbe", Kind::Readiness),
    }
}

fn probe(at: &At<'_>, ports: &[Port], kind: Kind) -> Option<Probe> {
    let mut fields = at.fields()?;
    let action = action(&mut fields, ports, &["exec", "httpGet", "tcpSocket", "grpc"]);
    let mut count = |name, least, usual| {
        let given = fields.get(name).and_then(|at| at.count(least));
        given.unwrap_or(usual)
    };
    // Each is read also where the action is wrong, or they would count as unknown.
    let (initial_delay, period) = (count("initialDelaySeconds", 0, 0), count("periodSeconds", 1, 10));
    let timeout = count("timeoutSeconds", 1, 1);
    let (success_threshold, failure_threshold) =
        (count("successThreshold", 1, 1), count("failureThreshold", 1, 3));
    let probe = action.map(|action| Probe {
        action,
        initial_delay,
        period,
        timeout,
        success_threshold,
        failure_threshold,
        grace_seconds: None,
    });
    let grace = fields.get("terminationGracePeriodSeconds");
    if let (Some(at), Kind::Readiness) = (&grace, kind) {
        at.refuse("a readiness probe ends no container: take it away");
    }
    let grace_seconds = grace.and_then(|at| at.count(1));
    if probe.as_ref().is_some_and(|probe| probe.success_threshold != 1) && kind == Kind::Ending {
        at.refuse("successThreshold must be 1 for liveness and startup probes");
    }
    fields.finish();
    probe.map(|probe| Probe {
        grace_seconds,
        ..probe
    })
}

pub(crate) fn lifecycle(at: &At<'_>, ports: &[Port]) -> Lifecycle {
    let Some(mut fields) = at.fields() else {
        return Lifecycle::default();
    };
    let mut hook = |name| {
        let at = fields.get(name)?;
        let mut inner = at.fields()?;
        inner.refused(
            &["tcpSocket"],
            "a hook of this kind does nothing in Kubernetes either: take exec, httpGet or sleep",
        );
        let action = action(&mut inner, ports, &["exec", "httpGet", "sleep"]);
        inner.finish();
        action
    };
    let lifecycle = Lifecycle {
        post_start: hook("postStart"),
        pre_stop: hook("preStop"),
        stop_signal: fields.get("stopSignal").and_then(|at| signal(&at)),
    };
    fields.finish();
    lifecycle
}

fn signal(at: &At<'_>) -> Option<String> {
    let text = at.text()?;
    let well_formed = text.strip_prefix("SIG").is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"+-".contains(&b))
    });
    if !well_formed {
        at.refuse(format!("{text:?}: give a signal such as SIGTERM"));
        return None;
    }
    Some(text)
}

/// The one action that is given, of those that are allowed.
fn action(fields: &mut Fields<'_>, ports: &[Port], allowed: &[&'static str]) -> Option<Action> {
    let mut found: Vec<(&str, Option<Action>)> = Vec::new();
    for name in allowed {
        let Some(at) = fields.get(name) else { continue };
        let action = match *name {
            "exec" => exec(&at),
            "httpGet" => http_get(&at, ports),
            "tcpSocket" => tcp_socket(&at, ports),
            "grpc" => grpc(&at),
            _ => sleep(&at),
        };
        found.push((name, action));
    }
    match found.len() {
        1 => found.remove(0).1,
        0 => {
            fields
                .at
                .refuse(format!("says not what to do: give one of {}", allowed.join(", ")));
            None
        }
        _ => {
            let names: Vec<_> = found.iter().map(|(name, _)| *name).collect();
            fields
                .at
                .refuse(format!("has {} at once: keep one", names.join(" and ")));
            None
        }
    }
}

fn exec(at: &At<'_>) -> Option<Action> {
    let mut fields = at.fields()?;
    let command = fields.required("command").map(|at| (at.texts(), at));
    fields.finish();
    match command {
        Some((command, at)) if command.is_empty() => {
            at.refuse("is empty: give a program and its arguments");
            None
        }
        command => command.map(|(command, _)| Action::Exec(command)),
    }
}

fn http_get(at: &At<'_>, ports: &[Port]) -> Option<Action> {
    let mut fields = at.fields()?;
    let port = fields.required("port").and_then(|at| port(&at, ports));
    let path = fields.text("path");
    let host = fields.text("host");
    let tls = fields
        .get("scheme")
        .and_then(|at| at.one_of(&[("HTTP", false), ("HTTPS", true)]));
    let headers = fields
        .get("httpHeaders")
        .map(|at| headers(&at))
        .unwrap_or_default();
    fields.finish();
    let smuggles = |text: &str| text.bytes().any(|b| b.is_ascii_control() || b == b' ');
    if smuggles(&path) || smuggles(&host) {
        at.refuse("path and host must have no blanks and no line breaks: write %20 for a blank");
        return None;
    }
    Some(Action::HttpGet(HttpGet {
        host,
        port: port?,
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        tls: tls.unwrap_or(false),
        headers,
    }))
}

fn headers(at: &At<'_>) -> Vec<(String, String)> {
    let header = |at: At<'_>| {
        let mut fields = at.fields()?;
        let name = fields.required("name").and_then(|at| at.text());
        let value = fields.text("value");
        fields.finish();
        let name = name?;
        let is_token = !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&b));
        if !is_token || value.bytes().any(|b| b.is_ascii_control()) {
            at.refuse(format!(
                "{name:?}: a header's name is letters, digits and '-', its value one line"
            ));
            return None;
        }
        Some((name, value))
    };
    at.list().into_iter().filter_map(header).collect()
}

fn tcp_socket(at: &At<'_>, ports: &[Port]) -> Option<Action> {
    let mut fields = at.fields()?;
    let port = fields.required("port").and_then(|at| port(&at, ports));
    let host = fields.text("host");
    fields.finish();
    Some(Action::TcpSocket { host, port: port? })
}

fn grpc(at: &At<'_>) -> Option<Action> {
    let mut fields = at.fields()?;
    let port = fields.required("port").and_then(|at| at.port());
    let service = fields.text("service");
    fields.finish();
    Some(Action::Grpc { port: port?, service })
}

fn sleep(at: &At<'_>) -> Option<Action> {
    let mut fields = at.fields()?;
    let seconds = fields.required("seconds").and_then(|at| at.count(0));
    fields.finish();
    Some(Action::Sleep { seconds: seconds? })
}

/// A number, or the name of one of the container's ports.
fn port(at: &At<'_>, ports: &[Port]) -> Option<u16> {
    let text = at.node.scalar().unwrap_or_default();
    if text.is_empty() || text.starts_with(|first: char| first.is_ascii_digit() || first == '-') {
        return at.port();
    }
    let named = ports
        .iter()
        .find(|port| port.name == text && port.protocol == Protocol::Tcp);
    if named.is_none() {
        let names: Vec<&str> = ports
            .iter()
            .map(|port| port.name.as_str())
            .filter(|name| !name.is_empty())
            .collect();
        at.refuse(match names.as_slice() {
            [] => format!("{text:?} is no port of this container: give a number, or name one under ports"),
            _ => format!(
                "{text:?} is no TCP port of this container: give a number or one of {}",
                names.join(", ")
            ),
        });
    }
    named.map(|port| port.container)
}
