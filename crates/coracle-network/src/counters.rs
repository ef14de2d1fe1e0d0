//! What the interfaces of pods have carried, read inside their network namespaces.
//!
//! /proc/thread-self/net/dev of a thread that went in: one small file a pod, without netlink's lock (RTNL),
//! which a slow device's removal may hold for long, and without a socket that would keep the namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What one interface carried since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Its name inside.
    pub name: String,
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were damaged, or could not be sent.
    pub errors: u64,
    /// Packets that there was no room for.
    pub dropped: u64,
}

/// The interfaces of each namespace but for `lo`, in the kernel's order; an error for one that cannot be
/// entered. All are read by one thread, which is gone when this returns.
///
/// # Errors
/// When no thread can be had.
pub(crate) fn of_namespaces(pins: &[PathBuf]) -> io::Result<Vec<io::Result<Vec<InterfaceCounters>>>> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("counters".into())
            .spawn_scoped(scope, || pins.iter().map(|pin| inside(pin)).collect())?
            .join()
            .map_err(|_| io::Error::other("the thread in the pods panicked"))
    })
}

/// Leaves the calling thread in the namespace.
fn inside(pin: &Path) -> io::Result<Vec<InterfaceCounters>> {
    let netns = File::open(pin)?;
    move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
    Ok(parse(&fs::read_to_string("/proc/thread-self/net/dev")?))
}

/// Two lines of headings, then `name: ` and eight numbers for each direction (proc_pid_net(5)).
fn parse(text: &str) -> Vec<InterfaceCounters> {
    let mut found = Vec::new();
    for line in text.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else {
            continue;
        };
        let name = name.trim();
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .map_while(|word| word.parse().ok())
            .collect();
        if name == "lo" || numbers.len() < 16 {
            continue;
        }
        let traffic = |first: usize| Traffic {
            bytes: numbers[first],
            packets: numbers[first + 1],
            errors: numbers[first + 2],
            dropped: numbers[first + 3],
        };
        found.push(InterfaceCounters {
            name: name.to_owned(),
            received: traffic(0),
            sent: traffic(8),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_are_told_apart_and_lo_is_left_out() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n    \
            lo:     100       2    0    0    0     0          0         0      100       2    0    0    0     0       0          0\n  \
            eth0:    1306      15    1    2    0     0          0         0     1566      17    3    4    0     0       0          0\n";
        let found = parse(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "eth0");
        let (received, sent) = (found[0].received, found[0].sent);
        assert_eq!(
            (
                received.bytes,
                received.packets,
                received.errors,
                received.dropped
            ),
            (1306, 15, 1, 2)
        );
        assert_eq!(
            (sent.bytes, sent.packets, sent.errors, sent.dropped),
            (1566, 17, 3, 4)
        );
        assert!(parse("").is_empty() && parse("a\nb\neth0: 1 2 3\n").is_empty());
    }

    #[test]
    fn root_reads_in_the_namespace_and_is_back_out_of_it() {
        let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
        let pins = ["/proc/self/ns/net".into(), "/nonexistent".into()];
        let found = of_namespaces(&pins).unwrap();
        assert!(found[0].is_ok() && found[1].is_err());
        assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
    }
}
