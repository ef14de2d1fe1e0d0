//! Names of kernel objects, made from the pod's id so that a removal needs no memory of them.

use coracle_types::PodSandboxId;

/// The pod's only interface besides `lo`, as CRI runtimes name it.
pub const POD_INTERFACE: &str = "eth0";

/// 64 bits that differ when the input does, for names and hardware addresses; no protection
/// against someone who seeks a collision.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The host's end of the pod's veth: `veth` and 44 bits of the pod's (random) id.
pub(crate) fn host_link(pod: &PodSandboxId) -> String {
    format!("veth{}", &pod.as_str()[..11])
}

/// Whether a string may be a CNI network name (also a directory's name here).
pub(crate) fn is_network_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

/// Whether a string may be a plugin's `type`, which is looked up as a file's name.
pub(crate) fn is_plugin_type(text: &str) -> bool {
    is_network_name(text)
}

/// Whether the kernel takes this as an interface's name and it cannot be mistaken in a path.
pub(crate) fn is_link_name(text: &str) -> bool {
    (1..=crate::settings::LONGEST_LINK_NAME).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_directory() {
        for bad in ["", "..", ".", "../x", "a/b", "-a", "a b", "a\nb", "a\0"] {
            assert!(!is_network_name(bad), "{bad:?}");
            assert!(!is_link_name(bad) || bad == "-a", "{bad:?}");
        }
        assert!(is_network_name("k8s-pod_network.1"));
        assert!(!is_link_name("sixteen-chars-xx"));
        assert_eq!(host_link(&PodSandboxId::generate()).len(), 15);
    }
}
