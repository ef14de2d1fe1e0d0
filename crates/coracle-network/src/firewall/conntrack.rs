//! Forgets flows of UDP to a port that leads elsewhere now (ctnetlink).
//!
//! A flow that began before the port was mapped keeps its old translation, or none, for as long
//! as packets come.

use crate::NetlinkError;
use crate::netlink::{Batch, Socket, attributes};

const NLM_F_DUMP: u16 = 0x300;
const CT_GET: u16 = (1 << 8) | 1;
const CT_DELETE: u16 = (1 << 8) | 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
const NESTED: u16 = 0x8000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// nlmsghdr and nfgenmsg.
const HEADERS: usize = 20;

/// Deletes every flow of UDP whose first packet went to one of these ports.
pub(super) fn forget_udp(socket: &mut Socket, ports: &[u16]) -> Result<(), NetlinkError> {
    let mut deletion = Batch::default();
    for family in [AF_INET, AF_INET6] {
        let mut request = Batch::default();
        request.raw(CT_GET, NLM_F_DUMP, |body| body.extend([family, 0, 0, 0]));
        socket.exchange(&request, true, |message| {
            let found: Vec<(u16, &[u8])> = attributes(message.get(HEADERS..).unwrap_or_default()).collect();
            let original = found.iter().find(|(kind, _)| *kind == CTA_TUPLE_ORIG);
            if let Some((_, tuple)) = original
                && destination_of_udp(tuple).is_some_and(|port| ports.contains(&port))
            {
                deletion.raw(CT_DELETE, 0, |body| {
                    body.extend([family, 0, 0, 0]);
                    copy(body, CTA_TUPLE_ORIG | NESTED, tuple);
                    if let Some((_, zone)) = found.iter().find(|(kind, _)| *kind == CTA_ZONE) {
                        copy(body, CTA_ZONE, zone);
                    }
                });
            }
            Ok(())
        })?;
    }
    if !deletion.is_empty() {
        // A flow may have ended meanwhile, which is refused and as good.
        socket.send(&deletion)?;
    }
    Ok(())
}

fn destination_of_udp(tuple: &[u8]) -> Option<u16> {
    let (_, protocol) = attributes(tuple).find(|(kind, _)| *kind == CTA_TUPLE_PROTO)?;
    let member = |wanted| {
        attributes(protocol)
            .find(|(kind, _)| *kind == wanted)
            .map(|(_, value)| value)
    };
    if *member(CTA_PROTO_NUM)?.first()? != UDP {
        return None;
    }
    Some(u16::from_be_bytes(
        *member(CTA_PROTO_DST_PORT)?.first_chunk::<2>()?,
    ))
}

fn copy(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("an attribute that came in one");
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
