//! Images, credentials and the space they take.

use std::collections::BTreeMap;

use coracle_engine::api::FsUsage;
use coracle_image::{Image, LayerPhase, LayerProgress};
use coracle_proto::{admin, cri};
use coracle_types::image::{Credentials, ImageSpec};

use super::FieldError;

pub(crate) fn spec(wire: cri::ImageSpec) -> ImageSpec {
    ImageSpec {
        image: wire.image,
        annotations: wire.annotations,
        user_specified_image: wire.user_specified_image,
        runtime_handler: wire.runtime_handler,
        image_ref: wire.image_ref,
    }
}

/// The spec of a call that is about one image.
pub(crate) fn required(wire: Option<cri::ImageSpec>) -> Result<ImageSpec, FieldError> {
    wire.map(spec)
        .filter(|spec| !spec.image.is_empty())
        .ok_or_else(|| FieldError::missing("image.image"))
}

pub(crate) fn spec_to_wire(own: ImageSpec) -> cri::ImageSpec {
    cri::ImageSpec {
        image: own.image,
        annotations: own.annotations,
        user_specified_image: own.user_specified_image,
        runtime_handler: own.runtime_handler,
        image_ref: own.image_ref,
    }
}

/// crictl sends an empty message when it has no credentials.
pub(crate) fn credentials(wire: Option<cri::AuthConfig>) -> Option<Credentials> {
    let wire = wire?;
    some(Credentials {
        username: wire.username,
        password: wire.password,
        auth: wire.auth,
        server_address: wire.server_address,
        identity_token: wire.identity_token,
        registry_token: wire.registry_token,
    })
}

pub(crate) fn admin_credentials(wire: Option<admin::Credentials>) -> Option<Credentials> {
    let wire = wire?;
    some(Credentials {
        username: wire.username,
        password: wire.password,
        auth: wire.auth,
        server_address: wire.server_address,
        identity_token: wire.identity_token,
        registry_token: wire.registry_token,
    })
}

fn some(credentials: Credentials) -> Option<Credentials> {
    let nobody = Credentials {
        server_address: credentials.server_address.clone(),
        ..Default::default()
    };
    (credentials != nobody).then_some(credentials)
}

pub(crate) fn to_wire(image: &Image) -> cri::Image {
    let (uid, username) = user(&image.settings.user);
    let name = image.repo_tags.first().or(image.repo_digests.first()).cloned();
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.iter().cloned().collect(),
        repo_digests: image.repo_digests.iter().cloned().collect(),
        size: image.size,
        uid: uid.map(|value| cri::Int64Value { value }),
        username,
        spec: Some(cri::ImageSpec {
            image: name.unwrap_or_else(|| image.id.to_string()),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}

/// The user part of `user[:group]`: a number or a name. The kubelet's runAsNonRoot looks at both.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(uid) => (Some(uid.into()), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

/// For people: what an image says of its process, and what it is made of.
pub(crate) fn info(image: &Image) -> BTreeMap<String, String> {
    let info = serde_json::json!({
        "created": image.created,
        "artifactType": image.artifact,
        "platform": image.platform,
        "layers": image.layers,
        "downloadSize": image.download_size,
        "pulledAt": image.pulled_at,
        "config": image.settings,
    });
    BTreeMap::from([("info".to_owned(), info.to_string())])
}

pub(crate) fn usage(own: &FsUsage) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: own.timestamp.0,
        fs_id: Some(cri::FilesystemIdentifier {
            mountpoint: own.mountpoint.to_string_lossy().into_owned(),
        }),
        used_bytes: Some(cri::UInt64Value {
            value: own.used_bytes,
        }),
        inodes_used: Some(cri::UInt64Value {
            value: own.inodes_used,
        }),
    }
}

pub(crate) fn admin_summary(image: &Image) -> admin::ImageSummary {
    admin::ImageSummary {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.iter().cloned().collect(),
        repo_digests: image.repo_digests.iter().cloned().collect(),
        size: image.size,
        pinned: image.pinned,
    }
}

pub(crate) fn progress(layer: &LayerProgress) -> admin::LayerProgress {
    use admin::layer_progress::Stage;
    let stage = match layer.phase {
        LayerPhase::Waiting => Stage::Waiting,
        LayerPhase::Downloading => Stage::Downloading,
        LayerPhase::Done => Stage::Done,
        LayerPhase::Present => Stage::Present,
    };
    admin::LayerProgress {
        digest: layer.digest.to_string(),
        stage: stage.into(),
        received: layer.done,
        size: layer.total,
        hosts: layer.hosts.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_images_are_numbers_or_names() {
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("1002"), (Some(1002), String::new()));
        assert_eq!(user("1003:1004"), (Some(1003), String::new()));
        assert_eq!(user("www-data:1004"), (None, "www-data".into()));
        assert_eq!(user("4294967296"), (None, "4294967296".into()));
    }

    #[test]
    fn empty_credentials_are_none() {
        assert_eq!(credentials(None), None);
        assert_eq!(credentials(Some(cri::AuthConfig::default())), None);
        let auth = cri::AuthConfig {
            identity_token: "t".into(),
            ..Default::default()
        };
        assert_eq!(credentials(Some(auth)).unwrap().identity_token, "t");
    }
}
