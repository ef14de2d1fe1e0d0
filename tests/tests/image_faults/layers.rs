//! Layers that explode, or are not what they are announced as.

use std::io::Write;
use std::time::Duration;

use anyhow::Result;
use coracle_testkit::image::{Blob, Compression, Image, ImageBuilder, digest};
use coracle_tests::count;
use flate2::write::GzEncoder;
use tonic::Code;

use crate::matrix::{HOST, Matrix, UNAVAILABLE, UNPACKED, noise};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const TOO_MUCH: [Code; 1] = [Code::ResourceExhausted];

/// An image of one blob, whose diff ID may be anything.
fn of_blob(blob: Blob) -> Image {
    ImageBuilder::new()
        .raw_layer(blob, digest(b"none").to_string())
        .build()
}

fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_path(name).expect("a short name");
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    header
}

/// The archive of one file of zeros.
fn zeros(write: &mut dyn Write, size: u64) -> Result<()> {
    write.write_all(header("zeros", tar::EntryType::Regular, size).as_bytes())?;
    let block = vec![0_u8; 1 << 20];
    for _ in 0..size >> 20 {
        write.write_all(&block)?;
    }
    write.write_all(&[0; 1024])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_58183_gzip_and_zstd_bombs() -> Result<()> {
    let matrix = Matrix::make().await?;
    let size = UNPACKED * count(2, 40) as u64;
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zeros(&mut gzip, size)?;
    let mut zstd = zstd::Encoder::new(Vec::new(), 1)?;
    zeros(&mut zstd, size)?;
    let mut endless = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // No archive at all, only zeros: the end of an archive, and then more.
    for _ in 0..size >> 20 {
        endless.write_all(&vec![0; 1 << 20])?;
    }
    let members = GzEncoder::new(Vec::new(), flate2::Compression::fast()).finish()?;
    let bombs = [
        ("gzip-bomb", Blob::new(GZIP, gzip.finish()?), &TOO_MUCH[..]),
        ("zstd-bomb", Blob::new(ZSTD, zstd.finish()?), &TOO_MUCH),
        ("zeros-bomb", Blob::new(GZIP, endless.finish()?), &TOO_MUCH),
        // A million empty members: no byte comes of them, but time goes.
        (
            "members-bomb",
            Blob::new(GZIP, members.repeat(1_000_000)),
            &[Code::InvalidArgument, Code::ResourceExhausted, Code::Unavailable],
        ),
        // Announces a window of 2 GiB, which a decoder would set aside.
        (
            "window-bomb",
            Blob::new(ZSTD, vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0x00, 0x00]),
            &[Code::InvalidArgument, Code::ResourceExhausted, Code::Unavailable],
        ),
    ];
    for (name, blob, codes) in bombs {
        matrix.registry.add(&of_blob(blob), name, "1");
        matrix.refused(name, name, codes, &[]).await?;
    }
    matrix.leave().await
}

/// GNU's sparse format 1.0: the map lies before the data.
fn sparse(map: &str, real_size: u64) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let real_size = real_size.to_string();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.realsize", real_size.as_str()),
    ];
    let records = records.map(|(name, value)| (name, value.as_bytes()));
    archive.append_pax_extensions(records).expect("memory");
    let mut data = map.as_bytes().to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    let header = header("sparse", tar::EntryType::Regular, data.len() as u64);
    archive.append(&header, data.as_slice()).expect("memory");
    archive.into_inner().expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_58183_sparse_map_bombs() -> Result<()> {
    let matrix = Matrix::make().await?;
    let many: String = (0..2_000_000).map(|at| format!("{at}\n0\n")).collect();
    for (name, map, size) in [
        ("many-segments", format!("2000000\n{many}"), 2_000_000),
        ("promised-segments", "18446744073709551615\n".to_owned(), 1),
        (
            "huge-hole",
            "1\n9000000000000000000\n0\n".to_owned(),
            9_000_000_000_000_000_000,
        ),
        ("backwards", "2\n100\n1\n0\n1\n".to_owned(), 200),
        (
            "overflow",
            "1\n18446744073709551615\n18446744073709551615\n".to_owned(),
            1,
        ),
    ] {
        let image = of_blob(Compression::Gzip.blob(sparse(&map, size)));
        matrix.registry.add(&image, name, "1");
        let codes = [Code::InvalidArgument, Code::ResourceExhausted];
        matrix.refused(name, name, &codes, &["sparse"]).await?;
    }
    matrix.leave().await
}

/// Within all limits: it must unpack in bounded memory, and go again.
#[tokio::test(flavor = "multi_thread")]
async fn a_million_entries() -> Result<()> {
    // The headers alone are 512 MB, and a slow disk has the registry wait.
    let matrix = Matrix::unpacking(1 << 30, Duration::from_secs(30)).await?;
    let entries = count(50_000, 1_000_000);
    let mut archive = tar::Builder::new(Vec::new());
    for number in 0..entries {
        let name = format!("{}/{}/{number}", number % 100, number / 100 % 100);
        archive.append(&header(&name, tar::EntryType::Regular, 0), &[][..])?;
    }
    let image = ImageBuilder::new()
        .layer(archive.into_inner()?, Compression::Gzip)
        .build();
    matrix.registry.add(&image, "million", "1");
    matrix.comes("a million entries", &image, "million").await?;
    println!(
        "{entries} entries: {} bytes above the idle daemon",
        matrix.peak()?
    );
    matrix
        .nothing_left("a million entries", &format!("{HOST}/million:1"))
        .await?;
    matrix.leave().await
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_not_what_they_are_announced_as() -> Result<()> {
    let matrix = Matrix::make().await?;
    let tar = tar::Builder::new(Vec::new()).into_inner()?;
    let typed = |media_type: &str, content: &[u8]| Blob::new(media_type, content.to_vec());
    let gzip = Compression::Gzip.blob(tar.clone()).content;
    let zstd = Compression::Zstd.blob(tar.clone()).content;
    let cases = [
        (
            "gzip-as-zstd",
            typed(ZSTD, &gzip),
            "announced as zstd and is gzip",
        ),
        (
            "zstd-as-gzip",
            typed(GZIP, &zstd),
            "announced as gzip and is zstd",
        ),
        (
            "tar-as-gzip",
            typed(GZIP, &tar),
            "announced as gzip and is not compressed",
        ),
        ("text", typed("text/plain", b"text"), "media type"),
        (
            "encrypted",
            typed("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", &gzip),
            "media type",
        ),
        (
            "damaged-gzip",
            typed(GZIP, &[&gzip[..gzip.len() - 8], &[1; 8]].concat()),
            "",
        ),
        ("half-gzip", typed(GZIP, &gzip[..gzip.len() / 2]), ""),
        ("no-archive", Compression::Gzip.blob(vec![b'x'; 5000]), ""),
        (
            "half-archive",
            Compression::Gzip.blob(
                header("file", tar::EntryType::Regular, 99_999)
                    .as_bytes()
                    .to_vec(),
            ),
            "",
        ),
        // A sound layer that is another one than the configuration says.
        (
            "other-diff-id",
            noise("other", 1000).blobs()[0].clone(),
            "sha256:",
        ),
    ];
    for (name, blob, word) in cases {
        matrix.registry.add(&of_blob(blob), name, "1");
        let codes = [
            Code::InvalidArgument,
            UNAVAILABLE,
            Code::Internal,
            Code::FailedPrecondition,
            Code::Unavailable,
        ];
        matrix.refused(name, name, &codes, &[word]).await?;
    }
    // A kind of entry that nobody unpacks.
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header("volume", tar::EntryType::new(b'V'), 0), &[][..])?;
    let image = ImageBuilder::new()
        .layer(archive.into_inner()?, Compression::Gzip)
        .build();
    matrix.registry.add(&image, "volume-label", "1");
    matrix
        .refused(
            "volume label",
            "volume-label",
            &[Code::InvalidArgument],
            &["volume"],
        )
        .await?;
    matrix.leave().await
}
