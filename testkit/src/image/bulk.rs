//! Large images as builders make them: thousands of files, contents that compress as real ones do.

use std::io::Write;

use super::{Blob, Image, ImageBuilder, Layer, digest};

/// An image to be generated; the same numbers give the same bytes.
#[derive(Debug, Clone, Copy)]
pub struct Bulk {
    /// How many layers, of about the same size.
    pub layers: usize,
    /// Files in all layers.
    pub files: usize,
    /// Bytes of the files' contents in all layers.
    pub bytes: u64,
}

const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Files in one directory, about what package trees have.
const FILES_A_DIRECTORY: usize = 18;

impl Bulk {
    /// The image with gzip layers at the level that builders use. Layers are made side by side; each
    /// takes three times its size in memory meanwhile.
    ///
    /// # Panics
    /// When a thread cannot be started.
    #[must_use]
    pub fn image(&self) -> Image {
        let layers: Vec<(Blob, String)> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.layers)
                .map(|number| scope.spawn(move || self.layer(number)))
                .collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined
                .map(|layer| layer.expect("making a layer does not panic"))
                .collect()
        });
        let builder = layers
            .into_iter()
            .fold(ImageBuilder::new(), |builder, (blob, diff_id)| {
                builder.raw_layer(blob, diff_id)
            });
        builder.env("PATH=/usr/bin:/bin").cmd(&["/usr/bin/none"]).build()
    }

    fn layer(&self, number: usize) -> (Blob, String) {
        let mut random = Random::new(number as u64 + 1);
        let files = self.files / self.layers.max(1);
        // Most files are small and a few are large: sizes are even over their logarithm.
        let weights: Vec<f64> = (0..files).map(|_| (random.share() * 11.0).exp2()).collect();
        let scale = self.bytes as f64 / self.layers.max(1) as f64 / weights.iter().sum::<f64>();
        let words = Words::new();
        let mut layer = Layer::new();
        for (file, weight) in weights.into_iter().enumerate() {
            let size = (weight * scale) as usize;
            let package = file / FILES_A_DIRECTORY;
            let path = format!(
                "/usr/lib/layer{number}/package{:03}/part{package}/file{file}",
                package % 200
            );
            if file % 25 == 24 {
                layer = layer.symlink(&format!("{path}.link"), &format!("file{}", file - 1));
            }
            let (mode, content) = match file % 10 {
                0..=4 => (0o644, words.text(&mut random, size)),
                5..=8 => (0o755, words.program(&mut random, size)),
                _ => (0o644, random.noise(size)),
            };
            layer = layer.file(&path, mode, content);
        }
        let tar = layer.build();
        let diff_id = digest(&tar).to_string();
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let written = "writing into memory does not fail";
        encoder.write_all(&tar).expect(written);
        let content = encoder.finish().expect(written);
        (Blob::new(GZIP_LAYER, content), diff_id)
    }
}

/// xorshift64*: fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 to 1.
    fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Below `limit`, small numbers far more often, as words and instructions are.
    fn skewed(&mut self, limit: usize) -> usize {
        let share = self.share();
        (share * share * share * limit as f64) as usize
    }

    /// Does not compress, as pictures and archives.
    fn noise(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }
}

/// What files are made of.
struct Words {
    words: Vec<Vec<u8>>,
    instructions: Vec<Vec<u8>>,
}

impl Words {
    fn new() -> Self {
        let mut random = Random::new(0);
        let mut words = Vec::new();
        let mut instructions = Vec::new();
        for _ in 0..4096 {
            let length = 2 + random.skewed(12);
            words.push((0..length).map(|_| b'a' + random.skewed(26) as u8).collect());
            let length = 2 + random.skewed(10);
            instructions.push(random.noise(length));
        }
        Self { words, instructions }
    }

    fn text(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 16);
        while bytes.len() < size {
            bytes.extend_from_slice(&self.words[random.skewed(self.words.len())]);
            bytes.push(if random.next().is_multiple_of(11) {
                b'\n'
            } else {
                b' '
            });
        }
        bytes.truncate(size);
        bytes
    }

    /// Instructions with addresses and constants between them.
    fn program(&self, random: &mut Random, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 16);
        while bytes.len() < size {
            bytes.extend_from_slice(&self.instructions[random.skewed(self.instructions.len())]);
            if random.next().is_multiple_of(4) {
                bytes.extend_from_slice(&(random.next() as u16).to_le_bytes());
                bytes.extend_from_slice(&[0, 0]);
            }
        }
        bytes.truncate(size);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bulk_image_is_the_same_each_time_and_compresses_as_real_ones_do() {
        let bulk = Bulk {
            layers: 2,
            files: 60,
            bytes: 2 << 20,
        };
        let image = bulk.image();
        assert_eq!(image, bulk.image());
        let [first, second, _] = image.blobs() else {
            panic!("{} blobs", image.blobs().len());
        };
        assert_ne!(first.digest, second.digest);
        let packed = (first.content.len() + second.content.len()) as f64 / f64::from(2 << 20);
        assert!(packed > 0.3 && packed < 0.7, "packed to {packed}");
    }
}
