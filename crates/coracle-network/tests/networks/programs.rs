//! Plugins' programs: the stock ones beside ours on the same files, and ones that misbehave.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use coracle_network::{Networks, NetworksConfig, PluginError, PodNetwork};
use coracle_types::{Kind, Kinded};

use crate::fresh::{Machine, ask, end, fresh_test, pod, reason, serve};

/// Where the stock programs are, newest first.
fn stock_dir(wanted: &[&str]) -> PathBuf {
    ["/opt/cni/bin", "/usr/lib/cni"]
        .into_iter()
        .map(PathBuf::from)
        .find(|dir| wanted.iter().all(|program| dir.join(program).is_file()))
        .unwrap_or_else(|| {
            panic!("no directory has all of the CNI plugins {wanted:?}: `make setup` installs them")
        })
}

const SHARED: &str = r#"{"cniVersion":"1.0.0","name":"shared","plugins":[{"type":"bridge","bridge":"br0","isGateway":true,
    "isDefaultGateway":true,EXTRA
    "ipam":{"type":"host-local","dataDir":"/run/machine/networks","ranges":[[{"subnet":"10.8.0.0/24"}],[{"subnet":"fd08::/64"}]]}}]}"#;

/// Runs the stock host-local as libcni would.
fn host_local(dir: &std::path::Path, command: &str, id: &str) -> String {
    let config = SHARED
        .replace("EXTRA", "")
        .replace("\"plugins\":[{", "")
        .replace("}]}", "}");
    let mut child = Command::new(dir.join("host-local"))
        .envs([
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", id),
            ("CNI_NETNS", "/dev/null"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), config.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

fresh_test! {
    async fn root_the_stock_host_local_shares_our_reservations(machine) {
        let dir = stock_dir(&["host-local"]);
        machine.configure("1.conflist", &SHARED.replace("EXTRA", ""));
        let networks = Networks::start(machine.config()).await.unwrap();
        let ours = pod(&networks, &[]).await;
        networks.attach(ours.clone()).await.unwrap();
        let theirs = host_local(&dir, "ADD", "their-container");
        assert!(theirs.contains("10.8.0.3/24") && theirs.contains("fd08::3/64"), "{theirs}");
        let next = pod(&networks, &[]).await;
        assert_eq!(networks.attach(next.clone()).await.unwrap().ips[0].to_string(), "10.8.0.4");
        // Each frees the other's.
        host_local(&dir, "DEL", ours.id.as_str());
        assert_eq!(machine.reserved("shared"), ["10.8.0.3", "10.8.0.4", "fd08::3", "fd08::4"]);
        let missing = networks.check(&ours.id).await.unwrap_err();
        assert_eq!(missing.kind(), Kind::FailedPrecondition);
        host_local(&dir, "CHECK", next.id.as_str());
        let adopted = host_local(&dir, "ADD", &"a".repeat(64));
        assert!(adopted.contains("10.8.0.5/24"), "{adopted}");
        networks.detach(PodNetwork { id: "a".repeat(64).parse().unwrap(), ..ours.clone() }).await.unwrap();
        host_local(&dir, "DEL", "their-container");
        end(&networks, ours).await;
        end(&networks, next).await;
        networks.settle().await;
        machine.assert_no_pods("shared");
    }
}

fresh_test! {
    async fn root_an_option_of_the_program_alone_runs_the_program(machine) {
        let dir = stock_dir(&["bridge", "host-local", "portmap"]);
        machine.configure("1.conflist", &SHARED.replace("EXTRA", r#""forceAddress":true,"#)
            .replace("}}]}", r#"}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#));
        let config = NetworksConfig { bin_dirs: vec![dir], ..machine.config() };
        let networks = Networks::start(config).await.unwrap();
        networks.status().await.unwrap();
        let web = pod(&networks, &[(8080, 80)]).await;
        let attachment = networks.attach(web.clone()).await.unwrap();
        assert_eq!(attachment.ips[0].to_string(), "10.8.0.2");
        serve(&web.netns, "[::]:80", "web");
        assert_eq!(ask("10.8.0.2:80".parse().unwrap()).unwrap(), "web 10.8.0.1");
        // The port map is ours, on the program's result.
        assert_eq!(ask("127.0.0.1:8080".parse().unwrap()).unwrap(), "web 10.8.0.1");
        networks.check(&web.id).await.unwrap();
        end(&networks, web).await;
        networks.settle().await;
        machine.assert_no_pods("shared");
    }
}

/// Installs a plugin that logs its call and then does `body`.
fn install(machine: &Machine, name: &str, body: &str) {
    let bin = machine.root.join("bin");
    fs::create_dir_all(&bin).unwrap();
    let path = bin.join(name);
    let log = machine.root.join("log");
    let text = format!(
        "#!/bin/sh\nconf=$(cat)\necho \"{name} $CNI_COMMAND\" >> {}\n{body}\n",
        log.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn log(machine: &Machine) -> Vec<String> {
    let path = machine.root.join("log");
    let text = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(path);
    text.lines().map(str::to_owned).collect()
}

fn chain(machine: &Machine, version: &str, second: &str) {
    machine.configure(
        "1.conflist",
        &format!(
            r#"{{"cniVersion":"{version}","name":"mixed","plugins":[
        {{"type":"bridge","bridge":"br0","isGateway":true,
          "ipam":{{"type":"host-local","dataDir":"/run/machine/networks","subnet":"10.9.0.0/24"}}}},
        {{"type":"first","capabilities":{{"portMappings":true,"bandwidth":false}}}},
        {{"type":"{second}"}}]}}"#
        ),
    );
}

const ECHO_PREVIOUS: &str = r#"case $CNI_COMMAND in
    ADD) echo "$conf" | jq .prevResult;;
    STATUS) exit ${STATUS_CODE:-0};;
esac"#;

fresh_test! {
    async fn root_plugins_are_told_all_and_in_order(machine) {
        install(machine, "first", &format!("env | grep -E '^(CNI|K8S)_' | sort > /run/machine/env.$CNI_COMMAND
            echo \"$conf\" > /run/machine/conf.$CNI_COMMAND\n{ECHO_PREVIOUS}"));
        install(machine, "second", ECHO_PREVIOUS);
        chain(machine, "0.4.0", "second");
        let networks = Networks::start(machine.config()).await.unwrap();
        let web = pod(&networks, &[(8080, 80)]).await;
        networks.attach(web.clone()).await.unwrap();
        networks.check(&web.id).await.unwrap();
        let told = fs::read_to_string("/run/machine/env.ADD").unwrap();
        let id = &web.id;
        for line in [
            "CNI_COMMAND=ADD".to_owned(),
            format!("CNI_CONTAINERID={id}"),
            "CNI_IFNAME=eth0".into(),
            format!("CNI_NETNS={}", web.netns.display()),
            "CNI_PATH=/run/machine/bin".into(),
            format!("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID=1234"),
        ] {
            assert!(told.lines().any(|other| other == line), "{line}: {told}");
        }
        let conf: serde_json::Value = serde_json::from_str(&fs::read_to_string("/run/machine/conf.ADD").unwrap()).unwrap();
        assert_eq!(conf["cniVersion"], "0.4.0");
        assert_eq!(conf["name"], "mixed");
        assert_eq!(conf["runtimeConfig"]["portMappings"][0]["hostPort"], 8080);
        assert!(conf["runtimeConfig"].get("bandwidth").is_none());
        assert_eq!(conf["prevResult"]["ips"][0]["version"], "4");
        assert_eq!(conf["prevResult"]["interfaces"][2]["sandbox"], web.netns.display().to_string());

        // The namespace goes first, as after a crash of the pod's last holder.
        networks.remove_netns(&web.id).await.unwrap();
        networks.detach(web.clone()).await.unwrap();
        assert!(fs::read_to_string("/run/machine/env.DEL").unwrap().contains("CNI_NETNS=\n"));
        let conf: serde_json::Value = serde_json::from_str(&fs::read_to_string("/run/machine/conf.DEL").unwrap()).unwrap();
        assert_eq!(conf["prevResult"]["ips"][0]["address"], "10.9.0.2/24");
        assert_eq!(log(machine), ["first ADD", "second ADD", "first CHECK", "second CHECK", "second DEL", "first DEL"]);
        networks.settle().await;
        machine.assert_no_pods("mixed");
    }
}

fresh_test! {
    async fn root_a_failing_plugin_is_undone_with_those_before_it(machine) {
        install(machine, "first", ECHO_PREVIOUS);
        let config = NetworksConfig { plugin_deadline: Duration::from_millis(500), ..machine.config() };
        let cases = [
            ("reports", r#"test $CNI_COMMAND = DEL || { echo '{"code":11,"msg":"no capacity","details":"try later"}'; exit 1; }"#, Kind::Unavailable),
            ("hangs", "test $CNI_COMMAND = DEL || sleep 1000", Kind::DeadlineExceeded),
            ("rubbish", "test $CNI_COMMAND = DEL || printf '\\001hello'", Kind::Internal),
            ("silent", "true", Kind::Internal),
            ("lies", "test $CNI_COMMAND = DEL || echo '{\"ips\":[{\"address\":\"10.0.0.1/8\",\"interface\":9}]}'", Kind::Internal),
            ("dies", "test $CNI_COMMAND = DEL || kill -9 $$", Kind::Internal),
            ("floods", "test $CNI_COMMAND = DEL || yes", Kind::Internal),
        ];
        for (name, body, kind) in cases {
            install(machine, name, body);
            chain(machine, "1.0.0", name);
            let networks = Networks::start(config.clone()).await.unwrap();
            let web = pod(&networks, &[]).await;
            let error = networks.attach(web.clone()).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error:?}");
            println!("{name}: {error}: {}", std::error::Error::source(&error).unwrap());
            assert_eq!(log(machine), ["first ADD".to_owned(), format!("{name} ADD"), format!("{name} DEL"), "first DEL".into()]);
            networks.remove_netns(&web.id).await.unwrap();
            networks.settle().await;
            machine.assert_no_pods("mixed");
        }
    }
}

fresh_test! {
    async fn root_a_failing_del_is_tried_again(machine) {
        install(machine, "first", ECHO_PREVIOUS);
        install(machine, "second", &format!("test $CNI_COMMAND = DEL && test -e /run/machine/broken && exit 1\n{ECHO_PREVIOUS}"));
        chain(machine, "1.0.0", "second");
        let networks = Networks::start(machine.config()).await.unwrap();
        let web = pod(&networks, &[]).await;
        networks.attach(web.clone()).await.unwrap();
        fs::write("/run/machine/broken", "").unwrap();
        let error = networks.detach(web.clone()).await.unwrap_err();
        assert!(error.to_string().contains("\"second\"") && matches!(reason(&error), PluginError::Died { .. }), "{error:?}");
        assert_eq!(machine.reserved("mixed"), Vec::<String>::new(), "the others did their part");
        fs::remove_file("/run/machine/broken").unwrap();
        end(&networks, web).await;
        networks.settle().await;
        machine.assert_no_pods("mixed");
    }
}

fresh_test! {
    async fn root_status_and_collection_reach_programs_of_cni_1_1(machine) {
        install(machine, "first", &format!("echo \"$conf\" > /run/machine/conf.$CNI_COMMAND
            test $CNI_COMMAND = STATUS && test -e /run/machine/busy && {{ echo '{{\"code\":50,\"msg\":\"not yet\"}}'; exit 1; }}\n{ECHO_PREVIOUS}"));
        install(machine, "second", ECHO_PREVIOUS);
        chain(machine, "1.1.0", "second");
        let networks = Networks::start(machine.config()).await.unwrap();
        networks.status().await.unwrap();
        fs::write("/run/machine/busy", "").unwrap();
        let not_ready = networks.status().await.unwrap_err().to_string();
        assert!(not_ready.contains("not yet"), "{not_ready}");
        fs::remove_file("/run/machine/busy").unwrap();
        fs::rename("/run/machine/bin/second", "/run/machine/bin/gone").unwrap();
        let missing = networks.status().await.unwrap_err().to_string();
        assert!(missing.contains("\"second\"") && missing.contains("/run/machine/bin"), "{missing}");
        fs::rename("/run/machine/bin/gone", "/run/machine/bin/second").unwrap();

        let (kept, lost) = (pod(&networks, &[]).await, pod(&networks, &[]).await);
        networks.attach(kept.clone()).await.unwrap();
        networks.attach(lost.clone()).await.unwrap();
        fs::write(machine.root.join("networks/mixed/10.9.0.77"), "a-stranger\r\neth0").unwrap();
        log(machine);
        networks.gc(std::slice::from_ref(&kept.id)).await.unwrap();
        assert_eq!(log(machine), ["second DEL", "first DEL", "first GC", "second GC"]);
        let conf: serde_json::Value = serde_json::from_str(&fs::read_to_string("/run/machine/conf.GC").unwrap()).unwrap();
        assert_eq!(conf["cni.dev/valid-attachments"], serde_json::json!([{ "containerID": kept.id, "ifname": "eth0" }]));
        assert_eq!(machine.reserved("mixed"), ["10.9.0.2"]);
        assert!(kept.netns.exists() && !lost.netns.exists());
        end(&networks, kept).await;
        networks.settle().await;
        machine.assert_no_pods("mixed");
    }
}
