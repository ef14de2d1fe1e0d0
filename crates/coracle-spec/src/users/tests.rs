//! Users of requests and of images, sane and hostile.

use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    # a comment\n\
    app:x:1000:1000:App:/home/app:/bin/sh\n\
    www-data:x:33:33::/var/www:/usr/sbin/nologin\n\
    1234:x:0:0:a name like a number:/:/bin/sh\n\
    wrapped:x:4294967296:0::/:/bin/sh\n\
    high:x:4294967295:0::/:/bin/sh\n\
    minus:x:-1:0::/:/bin/sh\n\
    odd\n\
    escape:x:7:7::/a\x1b[31m:/bin/sh\n";
const GROUP: &str = "root:x:0:\napp:x:1000:\nwww-data:x:33:\nextra:x:50000:app,www-data\n\
    big:x:4294967295:odd-member\nmany:x:50001:app\n";

fn image() -> TempDir {
    let root = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(root.path().join("etc")).expect("made");
    std::fs::write(root.path().join("etc/passwd"), PASSWD).expect("written");
    std::fs::write(root.path().join("etc/group"), GROUP).expect("written");
    root
}

fn resolve_in(
    root: &Path,
    user: &str,
    security: &ContainerSecurityContext,
) -> Result<ResolvedUser, SpecError> {
    let root = std::fs::File::open(root).expect("opened");
    resolve_user(root.as_fd(), user, security)
}

fn resolve(user: &str) -> Result<ResolvedUser, SpecError> {
    resolve_in(image().path(), user, &ContainerSecurityContext::default())
}

fn ids(user: &str) -> (u32, u32, Vec<u32>) {
    let user = resolve(user).expect("resolves");
    (user.uid, user.gid, user.additional_gids)
}

#[test]
fn every_form_of_an_images_user_is_read() {
    assert_eq!(ids(""), (0, 0, vec![0]));
    assert_eq!(ids("app"), (1000, 1000, vec![1000, 50000, 50001]));
    assert_eq!(ids("1000"), (1000, 1000, vec![1000, 50000, 50001]));
    assert_eq!(ids("app:extra"), (1000, 50000, vec![50000, 50001]));
    assert_eq!(ids("app:5"), (1000, 5, vec![5, 50000, 50001]));
    assert_eq!(ids("1003:1004"), (1003, 1004, vec![1004]));
    assert_eq!(ids("4242"), (4242, 0, vec![0]));
    assert_eq!(ids("33:"), (33, 33, vec![33, 50000]));
    let app = resolve("app").expect("resolves");
    assert_eq!((app.username.as_str(), app.home.as_str()), ("app", "/home/app"));
}

#[test]
fn digits_are_a_number_even_if_a_name_looks_like_them() {
    assert_eq!(ids("1234"), (1234, 0, vec![0]));
}

#[test]
fn ids_that_would_wrap_to_root_are_refused() {
    for user in [
        "2147483648",
        "4294967295",
        "4294967296",
        "18446744073709551616",
        "-1",
        "+1000",
        "0:2147483648",
        "0:-1",
        "1000:4294967296",
        "wrapped",
        "high",
        "minus",
    ] {
        assert!(resolve(user).is_err(), "{user}");
    }
    assert_eq!(ids("2147483647").0, 2_147_483_647);
}

#[test]
fn malformed_and_unknown_users_are_refused() {
    for user in [
        ":",
        ":5",
        "a:b:c",
        "app\n",
        "no-one",
        "app:no-group",
        "root\0",
        "odd",
        "0x10",
        "١٢",
        "escape",
    ] {
        assert!(resolve(user).is_err(), "{user:?}");
    }
    let message = resolve("no-one").expect_err("unknown").to_string();
    assert!(
        message.contains("no-one") && message.contains("etc/passwd"),
        "{message}"
    );
}

#[test]
fn the_requests_user_comes_first_and_a_group_needs_one() {
    let image = image();
    let mut security = ContainerSecurityContext {
        run_as_user: Some(33),
        run_as_group: Some(7),
        ..Default::default()
    };
    let user = resolve_in(image.path(), "app:extra", &security).expect("resolves");
    assert_eq!(
        (user.uid, user.gid, user.additional_gids),
        (33, 7, vec![7, 50000])
    );
    security.run_as_user = None;
    assert!(resolve_in(image.path(), "app", &security).is_err());
    security.run_as_username = "app".to_owned();
    let user = resolve_in(image.path(), "", &security).expect("resolves");
    assert_eq!((user.uid, user.gid), (1000, 7));
    for bad in [-1, 1 << 31, 1 << 32, i64::MAX] {
        let security = ContainerSecurityContext {
            run_as_user: Some(bad),
            ..Default::default()
        };
        assert!(resolve_in(image.path(), "", &security).is_err(), "{bad}");
        let security = ContainerSecurityContext {
            supplemental_groups: vec![bad],
            ..Default::default()
        };
        assert!(resolve_in(image.path(), "", &security).is_err(), "{bad}");
    }
}

#[test]
fn the_policy_decides_whether_the_images_groups_count() {
    let image = image();
    let mut security = ContainerSecurityContext {
        supplemental_groups: vec![60000],
        supplemental_groups_policy: SupplementalGroupsPolicy::Strict,
        ..Default::default()
    };
    let groups = |security: &_| {
        resolve_in(image.path(), "1000", security)
            .expect("resolves")
            .additional_gids
    };
    assert_eq!(groups(&security), [1000, 60000]);
    security.supplemental_groups_policy = SupplementalGroupsPolicy::Merge;
    assert_eq!(groups(&security), [1000, 50000, 50001, 60000]);
}

#[test]
fn an_image_without_the_files_runs_numbers_only() {
    let empty = tempfile::tempdir().expect("temporary directory");
    let security = ContainerSecurityContext::default();
    assert_eq!(
        resolve_in(empty.path(), "5:6", &security).expect("numbers").gid,
        6
    );
    assert_eq!(resolve_in(empty.path(), "", &security).expect("root").uid, 0);
    assert!(resolve_in(empty.path(), "root", &security).is_err());
}

#[test]
fn only_small_regular_files_inside_the_image_are_read() {
    let security = ContainerSecurityContext::default();
    let outside = tempfile::tempdir().expect("temporary directory");
    std::fs::write(outside.path().join("passwd"), "spy:x:66:66::/:\n").expect("written");
    type Prepare<'a> = &'a dyn Fn(&Path);
    let hostile: [(&str, Prepare<'_>); 6] = [
        ("fifo", &|file| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                file,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::from_raw_mode(0o644),
                0,
            )
            .expect("made");
        }),
        ("directory", &|file| std::fs::create_dir(file).expect("made")),
        ("sparse", &|file| {
            std::fs::File::create(file)
                .and_then(|made| made.set_len(10 << 30))
                .expect("made");
        }),
        ("long line", &|file| {
            std::fs::write(file, "x".repeat(200_000)).expect("written")
        }),
        ("outside", &|file| {
            symlink(outside.path().join("passwd"), file).expect("linked")
        }),
        ("loop", &|file| symlink("passwd", file).expect("linked")),
    ];
    for (name, prepare) in hostile {
        let image = image();
        let file = image.path().join("etc/passwd");
        std::fs::remove_file(&file).expect("removed");
        prepare(&file);
        let error = resolve_in(image.path(), "spy", &security).expect_err(name);
        match error {
            SpecError::NotInImage { .. } => assert_eq!(name, "outside"),
            SpecError::ImageFile { .. } => assert_ne!(name, "outside"),
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn links_inside_the_image_are_followed_as_the_container_sees_them() {
    let image = image();
    std::fs::rename(image.path().join("etc"), image.path().join("real")).expect("moved");
    symlink("/real", image.path().join("etc")).expect("linked");
    let user = resolve_in(image.path(), "app", &ContainerSecurityContext::default());
    assert_eq!(user.expect("resolves").uid, 1000);
}

proptest! {
    #[test]
    fn no_text_resolves_to_an_id_above_the_limit(user in "[-+0-9a-z:]{0,24}") {
        if let Ok(user) = resolve(&user) {
            prop_assert!(user.uid <= ID_MAX && user.gid <= ID_MAX);
            prop_assert!(user.additional_gids.contains(&user.gid));
            prop_assert!(user.additional_gids.is_sorted());
        }
    }

    #[test]
    fn numbers_mean_themselves(uid in 0..=ID_MAX, gid in 0..=ID_MAX) {
        let user = resolve(&format!("{uid}:{gid}")).expect("in range");
        prop_assert_eq!((user.uid, user.gid), (uid, gid));
    }

    #[test]
    fn numbers_above_the_limit_never_resolve(id in (i64::from(ID_MAX) + 1)..=i64::MAX) {
        prop_assert!(resolve(&id.to_string()).is_err());
        let as_group = format!("0:{id}");
        prop_assert!(resolve(&as_group).is_err());
    }

    #[test]
    fn garbage_for_files_neither_panics_nor_makes_a_user(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let image = image();
        std::fs::write(image.path().join("etc/passwd"), &bytes).expect("written");
        std::fs::write(image.path().join("etc/group"), &bytes).expect("written");
        let _either_way = resolve_in(image.path(), "app:extra", &ContainerSecurityContext::default());
    }
}
