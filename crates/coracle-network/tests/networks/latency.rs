//! How long an attachment takes; prints, asserts nothing. Run with `--ignored`.

use std::time::{Duration, Instant};

use coracle_network::Networks;

use crate::fresh::{fresh_test, pod};

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fresh_test! {
    #[ignore = "a measurement"]
    async fn root_latency_of_attach_and_detach(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/16"])).await.unwrap();
        for ports in [&[][..], &[(8080, 80)][..]] {
            let [mut made, mut attached, mut detached, mut removed] = [const { Vec::new() }; 4];
            for round in 0..110 {
                tokio::time::sleep(Duration::from_millis(30)).await;
                let start = Instant::now();
                let web = pod(&networks, ports).await;
                let netns = start.elapsed();
                let start = Instant::now();
                networks.attach(web.clone()).await.unwrap();
                let attach = start.elapsed();
                tokio::time::sleep(Duration::from_millis(30)).await;
                let start = Instant::now();
                networks.detach(web.clone()).await.unwrap();
                let detach = start.elapsed();
                let start = Instant::now();
                networks.remove_netns(&web.id).await.unwrap();
                if round >= 10 {
                    made.push(netns);
                    attached.push(attach);
                    detached.push(detach);
                    removed.push(start.elapsed());
                }
            }
            networks.settle().await;
            println!(
                "{} ports: netns {:?}, attach {:?}, detach {:?}, remove netns {:?}",
                ports.len(),
                median(&mut made),
                median(&mut attached),
                median(&mut detached),
                median(&mut removed),
            );
        }
    }
}
