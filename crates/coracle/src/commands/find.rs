//! From what a person typed to the pod or container that is meant.

use std::collections::HashMap;
use std::sync::OnceLock;

use coracle_proto::client::{Client, ClientError};
use coracle_proto::cri::{
    Container, ListContainersRequest, ListPodSandboxRequest, PodSandbox, PodSandboxState,
};

use super::lists::state_word;
use crate::terminal::{Status, Trouble};

/// Digits of an id that are shown.
pub(crate) const SHORT: usize = 13;
/// Candidates that an error lists.
const CANDIDATES: usize = 12;

/// A pod or a container.
#[derive(Debug, Clone)]
pub(crate) enum Object {
    /// A pod sandbox.
    Pod(PodSandbox),
    /// A container.
    Container(Container),
}

/// What is meant when a name is a pod's and a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefer {
    Pod,
    Container,
}

/// Pods and containers of the node, newest first. They do not change: what is found of them by id or path is
/// counted once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    /// All pods.
    pub(crate) pods: Vec<PodSandbox>,
    /// All containers.
    pub(crate) containers: Vec<Container>,
    /// Places in `pods` by id.
    pods_by_id: HashMap<String, usize>,
    /// Places in `containers` by id.
    containers_by_id: HashMap<String, usize>,
    /// How many are called so; counted when the first path is asked for.
    paths: OnceLock<HashMap<String, usize>>,
}

/// The first digits of an id.
pub(crate) fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..SHORT).unwrap_or(digits)
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
    pods.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
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
    containers.sort_by(|a, b| (b.created_at, &a.id).cmp(&(a.created_at, &b.id)));
    Ok(containers)
}

/// Name of a pod.
pub(crate) fn pod_name(pod: &PodSandbox) -> &str {
    pod.metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str())
}

/// Namespace of a pod.
pub(crate) fn pod_namespace(pod: &PodSandbox) -> &str {
    pod.metadata
        .as_ref()
        .map_or("", |metadata| metadata.namespace.as_str())
}

/// A pod's state as people read it.
pub(crate) fn pod_state(pod: &PodSandbox) -> &'static str {
    pod_state_word(pod.state())
}

/// The word for a pod's state.
pub(crate) fn pod_state_word(state: PodSandboxState) -> &'static str {
    match state {
        PodSandboxState::SandboxReady => "ready",
        PodSandboxState::SandboxNotready => "not-ready",
    }
}

/// Name of a container.
pub(crate) fn container_name(container: &Container) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str())
}

fn plain_path_of_pod(pod: &PodSandbox) -> String {
    format!("pod/{}/{}", pod_namespace(pod), pod_name(pod))
}

impl Objects {
    /// Asks for both lists at once.
    pub(crate) async fn load(client: &Client) -> anyhow::Result<Self> {
        let (pods, containers) = tokio::try_join!(pods(client), containers(client))?;
        Ok(Self::new(pods, containers))
    }

    /// Of lists that are sorted already.
    pub(crate) fn new(pods: Vec<PodSandbox>, containers: Vec<Container>) -> Self {
        let places = |ids: &mut dyn Iterator<Item = &String>| ids.cloned().zip(0..).collect();
        Self {
            pods_by_id: places(&mut pods.iter().map(|pod| &pod.id)),
            containers_by_id: places(&mut containers.iter().map(|one| &one.id)),
            paths: OnceLock::new(),
            pods,
            containers,
        }
    }

    /// The pod of that id.
    pub(crate) fn pod_by_id(&self, id: &str) -> Option<&PodSandbox> {
        self.pods.get(*self.pods_by_id.get(id)?)
    }

    /// The container of that id.
    pub(crate) fn container_by_id(&self, id: &str) -> Option<&Container> {
        self.containers.get(*self.containers_by_id.get(id)?)
    }

    /// The pod of a container.
    pub(crate) fn pod_of(&self, container: &Container) -> Option<&PodSandbox> {
        self.pod_by_id(&container.pod_sandbox_id)
    }

    /// Whether several are called so.
    fn is_taken_twice(&self, path: &str) -> bool {
        let count = || {
            let mut paths = HashMap::new();
            let pods = self.pods.iter().map(plain_path_of_pod);
            for path in pods.chain(self.containers.iter().map(|one| self.plain_path(one))) {
                *paths.entry(path).or_default() += 1;
            }
            paths
        };
        self.paths
            .get_or_init(count)
            .get(path)
            .is_some_and(|count| *count > 1)
    }

    /// `pod/NAMESPACE/NAME`, or with the id where several are called so.
    pub(crate) fn path_of_pod(&self, pod: &PodSandbox) -> String {
        let own = plain_path_of_pod(pod);
        if self.is_taken_twice(&own) {
            return format!("pod/{}", short(&pod.id));
        }
        own
    }

    /// `container/NAMESPACE/POD/NAME`, or with the id where several are called so.
    pub(crate) fn path_of_container(&self, container: &Container) -> String {
        let own = self.plain_path(container);
        if self.is_taken_twice(&own) {
            return format!("container/{}", short(&container.id));
        }
        own
    }

    fn plain_path(&self, container: &Container) -> String {
        let pod = self.pod_of(container);
        let (namespace, pod) = (pod.map_or("", pod_namespace), pod.map_or("", pod_name));
        format!("container/{namespace}/{pod}/{}", container_name(container))
    }

    /// What the text may mean: an id, else a name, else the beginning of an id.
    fn candidates(&self, text: &str) -> Vec<Object> {
        let (kind, rest) = match text.split_once('/') {
            Some((kind @ ("pod" | "container"), rest)) => (Some(kind), rest),
            _ => (None, text),
        };
        // Every id begins with nothing: `pod/$ID` with an unset variable must not mean the only pod.
        if rest.is_empty() {
            return Vec::new();
        }
        let of = |fits_pod: &dyn Fn(&PodSandbox) -> bool, fits_container: &dyn Fn(&Container) -> bool| {
            let pods = self.pods.iter().filter(|_| kind != Some("container"));
            let mut found: Vec<_> = pods
                .filter(|pod| fits_pod(pod))
                .cloned()
                .map(Object::Pod)
                .collect();
            let containers = self.containers.iter().filter(|_| kind != Some("pod"));
            found.extend(
                containers
                    .filter(|one| fits_container(one))
                    .cloned()
                    .map(Object::Container),
            );
            found
        };
        let by_id = of(&|pod| pod.id == rest, &|one| one.id == rest);
        if !by_id.is_empty() {
            return by_id;
        }
        let by_name = of(
            &|pod| pod_name(pod) == rest || format!("{}/{}", pod_namespace(pod), pod_name(pod)) == rest,
            &|one| {
                let path = self.plain_path(one);
                let path = path.trim_start_matches("container/");
                let in_pod = path.split_once('/').map_or("", |(_, in_pod)| in_pod);
                container_name(one) == rest || path == rest || in_pod == rest
            },
        );
        if !by_name.is_empty() {
            return by_name;
        }
        of(&|pod| pod.id.starts_with(rest), &|one| one.id.starts_with(rest))
    }

    fn one(&self, text: &str, prefer: Option<Prefer>) -> Result<Object, Trouble> {
        let mut found = self.candidates(text);
        let of_kind = |object: &Object| match prefer {
            Some(Prefer::Pod) => matches!(object, Object::Pod(_)),
            Some(Prefer::Container) => matches!(object, Object::Container(_)),
            None => true,
        };
        if found.iter().any(of_kind) {
            found.retain(of_kind);
        }
        match found.len() {
            0 => Err(Trouble::new(format!("there is no pod or container {text:?}"))
                .next("`coracle pods --all` and `coracle ps --all` show what there is")
                .status(Status::NotFound)),
            1 => Ok(found.remove(0)),
            _ => Err(self.ambiguous(text, &found)),
        }
    }

    fn ambiguous(&self, text: &str, found: &[Object]) -> Trouble {
        let mut what = format!("{text:?} means {} objects:", found.len());
        for object in found.iter().take(CANDIDATES) {
            let (kind, id, path, state) = match object {
                Object::Pod(pod) => {
                    let path = format!("{}/{}", pod_namespace(pod), pod_name(pod));
                    ("pod", &pod.id, path, pod_state(pod))
                }
                Object::Container(one) => {
                    let path = self.plain_path(one).trim_start_matches("container/").to_owned();
                    ("container", &one.id, path, state_word(one.state()))
                }
            };
            what.push_str(&format!("\n{kind:<9}  {}  {path}, {state}", short(id)));
        }
        if found.len() > CANDIDATES {
            what.push_str(&format!("\nand {} more", found.len() - CANDIDATES));
        }
        Trouble::new(what)
            .next("give more digits of an id, or pod/NAMESPACE/NAME or container/NAMESPACE/POD/NAME")
            .status(Status::Ambiguous)
    }

    /// The pod or container that is meant; a name that `coracle run` gave to both means the pod.
    pub(crate) fn object(&self, text: &str) -> Result<Object, Trouble> {
        self.one(text, Some(Prefer::Pod))
    }

    /// The container that is meant: itself, the newest of that name in its pod, or the only one of a pod.
    pub(crate) fn container(&self, text: &str) -> Result<Container, Trouble> {
        let found = self.candidates(text);
        let mut containers = found.iter().filter_map(|object| match object {
            Object::Container(container) => Some(container),
            Object::Pod(_) => None,
        });
        if let Some(newest) = containers.next() {
            let same = |one: &Container| self.plain_path(one) == self.plain_path(newest);
            if containers.all(same) {
                return Ok(newest.clone());
            }
        }
        match self.one(text, Some(Prefer::Container))? {
            Object::Container(container) => Ok(container),
            Object::Pod(pod) => self.only_container(&pod, text),
        }
    }

    fn only_container(&self, pod: &PodSandbox, text: &str) -> Result<Container, Trouble> {
        let of_pod: Vec<_> = self
            .containers
            .iter()
            .filter(|one| one.pod_sandbox_id == pod.id)
            .cloned()
            .map(Object::Container)
            .collect();
        let Some(Object::Container(first)) = of_pod.first() else {
            return Err(Trouble::new(format!("pod {text} has no container")).status(Status::NotFound));
        };
        let same = |object: &Object| matches!(object, Object::Container(one) if container_name(one) == container_name(first));
        if of_pod.iter().all(same) {
            return Ok(first.clone());
        }
        Err(self.ambiguous(text, &of_pod))
    }

    /// The pod that is meant: itself, or a container's.
    pub(crate) fn pod(&self, text: &str) -> Result<String, Trouble> {
        Ok(match self.one(text, Some(Prefer::Pod))? {
            Object::Pod(pod) => pod.id,
            Object::Container(container) => container.pod_sandbox_id,
        })
    }
}

#[cfg(test)]
mod tests {
    use coracle_proto::cri::{ContainerMetadata, PodSandboxMetadata};

    use super::*;

    fn pod(id: &str, name: &str) -> PodSandbox {
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                ..PodSandboxMetadata::default()
            }),
            ..PodSandbox::default()
        }
    }

    fn container(id: &str, pod: &str, name: &str) -> Container {
        Container {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(ContainerMetadata {
                name: name.to_owned(),
                attempt: 0,
            }),
            ..Container::default()
        }
    }

    fn objects() -> Objects {
        Objects::new(
            vec![pod("aa11", "web"), pod("ab22", "db"), pod("ac33", "web2")],
            vec![
                container("c1", "aa11", "nginx"),
                container("c2", "ac33", "nginx"),
                container("c3", "ab22", "db"),
                container("c4", "ac33", "old"),
            ],
        )
    }

    fn id(object: &Object) -> &str {
        match object {
            Object::Pod(pod) => &pod.id,
            Object::Container(container) => &container.id,
        }
    }

    #[test]
    fn ids_names_paths_and_beginnings_are_understood() {
        let all = objects();
        for (text, expected) in [
            ("aa11", "aa11"),
            ("aa", "aa11"),
            ("web", "aa11"),
            ("default/web", "aa11"),
            ("pod/default/web", "aa11"),
            ("pod/aa", "aa11"),
            ("db", "ab22"),
            ("container/db", "c3"),
            ("container/default/web/nginx", "c1"),
            ("web/nginx", "c1"),
            ("c4", "c4"),
        ] {
            assert_eq!(all.object(text).as_ref().map(id), Ok(expected), "{text}");
        }
        for nothing in ["", "pod/", "container/"] {
            assert!(all.object(nothing).is_err(), "{nothing:?}");
        }
        assert_eq!(all.container("db").unwrap().id, "c3");
        assert_eq!(all.container("web").unwrap().id, "c1");
        assert_eq!(all.pod("c4").unwrap(), "ac33");
    }

    #[test]
    fn what_is_called_as_another_is_told_by_its_id() {
        let all = Objects::new(
            vec![pod("aa11", "web"), pod("ab22", "web"), pod("ac33", "db")],
            vec![
                container("c1", "ac33", "db"),
                container("c2", "ac33", "db"),
                container("c3", "aa11", "nginx"),
            ],
        );
        let pods: Vec<_> = all.pods.iter().map(|pod| all.path_of_pod(pod)).collect();
        assert_eq!(pods, ["pod/aa11", "pod/ab22", "pod/default/db"]);
        let containers: Vec<_> = all
            .containers
            .iter()
            .map(|one| all.path_of_container(one))
            .collect();
        assert_eq!(
            containers,
            ["container/c1", "container/c2", "container/default/web/nginx"]
        );
        assert_eq!(all.container_by_id("c3").unwrap().pod_sandbox_id, "aa11");
        assert!(all.pod_by_id("c3").is_none());
    }

    #[test]
    fn what_means_several_is_listed() {
        let all = objects();
        let said = all.object("a").unwrap_err().to_string();
        assert!(
            said.contains("3 objects") && said.contains("default/web2, ready"),
            "{said}"
        );
        let said = all.container("nginx").unwrap_err().to_string();
        assert!(
            said.contains("c1") && said.contains("default/web2/nginx"),
            "{said}"
        );
        let said = all.container("web2").unwrap_err().to_string();
        assert!(said.contains("c2") && said.contains("c4"), "{said}");
        assert!(
            all.object("nothing")
                .unwrap_err()
                .to_string()
                .contains("\"nothing\"")
        );
        assert!(all.object("").is_err());
    }
}
