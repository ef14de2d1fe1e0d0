//! A restart, and what a crash can leave.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use coracle_network::{NetworkNotReady, Networks};

use crate::fresh::{ask, end, fresh_test, pod, serve, sh};

fresh_test! {
    async fn root_a_restart_knows_pods_and_heals_rules(machine) {
        let config = machine.with_default(&["10.77.0.0/24"]);
        let networks = Networks::start(config.clone()).await.unwrap();
        let web = pod(&networks, &[(8080, 80)]).await;
        let attachment = networks.attach(web.clone()).await.unwrap();
        serve(&web.netns, "0.0.0.0:80", "web");
        drop(networks);
        sh("nft flush ruleset");

        let networks = Networks::start(config).await.unwrap();
        assert_eq!(networks.attachment(&web.id), Some(attachment));
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap()).unwrap(), "web 10.77.0.1");
        networks.check(&web.id).await.unwrap();
        let rival = pod(&networks, &[(8080, 80)]).await;
        networks.attach(rival.clone()).await.unwrap_err();
        end(&networks, rival).await;
        end(&networks, web).await;
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_a_pod_without_a_record_is_taken_away_whole(machine) {
        let config = machine.with_default(&["10.77.0.0/24", "fd00:77::/64"]);
        let networks = Networks::start(config).await.unwrap();
        let (gone, torn) = (pod(&networks, &[]).await, pod(&networks, &[(8080, 80)]).await);
        networks.attach(gone.clone()).await.unwrap();
        networks.attach(torn.clone()).await.unwrap();
        let record = |id| machine.root.join("state").join(format!("{id}.json"));
        fs::remove_file(record(&gone.id)).unwrap();
        fs::write(record(&torn.id), "{\"pod\":").unwrap();
        // The configuration is another one by now.
        machine.configure("1.conflist", r#"{"cniVersion":"1.0.0","name":"new","plugins":[{"type":"bridge","bridge":"br1"}]}"#);
        while networks.intents(&gone).iter().any(|object| object.to_string().contains("of network tested")) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        end(&networks, gone).await;
        end(&networks, torn).await;
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_a_network_that_comes_later_is_used(machine) {
        let mut config = machine.config();
        config.conf_dir = machine.root.join("etc/cni/net.d");
        let networks = Networks::start(config.clone()).await.unwrap();
        assert!(matches!(networks.status().await, Err(NetworkNotReady::NoConfiguration { .. })));
        let web = pod(&networks, &[]).await;
        networks.attach(web.clone()).await.unwrap_err();
        fs::create_dir_all(&config.conf_dir).unwrap();
        fs::write(config.conf_dir.join("1.conf"), "{").unwrap();
        loop {
            match networks.status().await {
                Err(NetworkNotReady::NoneValid { problems, .. }) => break assert!(problems.contains("1.conf"), "{problems}"),
                _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
        let text = r#"{"cniVersion":"0.3.1","name":"one","type":"bridge","bridge":"br1","isGateway":true,
            "ipam":{"type":"host-local","dataDir":"/run/machine/networks","subnet":"10.3.0.0/24"}}"#;
        fs::write(config.conf_dir.join("2.conf"), text).unwrap();
        while networks.status().await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        assert_eq!(networks.attach(web.clone()).await.unwrap().ips[0].to_string(), "10.3.0.2");
        end(&networks, web).await;
        networks.settle().await;
        machine.assert_no_pods("one");
    }
}

fresh_test! {
    async fn root_thirty_pods_at_once(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24", "fd00:77::/64"])).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..30_u16 {
            let networks = networks.clone();
            tasks.spawn(async move {
                let web = pod(&networks, &[(9000 + number, 80)]).await;
                let ip = networks.attach(web.clone()).await.unwrap().ips[0];
                (web, ip)
            });
        }
        let pods = tasks.join_all().await;
        let ips: std::collections::HashSet<_> = pods.iter().map(|(_, ip)| *ip).collect();
        assert_eq!(ips.len(), 30);
        let mut tasks = tokio::task::JoinSet::new();
        for (web, _) in pods {
            let networks = networks.clone();
            tasks.spawn(async move { end(&networks, web).await });
        }
        tasks.join_all().await;
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}

fresh_test! {
    async fn root_a_namespace_can_be_another_user_namespaces(machine) {
        let networks = Networks::start(machine.with_default(&["10.77.0.0/24"])).await.unwrap();
        let mut holder = std::process::Command::new("unshare").args(["--user", "--map-root-user", "sleep", "1000"]).spawn().unwrap();
        let path = format!("/proc/{}/ns/user", holder.id());
        let own = fs::metadata("/proc/self/ns/user").unwrap().ino();
        while fs::metadata(&path).unwrap().ino() == own {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        let owner: OwnedFd = fs::File::open(&path).unwrap().into();
        let mut web = pod(&networks, &[]).await;
        networks.remove_netns(&web.id).await.unwrap();
        web.netns = networks.create_netns(&web.id, Some(owner)).await.unwrap();
        networks.attach(web.clone()).await.unwrap();
        let links = sh(&format!("nsenter --user={path} --net={} ip link set lo mtu 1000 && ip netns exec tested-{} ip link show lo", web.netns.display(), web.id));
        assert!(links.contains("mtu 1000") && links.contains("UP"), "{links}");
        end(&networks, web).await;
        holder.kill().unwrap();
        holder.wait().unwrap();
        networks.settle().await;
        machine.assert_no_pods("tested");
    }
}
