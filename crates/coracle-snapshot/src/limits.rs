//! How much of anything a hostile layer may make this node take.

/// Bounds on one layer's archive. What exceeds one is refused by name and everything is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub stream_bytes: u64,
    /// Entries, extension headers counted too.
    pub entries: u64,
    /// Bytes of a path or of a link's target.
    pub path_bytes: usize,
    /// Bytes of the extended headers of one entry.
    pub extended_header_bytes: u64,
    /// Bytes of the value of one extended attribute; Linux takes 64 KiB.
    pub xattr_bytes: usize,
    /// Data segments of a sparse file.
    pub sparse_segments: usize,
    /// Apparent size of a sparse file.
    pub sparse_file_bytes: u64,
    /// Bytes of names (of directories, of links into lower layers) held in memory during unpacking.
    pub held_names_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_bytes: 128 << 30,
            entries: 4_000_000,
            path_bytes: 4095,
            extended_header_bytes: 1 << 20,
            xattr_bytes: 65536,
            sparse_segments: 1 << 17,
            sparse_file_bytes: 1 << 40,
            held_names_bytes: 128 << 20,
        }
    }
}
