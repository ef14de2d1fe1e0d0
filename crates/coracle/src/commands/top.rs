//! `top`: what pods and containers use, once or live.

mod live;
mod node;
mod sample;
mod table;

use std::time::Duration;

use coracle_proto::client::Client;

use self::sample::{Sampler, Usage};
use super::find::{Object, Objects};
use crate::cli::{SortKey, TopArgs};
use crate::terminal::Screen;

/// Between the two looks of a single table: rates need two.
const MOMENT: Duration = Duration::from_millis(500);

/// What of the node is shown, and in which order.
#[derive(Debug, Clone)]
struct View {
    sort: SortKey,
    pods_only: bool,
    /// Ids of pods and containers; empty for all.
    only: Vec<String>,
}

/// Shows the live view on a terminal, else one table.
pub(crate) async fn show(client: &Client, args: &TopArgs, screen: &Screen) -> anyhow::Result<()> {
    let mut only = Vec::new();
    if !args.objects.is_empty() {
        let objects = Objects::load(client).await?;
        for text in &args.objects {
            only.push(match objects.object(text)? {
                Object::Pod(pod) => pod.id,
                Object::Container(container) => container.id,
            });
        }
    }
    let view = View {
        sort: args.sort,
        pods_only: args.pods,
        only,
    };
    if screen.is_live() && !args.once {
        return live::run(client, screen, view, Duration::from_secs(args.interval)).await;
    }
    let mut sampler = Sampler::default();
    sampler.take(client).await?;
    tokio::time::sleep(MOMENT).await;
    let pods = sampler.take(client).await?;
    let listing = table::listing(&view.of(pods), screen, None);
    screen.listing(&listing)
}

impl View {
    /// What is shown of what was measured: pods by the key, each with its containers by the key.
    fn of(&self, mut pods: Vec<Usage>) -> Vec<Usage> {
        self.sort(&mut pods);
        for pod in &mut pods {
            if self.pods_only {
                pod.containers.clear();
            }
            let whole = self.only.is_empty() || self.only.contains(&pod.id);
            pod.containers.retain(|one| whole || self.only.contains(&one.id));
            self.sort(&mut pod.containers);
        }
        pods.retain(|pod| self.only.is_empty() || self.only.contains(&pod.id) || !pod.containers.is_empty());
        pods
    }

    fn sort(&self, usages: &mut [Usage]) {
        usages.sort_by(|a, b| {
            let (one, other) = (weight(a, self.sort), weight(b, self.sort));
            // The most first; equals by name, so that nothing jumps about.
            other
                .total_cmp(&one)
                .then_with(|| (&a.namespace, &a.name, &a.id).cmp(&(&b.namespace, &b.name, &b.id)))
        });
    }
}

fn weight(usage: &Usage, key: SortKey) -> f64 {
    let number = |value: Option<u64>| value.map_or(-1.0, |value| value as f64);
    match key {
        SortKey::Cpu => number(usage.nano_cores),
        SortKey::Memory => number(usage.memory),
        SortKey::Disk => number(usage.disk),
        SortKey::Net => number(usage.received) + number(usage.sent),
        SortKey::Pressure => usage.pressure.iter().flatten().copied().fold(-1.0, f64::max),
        SortKey::Name => 0.0,
        SortKey::Age => usage.created_at as f64,
    }
}
