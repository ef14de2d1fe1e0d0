//! From what a person typed to the pod or container that is meant.

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{Container, ListContainersRequest, ListPodSandboxRequest, PodSandbox};

/// A pod or a container.
#[derive(Debug)]
pub(crate) enum Object {
    /// A pod sandbox.
    Pod(PodSandbox),
    /// A container.
    Container(Container),
}

/// All pods, newest first.
pub(crate) async fn pods(client: &Client) -> anyhow::Result<Vec<PodSandbox>> {
    let request = ListPodSandboxRequest { filter: None };
    let reply = client
        .runtime()
        .list_pod_sandbox(request)
        .await
        .map_err(ClientError::of("ListPodSandbox"))?;
    let mut pods = reply.into_inner().items;
    pods.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    Ok(pods)
}

/// All containers, newest first.
pub(crate) async fn containers(client: &Client) -> anyhow::Result<Vec<Container>> {
    let request = ListContainersRequest { filter: None };
    let reply = client
        .runtime()
        .list_containers(request)
        .await
        .map_err(ClientError::of("ListContainers"))?;
    let mut containers = reply.into_inner().containers;
    containers.sort_by_key(|container| std::cmp::Reverse(container.created_at));
    Ok(containers)
}

/// Names of a pod.
pub(crate) fn pod_name(pod: &PodSandbox) -> &str {
    pod.metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str())
}

/// Name of a container.
pub(crate) fn container_name(container: &Container) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str())
}

/// The pod or container of that id, beginning of an id, or name.
pub(crate) async fn object(client: &Client, text: &str) -> anyhow::Result<Object> {
    let (pods, containers) = (pods(client).await?, containers(client).await?);
    let named = |id: &str, name: &str| name == text || (!text.is_empty() && id.starts_with(text));
    let mut matches: Vec<Object> = pods
        .into_iter()
        .filter(|pod| named(&pod.id, pod_name(pod)))
        .map(Object::Pod)
        .collect();
    let of_containers = containers
        .into_iter()
        .filter(|one| named(&one.id, container_name(one)));
    matches.extend(of_containers.map(Object::Container));
    match matches.len() {
        0 => anyhow::bail!("no pod or container has the id or name {text:?}: see `coracle ps --all`"),
        1 => Ok(matches.remove(0)),
        count => {
            anyhow::bail!("{text:?} means {count} pods and containers: give an id, or more of its digits")
        }
    }
}

/// The container that is meant: itself, or the only one of a pod.
pub(crate) async fn container(client: &Client, text: &str) -> anyhow::Result<Container> {
    // `coracle run` gives pod and container one name: the container is meant.
    let all = containers(client).await?;
    let mut exact: Vec<_> = all
        .iter()
        .filter(|one| container_name(one) == text || one.id == text)
        .cloned()
        .collect();
    if exact.len() == 1 {
        return Ok(exact.remove(0));
    }
    match object(client, text).await? {
        Object::Container(container) => Ok(container),
        Object::Pod(pod) => {
            let mut of_pod: Vec<_> = all
                .into_iter()
                .filter(|one| one.pod_sandbox_id == pod.id)
                .collect();
            match of_pod.len() {
                1 => Ok(of_pod.remove(0)),
                0 => anyhow::bail!("pod {text} has no container"),
                count => {
                    let names: Vec<_> = of_pod.iter().map(container_name).collect();
                    anyhow::bail!(
                        "pod {text} has {count} containers: name one of {}",
                        names.join(", ")
                    )
                }
            }
        }
    }
}

/// The pod that is meant: itself, or a container's.
pub(crate) async fn pod(client: &Client, text: &str) -> anyhow::Result<String> {
    let exact = pods(client)
        .await?
        .into_iter()
        .find(|pod| pod_name(pod) == text || pod.id == text);
    if let Some(pod) = exact {
        return Ok(pod.id);
    }
    Ok(match object(client, text).await? {
        Object::Pod(pod) => pod.id,
        Object::Container(container) => container.pod_sandbox_id,
    })
}
