//! Dead mirrors cost their time once for the node, not once a blob and a pull.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::image::{Image, Pack, layer};
use crate::node::Node;
use crate::server::{Reply, Server, right};

fn image(seed: u8) -> Image {
    let layers = (0..4).map(|number| layer(Pack::Gzip, &[("f", &[seed, number])]));
    Image::new(&format!("{seed}"), layers.collect())
}

/// A mirror that takes connections and says nothing, and counts them; or answers, once it is told to.
struct Mirror {
    address: String,
    connections: Arc<AtomicUsize>,
    back: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn silent_mirror() -> Mirror {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (connections, back) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, answers) = (Arc::clone(&connections), Arc::clone(&back));
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            if answers.load(Ordering::SeqCst) {
                use tokio::io::AsyncWriteExt;
                let reply = b"HTTP/1.1 404 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(reply).await.ok();
            } else {
                held.push(stream);
            }
        }
    });
    Mirror {
        address,
        connections,
        back,
        task,
    }
}

#[tokio::test]
async fn root_a_dead_mirror_is_asked_once_by_all_pulls_together() {
    let mirror = silent_mirror().await;
    let images: Vec<Image> = (0..3).map(image).collect();
    let served = images.clone();
    let server = Server::start(move |asked| {
        let number: usize = asked.path.split("/app").nth(1).unwrap()[..1].parse().unwrap();
        right(&served[number], asked)
    })
    .await;
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let node = Node::open(dir, |config| {
        config.registries.retries.stall_timeout = Duration::from_millis(300);
        config.registries.retries.host_pause = Duration::from_secs(4);
    })
    .await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.address, mirror.address
    );
    node.hosts("r.example", &text);
    assert!(node.images.paused_hosts().is_empty());
    for number in 0..3 {
        node.pull(&format!("r.example/app{number}:1")).await.unwrap();
    }
    // Three pulls of a manifest, a configuration and four layers each.
    assert_eq!(mirror.connections.load(Ordering::SeqCst), 1);
    let paused = node.images.paused_hosts();
    assert_eq!(paused.len(), 1, "{paused:?}");
    assert_eq!(paused[0].host, mirror.address);
    assert!(paused[0].passed_over >= 2, "{paused:?}");

    // Back again, it is looked at by one request and then asked as usual.
    mirror.back.store(true, Ordering::SeqCst);
    while !node.images.paused_hosts()[0].half_open {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.images.remove("r.example/app0:1").await.unwrap();
    node.pull("r.example/app0:1").await.unwrap();
    assert!(mirror.connections.load(Ordering::SeqCst) > 1);
    assert!(node.images.paused_hosts().is_empty());
}

#[tokio::test]
async fn root_the_only_host_that_is_left_is_asked_in_any_case() {
    let image = image(1);
    let down = Arc::new(AtomicBool::new(true));
    let (served, state) = (image.clone(), Arc::clone(&down));
    let server = Server::start(move |asked| {
        if state.load(Ordering::SeqCst) {
            Reply::status(503)
        } else {
            right(&served, asked)
        }
    })
    .await;
    let node = Node::new().await;
    let reference = server.reference("app:1");
    node.pull(&reference).await.unwrap_err();
    assert_eq!(node.images.paused_hosts().len(), 1, "it is known to be down");
    down.store(false, Ordering::SeqCst);
    node.pull(&reference).await.unwrap();
    assert!(node.images.paused_hosts().is_empty());
}

#[tokio::test]
async fn root_what_is_known_of_hosts_survives_a_new_configuration() {
    let mirror = silent_mirror().await;
    let image = image(1);
    let served = image.clone();
    let server = Server::start(move |asked| right(&served, asked)).await;
    let node = Node::new().await;
    let text = format!(
        "server = \"http://{}\"\n[host.\"http://{}\"]\n",
        server.address, mirror.address
    );
    let dir = node.hosts("r.example", &text);
    node.pull("r.example/app:1").await.unwrap();
    let config = coracle_image::RegistryConfig {
        hosts_dirs: vec![dir.parent().unwrap().to_owned()],
        ..coracle_image::RegistryConfig::default()
    };
    node.images.set_registries(config);
    node.pull("r.example/app:2").await.unwrap();
    assert_eq!(mirror.connections.load(Ordering::SeqCst), 1);
}
