//! Files of artifacts, hostile titles, and the archive as GNU tar's reader would have it.

use std::collections::BTreeMap;

use super::*;

fn blob(content: &[u8], title: Option<&str>) -> Descriptor {
    Descriptor {
        media_type: "application/octet-stream".into(),
        digest: Digest::from_sha256(&Sha256::digest(content).into()),
        size: content.len() as u64,
        annotations: title
            .map(|title| (TITLES[0].to_owned(), title.to_owned()))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
    }
}

#[test]
fn titles_become_names_and_what_has_none_its_digest() {
    let mut empty = blob(b"{}", None);
    empty.media_type = EMPTY.into();
    let mut by_model = blob(b"m", None);
    by_model.annotations.insert(TITLES[1].into(), "weights/w".into());
    let layers = [
        blob(b"a", Some("model.bin")),
        blob(b"b", Some("dir/sub/file")),
        blob(b"c", None),
        by_model,
        empty,
    ];
    let files = files(&layers).expect("fine");
    let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let digest = format!("sha256-{}", layers[2].digest.hex());
    assert_eq!(paths, ["model.bin", "dir/sub/file", &digest, "weights/w"]);
}

#[test]
fn titles_that_lead_elsewhere_are_refused() {
    let long = "x".repeat(256);
    let deep = "x/".repeat(512) + "y";
    for title in [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a/./b",
        "a//b",
        "a/",
        "new\nline",
        "nul\0",
        ".wh.x",
        "a/.wh..wh..opq",
        &long,
        &deep,
    ] {
        let error = files(&[blob(b"x", Some(title))]).expect_err(title);
        assert!(
            matches!(error, MalformedDocument::Field { .. }),
            "{title:?}: {error}"
        );
    }
    for pair in [["a", "a"], ["a", "a/b"], ["a/b", "a"], ["a/b/c", "a/b"]] {
        let layers = pair.map(|title| blob(title.as_bytes(), Some(title)));
        let error = files(&layers).expect_err("two in one place");
        assert!(error.to_string().contains("another file"), "{pair:?}: {error}");
    }
}

/// The archive of files as a reader sees it; the chunks come in pieces of three bytes.
fn archive(
    contents: &[(&str, &[u8])],
    spoil: impl Fn(&mut Descriptor),
) -> (io::Result<Vec<u8>>, Option<BlobError>) {
    let mut layers: Vec<Descriptor> = contents
        .iter()
        .map(|(title, content)| blob(content, Some(title)))
        .collect();
    layers.iter_mut().for_each(&spoil);
    let files = files(&layers).expect("fine");
    let (sender, receiver) = mpsc::channel(3 * files.len() + 3);
    let mut made = BTreeSet::new();
    for (file, (_, content)) in files.iter().zip(contents) {
        let (chunks, blob) = mpsc::channel(content.len() + 1);
        for chunk in content.chunks(3) {
            chunks.try_send(Bytes::copy_from_slice(chunk)).expect("room");
        }
        let parts = [
            Part::Bytes(headers(file, &mut made)),
            Part::Blob {
                chunks: blob,
                digest: file.blob.digest.clone(),
                size: file.blob.size,
            },
        ];
        for part in parts {
            assert!(sender.try_send(part).is_ok());
        }
    }
    assert!(sender.try_send(Part::Bytes(trailer())).is_ok() && sender.try_send(Part::End).is_ok());
    drop(sender);
    let mut reader = ArtifactReader::new(receiver);
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes).map(|_| bytes);
    (read, reader.verdict())
}

#[test]
fn the_archive_has_the_files_with_long_names_too() {
    let long = format!("{}/{}/end", "d".repeat(200), "e".repeat(200));
    let block = vec![7; 512];
    let contents: [(&str, &[u8]); 4] = [
        ("a", b"first"),
        (&long, b"second"),
        ("dir/empty", b""),
        ("dir/block", &block),
    ];
    let bytes = archive(&contents, |_| ()).0.expect("whole");
    assert_eq!(bytes.len() % 512, 0);
    let mut found = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let kind = entry.header().entry_type();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        if kind.is_file() {
            found.push((path, content));
        } else {
            assert!(kind.is_dir(), "{path}");
        }
    }
    let wanted: Vec<(String, Vec<u8>)> = contents
        .iter()
        .map(|(path, content)| ((*path).to_owned(), content.to_vec()))
        .collect();
    assert_eq!(found, wanted);
}

#[test]
fn sizes_beyond_the_field_go_into_the_extended_header() {
    let mut bytes = Vec::new();
    header(&mut bytes, EntryType::Regular, "large", LARGEST_FIELD + 1);
    assert_eq!(bytes.len(), 3 * 512);
    let text = String::from_utf8_lossy(&bytes[512..1024]);
    assert!(
        text.contains(" size=8589934592\n") && text.contains(" path=large\n"),
        "{text}"
    );
    for value in ["", "x", &"y".repeat(86), &"y".repeat(87), &"y".repeat(985)] {
        let record = record("path", value);
        let length: usize = record
            .split(' ')
            .next()
            .expect("a length")
            .parse()
            .expect("a number");
        assert_eq!(length, record.len());
    }
}

#[test]
fn a_blob_that_is_not_the_manifest_s_has_no_end() {
    let contents: [(&str, &[u8]); 2] = [("a", b"first"), ("b", b"second")];
    let (read, refusal) = archive(&contents, |blob| blob.size += 1);
    assert!(read.is_err() && matches!(refusal, Some(BlobError::Length { .. })));
    let (read, refusal) = archive(&contents, |blob| blob.size -= 1);
    assert!(read.is_err() && matches!(refusal, Some(BlobError::Length { .. })));
    let other = Digest::from_sha256(&Sha256::digest(b"other").into());
    let (read, refusal) = archive(&contents, |blob| blob.digest = other.clone());
    assert!(read.is_err() && matches!(refusal, Some(BlobError::Digest { .. })));
}

#[test]
fn what_breaks_off_is_no_end() {
    let (sender, receiver) = mpsc::channel(1);
    assert!(sender.try_send(Part::Bytes(vec![0; 10])).is_ok());
    drop(sender);
    let error = ArtifactReader::new(receiver)
        .read_to_end(&mut Vec::new())
        .expect_err("no end");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}
