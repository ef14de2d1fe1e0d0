//! A netlink socket that sends many messages in one system call and hears only of refusals.
//!
//! The kernel works a request off inside sendmsg(2) and answers a message without NLM_F_ACK only
//! when it refuses it. So a batch costs one send and one receive that finds nothing.

pub(crate) mod route;

use std::os::fd::{AsFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

use crate::NetlinkError;

/// nlmsghdr: length, type, flags, sequence number, port id.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// In an answer's flags: the kernel's words follow (NLM_F_ACK_TLVS), the request was cut (NLM_F_CAPPED).
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// Dumps come in messages of at most this size.
const RECEIVE: usize = 64 * 1024;

/// Messages to be sent together. Each gets the sequence number of its place in the batch.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

impl Batch {
    /// Adds a message of rtnetlink; its place in the batch is returned.
    pub(crate) fn route(&mut self, message: RouteNetlinkMessage, flags: u16) -> usize {
        let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::from(message));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.count;
        message.finalize();
        let start = self.bytes.len();
        self.bytes
            .resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut self.bytes[start..]);
        self.count += 1;
        self.count as usize - 1
    }

    /// Adds a message whose body the caller writes.
    pub(crate) fn raw(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Vec<u8>)) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        body(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).expect("a message is far below 4 GiB");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self.count += 1;
        self.count as usize - 1
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is nothing to send.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// Which messages of a batch the kernel refused, in the order of its answers.
#[derive(Debug)]
pub(crate) struct Refusals(pub(crate) Vec<(usize, NetlinkError)>);

impl Refusals {
    /// Drops the refusals that `tolerated` accepts and gives the first other one.
    pub(crate) fn first_except(
        self,
        tolerated: impl Fn(usize, &NetlinkError) -> bool,
    ) -> Result<(), (usize, NetlinkError)> {
        match self
            .0
            .into_iter()
            .find(|(place, error)| !tolerated(*place, error))
        {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// For links, addresses and routes.
    pub(crate) fn route() -> Result<Self, NetlinkError> {
        // NETLINK_ROUTE is protocol 0, which is what `None` means.
        Self::open(None)
    }

    /// For nf_tables and conntrack.
    pub(crate) fn netfilter() -> Result<Self, NetlinkError> {
        Self::open(Some(netlink::NETFILTER))
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self, NetlinkError> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )
        .map_err(socket_error("socket(2)"))?;
        rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, 0)).map_err(socket_error("bind(2)"))?;
        // Older kernels answer without words; that is no reason to do without answers.
        let _ = coracle_sys::netlink::extended_acks(fd.as_fd());
        Ok(Self { fd })
    }

    /// Room for the answers to, and the size of, a large batch, in bytes.
    pub(crate) fn make_room(&self, bytes: usize) {
        // Without CAP_NET_ADMIN in the first user namespace the plain limit has to do.
        let _ = sockopt::set_socket_send_buffer_size_force(&self.fd, bytes);
        let _ = sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes);
    }

    /// Sends the batch; the kernel has worked it off when this returns.
    pub(crate) fn send(&mut self, batch: &Batch) -> Result<Refusals, NetlinkError> {
        self.transmit(&batch.bytes)?;
        let mut refusals = Vec::new();
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, length)) => length,
                Err(Errno::AGAIN) => return Ok(Refusals(refusals)),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(socket_error("recv(2)")(errno)),
            };
            for answer in messages(&buffer[..length]) {
                let (header, body) = answer?;
                if header.kind == NLMSG_ERROR
                    && let Some(refused) = refusal(header.flags, body)
                {
                    refusals.push((header.sequence as usize, refused));
                }
            }
        }
    }

    /// Sends the batch, of which nothing may be refused.
    pub(crate) fn send_all(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        self.send(batch)?
            .first_except(|_, _| false)
            .map_err(|(_, error)| error)
    }

    /// Asks for one object or, with `dump`, for all.
    pub(crate) fn query(
        &mut self,
        request: RouteNetlinkMessage,
        dump: bool,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut batch = Batch::default();
        batch.route(request, if dump { NLM_F_DUMP } else { 0 });
        let mut found = Vec::new();
        self.exchange(&batch, dump, |bytes| {
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) {
                Ok(NetlinkMessage {
                    payload: NetlinkPayload::InnerMessage(inner),
                    ..
                }) => found.push(inner),
                Ok(_) => {}
                // One strange link among all of a host's must not hide the others.
                Err(error) if dump => tracing::debug!(%error, "left out of a dump"),
                Err(error) => {
                    return Err(NetlinkError::Malformed {
                        problem: error.to_string(),
                    });
                }
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Sends one request and hands every message of the answer on, whole.
    pub(crate) fn exchange(
        &mut self,
        batch: &Batch,
        dump: bool,
        mut each: impl FnMut(&[u8]) -> Result<(), NetlinkError>,
    ) -> Result<(), NetlinkError> {
        self.transmit(&batch.bytes)?;
        let mut buffer = vec![0; RECEIVE];
        loop {
            let flags = if dump {
                RecvFlags::empty()
            } else {
                RecvFlags::DONTWAIT
            };
            let length = match rustix::net::recv(&self.fd, &mut buffer[..], flags) {
                Ok((_, length)) => length,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(socket_error("recv(2)")(errno)),
            };
            let mut rest = &buffer[..length];
            for answer in messages(&buffer[..length]) {
                let (header, body) = answer?;
                let (message, after) = rest.split_at(header.length.next_multiple_of(4).min(rest.len()));
                rest = after;
                match header.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => match refusal(header.flags, body) {
                        Some(refused) => return Err(refused),
                        None => return Ok(()),
                    },
                    _ => each(&message[..header.length])?,
                }
            }
        }
    }

    fn transmit(&self, bytes: &[u8]) -> Result<(), NetlinkError> {
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &kernel))
                .map_err(socket_error("sendto(2)"))?;
        if sent == bytes.len() {
            Ok(())
        } else {
            Err(NetlinkError::Malformed {
                problem: format!("{sent} of {} bytes were sent", bytes.len()),
            })
        }
    }
}

fn socket_error(operation: &'static str) -> impl Fn(Errno) -> NetlinkError {
    move |errno| NetlinkError::Socket {
        operation,
        source: errno.into(),
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<(Header, &[u8]), NetlinkError>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let header = (bytes.len() >= HEADER).then(|| Header {
            length: u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize,
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]),
        });
        match header {
            Some(header) if (HEADER..=bytes.len()).contains(&header.length) => {
                let body = &bytes[HEADER..header.length];
                bytes = &bytes[header.length.next_multiple_of(4).min(bytes.len())..];
                Some(Ok((header, body)))
            }
            _ => {
                let problem = format!("{} bytes hold no whole message", bytes.len());
                bytes = &[];
                Some(Err(NetlinkError::Malformed { problem }))
            }
        }
    })
}

/// Reads the body of NLMSG_ERROR; `None` is an acknowledgement.
fn refusal(flags: u16, body: &[u8]) -> Option<NetlinkError> {
    let Some(code) = body.first_chunk::<4>() else {
        return Some(NetlinkError::Malformed {
            problem: "an error without a number".into(),
        });
    };
    let code = i32::from_ne_bytes(*code);
    if code == 0 {
        return None;
    }
    let mut hint = String::new();
    if flags & NLM_F_ACK_TLVS != 0 {
        // The request's header follows the number, and its body unless it was cut.
        let skip = match body.get(4..8) {
            Some(length) if flags & NLM_F_CAPPED == 0 => {
                4 + u32::from_ne_bytes([length[0], length[1], length[2], length[3]]).next_multiple_of(4)
                    as usize
            }
            _ => 4 + HEADER,
        };
        for (kind, value) in attributes(body.get(skip..).unwrap_or_default()) {
            if kind == NLMSGERR_ATTR_MSG {
                hint = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            }
        }
    }
    Some(NetlinkError::Refused {
        errno: Errno::from_raw_os_error(-code),
        hint,
    })
}

/// The attributes in `bytes`, up to the first that does not fit.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..4)?.first_chunk::<2>()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_answer_is_an_error_and_no_panic() {
        let mut batch = Batch::default();
        batch.raw(5, 0, |body| body.extend_from_slice(b"abcd"));
        for cut in 1..batch.bytes.len() {
            assert!(messages(&batch.bytes[..cut]).next().unwrap().is_err(), "{cut}");
        }
        assert_eq!(messages(&batch.bytes).count(), 1);
        assert!(refusal(0, &[]).is_some());
        assert!(refusal(NLM_F_ACK_TLVS, &(-1_i32).to_ne_bytes()).is_some());
    }

    #[test]
    fn the_kernels_words_are_read() {
        let mut body = (-17_i32).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; HEADER]);
        body.extend_from_slice(&[9, 0, 1, 0]);
        body.extend_from_slice(b"busy\0");
        let refused = refusal(NLM_F_ACK_TLVS | NLM_F_CAPPED, &body).unwrap();
        assert!(refused.is(Errno::EXIST));
        assert!(refused.to_string().ends_with(": busy"), "{refused}");
    }
}
