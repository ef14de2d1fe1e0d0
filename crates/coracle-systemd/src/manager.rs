//! What systemd is asked: scopes made, changed, joined and stopped.

use std::time::Duration;

use coracle_types::Kinded as _;
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::timeout;
use zbus::zvariant::{DynamicType, ObjectPath, OwnedObjectPath, OwnedValue, Value};

use crate::connection::{Connection, DESTINATION, MANAGER, OBJECT, Way};
use crate::error::Error;
use crate::name::{SliceName, UnitName};
use crate::property::Property;

/// Longest wait for an answer or a job. A loaded node's systemd takes seconds, a dead one for ever.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the processes of a unit that is stopped may take to heed SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
const SIGKILL: i32 = 9;

/// A scope to make.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name.
    pub name: UnitName,
    /// Where it lies; systemd makes slices that are missing.
    pub slice: SliceName,
    /// For people: what `systemctl status` shows.
    pub description: String,
    /// Its first process, in systemd's PID namespace.
    pub pid: u32,
    /// Its limits.
    pub properties: Vec<Property>,
}

/// The way to systemd.
#[derive(Debug)]
pub struct Systemd {
    way: Way,
    connection: Mutex<Option<Connection>>,
    patience: Duration,
}

impl Systemd {
    /// Nothing is connected before the first request.
    #[must_use]
    pub fn at(way: Way) -> Self {
        Self {
            way,
            connection: Mutex::new(None),
            patience: PATIENCE,
        }
    }

    #[cfg(test)]
    pub(crate) fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// [`Error::Unreachable`].
    pub async fn reach(&self) -> Result<(), Error> {
        self.connection("Subscribe", "manager").await.map(drop)
    }

    /// Makes a scope around a process; on return the process is in the scope's cgroup and its limits stand. The
    /// cgroup below is the caller's own (`Delegate=yes`), and nothing of the unit stays when its last process ends.
    ///
    /// A unit of this name that is there already is stopped first, unless it was made by this very call over a
    /// connection that was lost.
    ///
    /// # Errors
    /// What systemd says, or that it does not answer.
    pub async fn start_scope(&self, scope: &Scope) -> Result<(), Error> {
        let mut lost = false;
        let mut replaced = false;
        loop {
            match self.try_start(scope).await {
                Err(Error::Lost { .. }) if !lost => lost = true,
                Err(error) if error.is("UnitExists") && lost && self.is_active(&scope.name).await? => {
                    return Ok(());
                }
                Err(error) if error.is("UnitExists") && !replaced => {
                    replaced = true;
                    self.stop(&scope.name).await?;
                    self.reset_failed(&scope.name).await?;
                }
                other => return other,
            }
        }
    }

    /// Has a scope hold a process beside whatever it holds already; it is made when it is not there. Nothing in it is
    /// ever stopped by this.
    ///
    /// # Errors
    /// What systemd says, or that it does not answer.
    pub async fn hold(&self, scope: &Scope) -> Result<(), Error> {
        match self.try_start(scope).await {
            Err(error) if error.is("UnitExists") => self.attach(&scope.name, scope.pid).await,
            Err(Error::Lost { .. }) => match self.try_start(scope).await {
                Err(error) if error.is("UnitExists") => self.attach(&scope.name, scope.pid).await,
                other => other,
            },
            other => other,
        }
    }

    async fn try_start(&self, scope: &Scope) -> Result<(), Error> {
        let mut properties = vec![
            ("Description", Value::from(scope.description.clone())),
            ("Slice", Value::from(scope.slice.as_str().to_owned())),
            ("Delegate", Value::Bool(true)),
            ("DefaultDependencies", Value::Bool(false)),
            ("CollectMode", Value::from("inactive-or-failed")),
            ("CPUAccounting", Value::Bool(true)),
            ("MemoryAccounting", Value::Bool(true)),
            ("TasksAccounting", Value::Bool(true)),
            ("PIDs", Value::from(vec![scope.pid])),
        ];
        properties.extend(scope.properties.iter().map(Property::pair));
        let auxiliary: Vec<(&str, Vec<(&str, Value<'_>)>)> = Vec::new();
        let body = (scope.name.as_str(), "fail", properties, auxiliary);
        self.job("StartTransientUnit", &scope.name, &body).await
    }

    /// Changes limits of a unit until it goes; they hold on return.
    ///
    /// # Errors
    /// What systemd says; a unit that is not there is an error.
    pub async fn set_properties(&self, unit: &UnitName, properties: &[Property]) -> Result<(), Error> {
        let pairs: Vec<_> = properties.iter().map(Property::pair).collect();
        let body = (unit.as_str(), true, pairs);
        self.call::<_, ()>("SetUnitProperties", unit, &body).await
    }

    /// Moves a process into the cgroup of a unit that is there.
    ///
    /// # Errors
    /// What systemd says; the unit must delegate (systemd 238).
    pub async fn attach(&self, unit: &UnitName, pid: u32) -> Result<(), Error> {
        let body = (unit.as_str(), "", vec![pid]);
        self.call::<_, ()>("AttachProcessesToUnit", unit, &body).await
    }

    /// Stops a unit; on return it is inactive. What is still in it gets SIGTERM and after 5 s SIGKILL. A unit that is
    /// not there is stopped.
    ///
    /// # Errors
    /// What systemd says, or that it does not answer.
    pub async fn stop(&self, unit: &UnitName) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let body = (unit.as_str(), "replace");
            let stopping = self.job("StopUnit", unit, &body);
            tokio::pin!(stopping);
            let stopped = match timeout(GRACE, &mut stopping).await {
                Ok(stopped) => stopped,
                Err(_) => {
                    let body = (unit.as_str(), "all", SIGKILL);
                    // It may have ended meanwhile.
                    let _ = self.call::<_, ()>("KillUnit", unit, &body).await;
                    stopping.await
                }
            };
            match stopped {
                Err(error) if error.is("NoSuchUnit") => return Ok(()),
                Err(Error::Lost { .. }) if tries == 1 => {}
                other => return other,
            }
        }
    }

    /// Has systemd forget that a unit failed. One that is not there, or did not fail, is no error.
    ///
    /// # Errors
    /// That systemd does not answer.
    pub async fn reset_failed(&self, unit: &UnitName) -> Result<(), Error> {
        match self
            .call::<_, ()>("ResetFailedUnit", unit, &(unit.as_str(),))
            .await
        {
            Err(Error::Refused { .. }) => Ok(()),
            other => other,
        }
    }

    /// Whether a unit is active; one that is not there is not.
    ///
    /// # Errors
    /// That systemd does not answer.
    pub async fn is_active(&self, unit: &UnitName) -> Result<bool, Error> {
        const CALL: &str = "GetUnit";
        let path: OwnedObjectPath = match self.call(CALL, unit, &(unit.as_str(),)).await {
            Err(error) if error.is("NoSuchUnit") => return Ok(false),
            other => other?,
        };
        let connection = self.connection(CALL, unit.as_str()).await?;
        let body = ("org.freedesktop.systemd1.Unit", "ActiveState");
        let destination = connection.destination;
        let asked = connection.bus.call_method(
            destination,
            ObjectPath::from(&path),
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &body,
        );
        let answer = self.in_time(CALL, unit.as_str(), &connection, asked).await?;
        let state: OwnedValue = read(CALL, unit.as_str(), &answer)?;
        Ok(<&str>::try_from(&*state).is_ok_and(|state| state == "active"))
    }

    /// A call that queues a job, and the end of that job.
    async fn job<B>(&self, call: &'static str, unit: &UnitName, body: &B) -> Result<(), Error>
    where
        B: Serialize + DynamicType,
    {
        let connection = self.connection(call, unit.as_str()).await?;
        let asking = connection.ask(unit.as_str());
        let asked = connection
            .bus
            .call_method(connection.destination, OBJECT, Some(MANAGER), call, body);
        let answer = self.in_time(call, unit.as_str(), &connection, asked).await?;
        let job: OwnedObjectPath = read(call, unit.as_str(), &answer)?;
        match timeout(self.patience, asking.answered(&job)).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(Error::Job {
                unit: unit.to_string(),
                result,
            }),
            Ok(Err(_)) => Err(lost(call, unit.as_str())),
            Err(_) => Err(self.silent(call, unit.as_str())),
        }
    }

    async fn call<B, A>(&self, call: &'static str, unit: &UnitName, body: &B) -> Result<A, Error>
    where
        B: Serialize + DynamicType,
        A: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
    {
        let connection = self.connection(call, unit.as_str()).await?;
        let asked = connection
            .bus
            .call_method(connection.destination, OBJECT, Some(MANAGER), call, body);
        let answer = self.in_time(call, unit.as_str(), &connection, asked).await?;
        read(call, unit.as_str(), &answer)
    }

    async fn in_time(
        &self,
        call: &'static str,
        unit: &str,
        connection: &Connection,
        asked: impl Future<Output = zbus::Result<zbus::Message>>,
    ) -> Result<zbus::Message, Error> {
        match timeout(self.patience, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(zbus::Error::MethodError(name, message, _))) => Err(Error::Refused {
                call,
                unit: unit.to_owned(),
                name: name.to_string(),
                message: message.unwrap_or_default(),
            }),
            Ok(Err(error)) => {
                tracing::debug!(call, unit, %error, bus = DESTINATION, "the connection is given up");
                self.give_up(connection).await;
                Err(lost(call, unit))
            }
            Err(_) => Err(self.silent(call, unit)),
        }
    }

    /// The connection, made anew when the last one has ended.
    async fn connection(&self, call: &'static str, unit: &str) -> Result<Connection, Error> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| !connection.has_ended()) {
            return Ok(connection.clone());
        }
        let opened = match timeout(self.patience, Connection::open(&self.way)).await {
            Ok(opened) => {
                opened.inspect_err(|error| tracing::debug!(kind = ?error.kind(), "no connection"))?
            }
            Err(_) => return Err(self.silent(call, unit)),
        };
        *held = Some(opened.clone());
        Ok(opened)
    }

    async fn give_up(&self, connection: &Connection) {
        let mut held = self.connection.lock().await;
        // Another request may have made a new one meanwhile.
        if held.as_ref().is_some_and(|held| held.is_same(connection)) {
            *held = None;
        }
    }

    fn silent(&self, call: &'static str, unit: &str) -> Error {
        Error::Silent {
            call,
            unit: unit.to_owned(),
            seconds: self.patience.as_secs(),
        }
    }
}

fn lost(call: &'static str, unit: &str) -> Error {
    Error::Lost {
        call,
        unit: unit.to_owned(),
    }
}

fn read<A>(call: &'static str, unit: &str, answer: &zbus::Message) -> Result<A, Error>
where
    A: for<'d> zbus::zvariant::DynamicDeserialize<'d>,
{
    answer.body().deserialize().map_err(|error| Error::Refused {
        call,
        unit: unit.to_owned(),
        name: "an answer of another form".to_owned(),
        message: error.to_string(),
    })
}
