//! Status: conditions, handlers and features.

use coracle_engine::api::NodeStatus;
use coracle_proto::cri;

use crate::facilities::Facilities;
use crate::translate;

pub(super) async fn call<F: Facilities>(engine: &F, request: &cri::StatusRequest) -> cri::StatusResponse {
    let NodeStatus {
        conditions,
        handlers,
        info,
    } = engine.status(translate::detail(request.verbose)).await;
    cri::StatusResponse {
        status: Some(cri::RuntimeStatus {
            conditions: conditions
                .into_iter()
                .map(|condition| cri::RuntimeCondition {
                    r#type: condition.name.to_owned(),
                    status: condition.holds,
                    reason: condition.reason,
                    message: condition.message,
                })
                .collect(),
        }),
        info,
        runtime_handlers: handlers
            .into_iter()
            .map(|handler| cri::RuntimeHandler {
                name: handler.name.0,
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: handler.recursive_read_only_mounts,
                    user_namespaces: handler.user_namespaces,
                }),
            })
            .collect(),
        features: Some(cri::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    }
}
