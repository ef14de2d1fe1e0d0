//! The types of single keys: sizes, times, addresses, names; each refuses what cannot be and says how to
//! write it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use coracle_engine::api::CgroupDriver;
use coracle_network::AddressPreference;
use coracle_snapshot::Layers;
use coracle_types::Instance;
use ipnet::IpNet;
use serde_json::json;

use super::value::{Setting, Value, quoted};
use crate::cli::LogFormat;

fn text_of<T: Setting>(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) | Value::Word(text) => Ok(text),
        _ => Err(T::refuse()),
    }
}

/// Bytes: a number, or text with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Size(pub(crate) u64);

impl Setting for Size {
    const WHAT: &'static str = "bytes, or a size with its unit such as \"64MiB\" or \"16MB\"";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Whole(bytes) => u64::try_from(*bytes).map(Self).map_err(|_| Self::refuse()),
            _ => text_of::<Self>(value)?
                .parse::<ByteSize>()
                .map(|size| Self(size.0))
                .map_err(|_| Self::refuse()),
        }
    }

    fn write(&self) -> String {
        let units = [
            (1_u64 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
            (1_000_000_000, "GB"),
            (1_000_000, "MB"),
        ];
        let fits = units
            .iter()
            .filter(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit));
        match fits.min_by_key(|(unit, _)| self.0 / unit) {
            Some((unit, name)) => quoted(&format!("{}{name}", self.0 / unit)),
            None => self.0.to_string(),
        }
    }

    fn schema() -> serde_json::Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": "^[0-9.]+ *([KMGTPE]i?)?B?$"},
        ]})
    }
}

/// A length of time: whole seconds, or text with units. Never nothing: a deadline of 0 ends all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Time(pub(crate) Duration);

impl Time {
    /// So many seconds.
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Setting for Time {
    const WHAT: &'static str = "seconds, or a time with its unit such as \"30s\", \"500ms\" or \"1m 30s\"";

    fn read(value: &Value) -> Result<Self, String> {
        let time = match value {
            Value::Whole(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            _ => {
                let text = text_of::<Self>(value)?;
                let bare = text.parse().ok().map(Duration::from_secs);
                bare.or_else(|| humantime::parse_duration(text).ok())
            }
        };
        match time {
            None => Err(Self::refuse()),
            Some(time) if time.is_zero() => Err("it must be longer than 0".to_owned()),
            Some(time) if time > Duration::from_hours(24) => Err("it must be at most a day".to_owned()),
            Some(time) => Ok(Self(time)),
        }
    }

    fn write(&self) -> String {
        quoted(&humantime::format_duration(self.0).to_string())
    }

    fn schema() -> serde_json::Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": 1, "maximum": 86_400},
            {"type": "string", "pattern": "^[0-9]+ *[a-z]*( *[0-9]+ *[a-z]+)*$"},
        ]})
    }
}

/// How long a shim may be silent: one that is killed for less was only busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) struct Deadline(pub(crate) Duration);

impl Deadline {
    const LEAST: u64 = 5;

    /// So many seconds.
    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl Setting for Deadline {
    const WHAT: &'static str = "seconds, or a time with its unit such as \"30s\" or \"1m 30s\", 5s at least";

    fn read(value: &Value) -> Result<Self, String> {
        let time = Time::read(value)?;
        if time.0 < Duration::from_secs(Self::LEAST) {
            return Err(format!(
                "it must be at least {}s: a shim may be busy that long",
                Self::LEAST
            ));
        }
        Ok(Self(time.0))
    }

    fn write(&self) -> String {
        Time(self.0).write()
    }

    fn schema() -> serde_json::Value {
        Time::schema()
    }
}

/// Most processes; 0 for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pids(pub(crate) u32);

impl Pids {
    /// The kernel's own limit (`PID_MAX_LIMIT`).
    const MOST: u32 = 4 << 20;

    /// The limit, unless there is none.
    pub(crate) fn limit(self) -> Option<u32> {
        (self.0 > 0).then_some(self.0)
    }
}

impl Setting for Pids {
    const WHAT: &'static str = "a number from 1 to 4194304, or 0 for no limit";

    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Whole(number) => u32::try_from(*number).ok(),
            Value::Word(word) => word.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| *number <= Self::MOST)
            .map(Self)
            .ok_or_else(Self::refuse)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 0, "maximum": Self::MOST})
    }
}

/// How many: at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) usize);

/// More than anybody needs of anything that is counted here.
const MOST: usize = 1000;

impl Setting for Count {
    const WHAT: &'static str = "a number from 1 to 1000";

    fn read(value: &Value) -> Result<Self, String> {
        let number = match value {
            Value::Whole(number) => usize::try_from(*number).ok(),
            Value::Word(word) => word.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| (1..=MOST).contains(number))
            .map(Self)
            .ok_or_else(Self::refuse)
    }

    fn write(&self) -> String {
        self.0.to_string()
    }

    fn schema() -> serde_json::Value {
        json!({"type": "integer", "minimum": 1, "maximum": MOST})
    }
}

impl Setting for Instance {
    const WHAT: &'static str = "a name of a-z, 0-9, '-' and '.'";

    fn read(value: &Value) -> Result<Self, String> {
        text_of::<Self>(value)?
            .parse()
            .map_err(|error: coracle_types::MalformedId| error.to_string())
    }

    fn write(&self) -> String {
        quoted(self.as_str())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9.-]{0,62}$"})
    }
}

/// Permissions of a file, in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) u32);

impl Setting for Mode {
    const WHAT: &'static str = "permissions in octal digits such as \"0660\"";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of::<Self>(value)?;
        match u32::from_str_radix(text, 8) {
            // Whoever writes to the socket is root on this node.
            Ok(mode) if mode & 0o007 != 0 => {
                Err("others than owner and group must not reach the socket, which gives root: write \"0660\" or \"0600\"".to_owned())
            }
            Ok(mode) if mode & !0o770 == 0 && mode & 0o600 == 0o600 => Ok(Self(mode)),
            _ => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        quoted(&format!("{:04o}", self.0))
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^0?[67][0-7]0$"})
    }
}

/// A group by name or number; empty for the daemon's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Group(pub(crate) String);

impl Setting for Group {
    const WHAT: &'static str = "a group's name or number, or \"\" for the daemon's own group";

    fn read(value: &Value) -> Result<Self, String> {
        let name = match value {
            Value::Whole(number) => number.to_string(),
            _ => text_of::<Self>(value)?.to_owned(),
        };
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte);
        if name.len() <= 32 && name.bytes().all(well_formed) && !name.starts_with('-') {
            Ok(Self(name))
        } else {
            Err(Self::refuse())
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }

    fn schema() -> serde_json::Value {
        json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 0}]})
    }
}

/// Name of an AppArmor profile; empty for none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile(pub(crate) String);

impl Profile {
    /// The name, unless it is none.
    pub(crate) fn name(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| self.0.clone())
    }
}

impl Setting for Profile {
    const WHAT: &'static str = "a loaded profile's name, or \"\" for none";

    fn read(value: &Value) -> Result<Self, String> {
        let name = text_of::<Self>(value)?;
        // The kernel takes names of 256 bytes with a namespace's before it, and its lists have one a line.
        if name.len() <= 256 && !name.contains(|c: char| c.is_control() || c.is_whitespace()) {
            Ok(Self(name.to_owned()))
        } else {
            Err(Self::refuse())
        }
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^\\S*$", "maxLength": 256})
    }
}

/// A cgroup: an absolute path, or a slice where systemd makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup(pub(crate) String);

impl Setting for Cgroup {
    const WHAT: &'static str =
        "an absolute cgroup path such as \"/coracle/pods\", or a slice such as \"coracle-pods.slice\"";

    fn read(value: &Value) -> Result<Self, String> {
        let path = text_of::<Self>(value)?;
        let climbs = path.split('/').any(|part| part == "..");
        let slice = path.ends_with(".slice") && !path.contains('/');
        if climbs || !(path.starts_with('/') || slice) {
            return Err(Self::refuse());
        }
        Ok(Self(path.to_owned()))
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^(/|[^/]*\\.slice$)"})
    }
}

/// Which records are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogFilter(pub(crate) String);

impl Setting for LogFilter {
    const WHAT: &'static str =
        "error, warn, info, debug, trace, or a filter such as \"info,coracle_engine=debug\"";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of::<Self>(value)?;
        let filter = Self(text.to_owned());
        if text.trim().is_empty() || filter.targets().is_none() {
            return Err(Self::refuse());
        }
        Ok(filter)
    }

    fn write(&self) -> String {
        quoted(&self.0)
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "minLength": 1, "examples": ["error", "warn", "info", "debug", "trace"]})
    }
}

impl LogFilter {
    /// What it means; `None` when it means nothing. A word that is no level would name a crate that
    /// nobody has, so it is none.
    pub(crate) fn targets(&self) -> Option<tracing_subscriber::filter::Targets> {
        let well_formed = self.0.split(',').all(|part| {
            let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
            level
                .trim()
                .parse::<tracing_subscriber::filter::LevelFilter>()
                .is_ok()
        });
        well_formed
            .then(|| self.0.replace(' ', "").parse().ok())
            .flatten()
    }
}

impl Setting for IpNet {
    const WHAT: &'static str = "a network such as \"10.88.0.0/16\"";

    fn read(value: &Value) -> Result<Self, String> {
        text_of::<Self>(value)?.parse().map_err(|_| Self::refuse())
    }

    fn write(&self) -> String {
        quoted(&self.to_string())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "/[0-9]+$"})
    }
}

/// An image that the kubelet must not collect.
impl Setting for coracle_image::Reference {
    const WHAT: &'static str = "an image reference such as \"registry.example/app:1.2\"";

    fn read(value: &Value) -> Result<Self, String> {
        text_of::<Self>(value)?
            .parse()
            .map_err(|error| format!("{}: {error}", Self::refuse()))
    }

    fn write(&self) -> String {
        quoted(&self.to_string())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string"})
    }
}

/// Where metrics are served: nowhere, a unix socket, or an address of the loopback.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum MetricsAddress {
    /// Not served.
    #[default]
    None,
    /// A unix socket.
    Unix(PathBuf),
    /// TCP on the loopback.
    Loopback(SocketAddr),
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Loopback(address) => address.fmt(f),
        }
    }
}

impl Setting for MetricsAddress {
    const WHAT: &'static str = "\"unix:/run/coracle/metrics.sock\", \"127.0.0.1:9469\", or \"\" for none";

    fn read(value: &Value) -> Result<Self, String> {
        let text = text_of::<Self>(value)?;
        if text.is_empty() {
            return Ok(Self::None);
        }
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Self::Unix(path.into()));
        }
        match text.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Self::Loopback(address)),
            Ok(address) => Err(format!(
                "{} is no loopback address: metrics have no password and name every method and state of the node, so they stay on it; \
                 write 127.0.0.1:{} or a unix socket and let a proxy with authentication pass them on",
                address.ip(),
                address.port()
            )),
            Err(_) => Err(Self::refuse()),
        }
    }

    fn write(&self) -> String {
        quoted(&self.to_string())
    }

    fn schema() -> serde_json::Value {
        json!({"type": "string", "pattern": "^$|^(unix:)?/|^127\\.|^localhost:|^\\[::1\\]:"})
    }
}

/// A setting that is one of a few words.
macro_rules! words {
    ($type:ty: $($word:literal => $value:path),+) => {
        impl Setting for $type {
            const WHAT: &'static str = "a word";

            fn what() -> String {
                format!("one of {}", [$(quoted($word)),+].join(", "))
            }

            fn read(value: &Value) -> Result<Self, String> {
                match text_of::<Self>(value)? {
                    $($word => Ok($value),)+
                    _ => Err(Self::refuse()),
                }
            }

            fn write(&self) -> String {
                let word = match self {
                    $($value => $word,)+
                };
                quoted(word)
            }

            fn schema() -> serde_json::Value {
                json!({"enum": [$($word),+]})
            }
        }
    };
}

words!(CgroupDriver: "cgroupfs" => CgroupDriver::Cgroupfs, "systemd" => CgroupDriver::Systemd);
words!(Layers: "auto" => Layers::Auto, "overlay" => Layers::Directories, "erofs" => Layers::Images);
words!(LogFormat: "auto" => LogFormat::Auto, "text" => LogFormat::Text, "json" => LogFormat::Json,
    "journald" => LogFormat::Journald);
words!(AddressPreference: "ipv4" => AddressPreference::Ipv4, "ipv6" => AddressPreference::Ipv6,
    "as-given" => AddressPreference::AsGiven);

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str) -> Value {
        Value::Word(text.to_owned())
    }

    #[test]
    fn sizes_and_times_have_units_and_are_written_with_them() {
        for (text, bytes, written) in [
            ("64MiB", 64 << 20, "\"64MiB\""),
            ("16MB", 16_000_000, "\"16MB\""),
            ("1000", 1000, "1000"),
            ("1.5KiB", 1536, "1536"),
        ] {
            let size = Size::read(&word(text)).unwrap();
            assert_eq!((size.0, size.write().as_str()), (bytes, written), "{text}");
        }
        assert_eq!(Size::read(&Value::Whole(7)), Ok(Size(7)));
        for (text, millis) in [
            ("30s", 30_000),
            ("1m 30s", 90_000),
            ("500ms", 500),
            ("10", 10_000),
        ] {
            assert_eq!(
                Time::read(&word(text)),
                Ok(Time(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for bad in ["-1s", "soon", "0s", "2days", ""] {
            assert!(Time::read(&word(bad)).is_err(), "{bad}");
        }
        assert!(Size::read(&Value::Whole(-1)).is_err());
        assert!(Size::read(&word("64 parsecs")).is_err());
    }

    #[test]
    fn metrics_stay_on_the_node() {
        let read = |text: &str| MetricsAddress::read(&word(text));
        assert_eq!(read(""), Ok(MetricsAddress::None));
        assert_eq!(read("unix:/a"), Ok(MetricsAddress::Unix("/a".into())));
        assert_eq!(read("/a"), Ok(MetricsAddress::Unix("/a".into())));
        for near in ["127.0.0.1:9469", "localhost:9469", "[::1]:9469"] {
            assert!(matches!(read(near), Ok(MetricsAddress::Loopback(_))), "{near}");
        }
        for far in ["0.0.0.0:1", "10.0.0.1:9469", "[::]:1"] {
            assert!(read(far).unwrap_err().contains("no password"), "{far}");
        }
        assert!(read("9469").is_err());
    }

    #[test]
    fn a_filter_that_means_nothing_is_none() {
        for good in ["info", "coracle_engine=debug", "warn, coracle_cri=trace", "off"] {
            assert!(LogFilter::read(&word(good)).is_ok(), "{good}");
        }
        for bad in ["", "loud", "info,verbose", "coracle_engine=loud"] {
            assert!(LogFilter::read(&word(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_socket_is_never_for_all() {
        assert_eq!(Mode::read(&word("0660")), Ok(Mode(0o660)));
        assert_eq!(Mode::read(&word("600")), Ok(Mode(0o600)));
        assert!(Mode::read(&word("0666")).unwrap_err().contains("root"));
        for bad in ["0060", "rw", "4660", "660u"] {
            assert!(Mode::read(&word(bad)).is_err(), "{bad}");
        }
    }
}
