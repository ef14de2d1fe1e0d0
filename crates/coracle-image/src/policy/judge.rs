//! The verdict: an image's signatures against what the policy asks of it. Whatever cannot be shown is refused.

use coracle_types::Digest;

use super::attachments::{self, Place};
use super::payload::{Payload, cut};
use super::{Policy, Refusal, Requirement, SignedBy};
use crate::reference::Reference;
use crate::registry::Session;

/// Complaints that a refusal repeats.
const SAID: usize = 3;

impl Policy {
    /// What can be said of an image by its name alone.
    pub(crate) fn by_name(&self, image: &Reference) -> Result<(), Refusal> {
        let (scope, requirements) = self.requirements(image);
        for requirement in requirements {
            let reason = match requirement {
                Requirement::Reject => "the policy rejects it".to_owned(),
                Requirement::Unsupported(what) => format!(
                    "the policy asks for {what}, which this version cannot verify: ask for sigstoreSigned with a key"
                ),
                Requirement::AcceptAnything | Requirement::Signed(_) => continue,
            };
            return Err(self.refusal(&scope, reason));
        }
        Ok(())
    }

    /// Whether the image may be used. `digests` lead from the name to its manifest: a signature on an
    /// index is one on all that it lists.
    pub(crate) async fn judge(
        &self,
        session: &Session,
        image: &Reference,
        digests: &[Digest],
    ) -> Result<(), Refusal> {
        self.by_name(image)?;
        let (scope, requirements) = self.requirements(image);
        let mut open: Vec<&SignedBy> = requirements
            .iter()
            .filter_map(|requirement| match requirement {
                Requirement::Signed(signed) => Some(signed),
                _ => None,
            })
            .collect();
        let mut complaints = Complaints::default();
        for place in [Place::Tag, Place::Referrers] {
            for digest in digests {
                if open.is_empty() {
                    return Ok(());
                }
                let judged = judge_place(session, (place, digest), image, &mut open, &mut complaints).await;
                judged.map_err(|reason| self.refusal(&scope, reason))?;
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        Err(self.refusal(&scope, complaints.into_reason(digests)))
    }
}

/// Takes off `open` what the signatures of one place meet.
async fn judge_place(
    session: &Session,
    (place, digest): (Place, &Digest),
    image: &Reference,
    open: &mut Vec<&SignedBy>,
    complaints: &mut Complaints,
) -> Result<(), String> {
    let unavailable = |error: &dyn std::fmt::Display| {
        format!("its signatures cannot be fetched, so it is not known to be signed: {error}")
    };
    let found = attachments::find(session, place, digest)
        .await
        .map_err(|error| unavailable(&error))?;
    complaints.all.extend(found.complaints);
    for attached in &found.attached {
        if open.is_empty() {
            break;
        }
        complaints.signatures += 1;
        let payload = match attached.payload(session).await {
            Ok(payload) => payload,
            // One that is damaged must not be in the way of the others; silence is no answer at all.
            Err(error) if error.is_transient() => {
                return Err(unavailable(&error));
            }
            Err(error) => {
                complaints.all.push(error.to_string());
                continue;
            }
        };
        open.retain(
            |wanted| match wanted.met_by(&payload, &attached.signature, digest, image) {
                Ok(()) => false,
                Err(reason) => {
                    complaints.all.push(reason);
                    true
                }
            },
        );
    }
    Ok(())
}

impl SignedBy {
    /// The signature first: nothing of a payload is believed, or even read, that no key vouches for.
    pub(crate) fn met_by(
        &self,
        payload: &[u8],
        signature: &[u8],
        digest: &Digest,
        image: &Reference,
    ) -> Result<(), String> {
        if !self.keys.iter().any(|key| key.signed(payload, signature)) {
            return Err("a signature is by none of the policy's keys".to_owned());
        }
        let payload =
            Payload::parse(payload).map_err(|reason| format!("a signature does not count: {reason}"))?;
        if payload.digest != *digest {
            return Err(format!("a signature is for another image, {}", payload.digest));
        }
        if !self.identity.fits(image, &payload.docker_reference) {
            return Err(format!(
                "a signature names {:?}, which the policy does not take for {image} (signedIdentity)",
                cut(&payload.docker_reference)
            ));
        }
        Ok(())
    }
}

#[derive(Default)]
struct Complaints {
    signatures: usize,
    all: Vec<String>,
}

impl Complaints {
    fn into_reason(mut self, digests: &[Digest]) -> String {
        let image = digests.first().map(ToString::to_string).unwrap_or_default();
        self.all.dedup();
        if self.signatures == 0 && self.all.is_empty() {
            return format!("{image} is not signed: sign it with `cosign sign --key`, or change the policy");
        }
        let said: Vec<String> = self.all.into_iter().take(SAID).collect();
        format!(
            "none of its {} signatures is one that the policy asks for: {}",
            self.signatures,
            said.join("; ")
        )
    }
}
