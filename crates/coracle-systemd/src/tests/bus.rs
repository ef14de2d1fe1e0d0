//! On a real bus, with others on it: whose word about a job counts.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::net::UnixStream;
use zbus::names::BusName;
use zbus::zvariant::ObjectPath;
use zbus::{MatchRule, MessageStream};

use super::fake::{Fake, Mood};
use super::scope;
use crate::connection::{DESTINATION, MANAGER, OBJECT};
use crate::{Error, Systemd, Way};

/// As open as a system bus is for signals, and for systemd's name, too.
const OPEN: &str = r#"<busconfig>
  <type>custom</type>
  <listen>unix:path=SOCKET</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>"#;

#[derive(Debug)]
struct Bus {
    daemon: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Bus {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (socket, config) = (directory.path().join("bus"), directory.path().join("config"));
        std::fs::write(&config, OPEN.replace("SOCKET", socket.to_str().unwrap())).unwrap();
        let daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nopidfile", "--config-file"])
            .arg(&config)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon is one of xtask/packages.txt");
        let bus = Self {
            daemon,
            socket,
            _directory: directory,
        };
        while UnixStream::connect(&bus.socket).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bus
    }

    async fn connect(&self) -> zbus::Connection {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let builder = zbus::connection::Builder::unix_stream(stream);
        builder.build().await.unwrap()
    }

    fn systemd(&self, patience: Duration) -> Systemd {
        Systemd::at(Way::Bus(self.socket.clone())).with_patience(patience)
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Tells one, or all, that the first job has been done.
async fn tell(from: &zbus::Connection, to: Option<&str>, path: &str) {
    let job = ObjectPath::try_from("/job/1").unwrap();
    let body = (1_u32, job, scope().name.to_string(), "done");
    let to = to.map(|to| BusName::try_from(to.to_owned()).unwrap());
    from.emit_signal(to, path, MANAGER, "JobRemoved", &body)
        .await
        .unwrap();
}

/// Until the job was asked for; its answer may still be on its way.
async fn asked(fake: &Fake) -> String {
    while fake.calls("StartTransientUnit") == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fake.subscriber().unwrap()
}

#[tokio::test]
async fn nobody_else_can_say_that_a_job_is_done() {
    let bus = Bus::start().await;
    let (manager, forger) = (bus.connect().await, bus.connect().await);
    let fake = Fake::serve(Mood::ForgetsJobs, &manager).await;
    let systemd = bus.systemd(Duration::from_millis(500));
    let scope = scope();
    let forge = async {
        let victim = asked(&fake).await;
        // That systemd's name is the forger's from now on.
        let own = forger.unique_name().unwrap().to_string();
        let claim = (DESTINATION, manager.unique_name().unwrap().to_string(), own);
        let (object, interface) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");
        forger
            .emit_signal(
                Some(victim.as_str()),
                object,
                interface,
                "NameOwnerChanged",
                &claim,
            )
            .await
            .unwrap();
        tell(&forger, None, OBJECT).await;
        tell(&forger, Some(&victim), OBJECT).await;
        // systemd has other objects, and what they say is something else.
        tell(&manager, Some(&victim), "/org/freedesktop/systemd1/unit/a").await;
    };
    let (started, ()) = futures::join!(systemd.start_scope(&scope), forge);
    assert!(matches!(started, Err(Error::Silent { .. })), "{started:?}");
}

#[tokio::test]
async fn a_rule_that_names_the_sender_lets_a_forger_through() {
    let bus = Bus::start().await;
    let (victim, forger) = (bus.connect().await, bus.connect().await);
    let rule = MatchRule::builder()
        .sender(DESTINATION)
        .unwrap()
        .path(OBJECT)
        .unwrap();
    let mut heard = MessageStream::for_match_rule(rule.build(), &victim, None)
        .await
        .unwrap();
    tell(&forger, Some(victim.unique_name().unwrap().as_str()), OBJECT).await;
    let message = heard.next().await.unwrap().unwrap();
    assert_eq!(
        message.header().sender(),
        forger.unique_name().map(|name| &**name)
    );
}

#[tokio::test]
async fn a_systemd_that_is_executed_anew_ends_the_jobs_of_the_old_one() {
    let bus = Bus::start().await;
    let (manager, anew) = (bus.connect().await, bus.connect().await);
    let fake = Fake::serve(Mood::ForgetsJobs, &manager).await;
    let systemd = bus.systemd(Duration::from_secs(30));
    let scope = scope();
    let execute = async {
        asked(&fake).await;
        manager.release_name(DESTINATION).await.unwrap();
        anew.request_name(DESTINATION).await.unwrap();
        tell(&anew, None, OBJECT).await;
    };
    let (started, ()) = futures::join!(systemd.start_scope(&scope), execute);
    started.unwrap();
}

#[tokio::test]
async fn jobs_end_over_a_bus() {
    let bus = Bus::start().await;
    let manager = bus.connect().await;
    let fake = Fake::serve(Mood::Willing, &manager).await;
    let systemd = bus.systemd(Duration::from_secs(30));
    systemd.start_scope(&scope()).await.unwrap();
    systemd.stop(&scope().name).await.unwrap();
    assert!(fake.unit(scope().name.as_str()).is_none());
}
