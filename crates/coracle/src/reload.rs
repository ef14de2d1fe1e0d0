//! The configuration while the daemon runs: read again as a whole or not at all, and a log level for the
//! moment.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_cri::process::{Change, Control, Refused, Reloaded, Setting};
use coracle_engine::Engine;
use coracle_engine::config::LiveConfig;
use coracle_image::PolicySource;
use tokio::sync::Mutex as AsyncMutex;

use crate::config::{Config, Effect, Loaded, LogFilter, Setting as _, Sources, Value};
use crate::logging::Logging;
use crate::metrics::{Endpoint, Metrics};
use crate::serve::{policies, registries, shim_deadlines};

/// What the engine may be told while it runs.
fn live(config: &Config, policy: PolicySource) -> LiveConfig {
    LiveConfig {
        registries: registries(config),
        policy,
        cni_bin_dirs: config.cni_bin_dirs.clone(),
        plugin_deadline: config.plugin_deadline.0,
        shim_deadlines: shim_deadlines(config),
        shim_log: config.log_level.0.clone(),
    }
}

/// The daemon's configuration and all that follows it.
pub(crate) struct Reloader {
    sources: Sources,
    logging: Logging,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    /// Held for a whole reload: one at a time.
    endpoint: AsyncMutex<Option<Endpoint>>,
    state: Mutex<State>,
}

struct State {
    /// What the daemon goes by, with the origins of its values.
    in_force: Loaded,
    /// What was read last; what of it is not in force waits for a restart.
    read: Loaded,
}

impl Reloader {
    /// Takes over a configuration that the daemon was started with, and begins to serve metrics.
    ///
    /// # Errors
    /// When metrics cannot be served where the configuration says.
    pub(crate) async fn start(
        sources: Sources,
        loaded: Loaded,
        logging: Logging,
        engine: Arc<Engine>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Arc<Self>> {
        let endpoint = Endpoint::start(&loaded.config, Arc::clone(&metrics), Arc::clone(&engine)).await?;
        let state = State {
            in_force: loaded.clone(),
            read: loaded,
        };
        Ok(Arc::new(Self {
            sources,
            logging,
            engine,
            metrics,
            endpoint: AsyncMutex::new(endpoint),
            state: Mutex::new(state),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read_again(&self) -> Result<Reloaded, Refused> {
        let mut endpoint = self.endpoint.lock().await;
        // On a thread of its own: a file system that hangs must not hold up what is asked meanwhile.
        let sources = self.sources.clone();
        let read = tokio::task::spawn_blocking(move || Loaded::read(&sources));
        let read = read.await.map_err(|error| Refused(error.to_string()))?;
        let new = read.map_err(|rejected| Refused(rejected.to_string()))?;
        let old = self.lock().in_force.config.clone();
        // First what may fail: nothing is taken over before.
        if new.config.metrics_address != old.metrics_address {
            let moved = Endpoint::start(&new.config, Arc::clone(&self.metrics), Arc::clone(&self.engine))
                .await
                .map_err(|error| Refused(format!("{error:#}")))?;
            *endpoint = moved;
        }
        self.logging.set_level(&new.config.log_level);
        self.logging.set_format(new.config.log_format);
        let policy = policies(&new.config, new.policy.clone());
        self.engine.reconfigure(live(&new.config, policy));
        let mut reloaded = Reloaded {
            files: self
                .sources
                .files()
                .iter()
                .map(|path| path.display().to_string())
                .collect(),
            ..Reloaded::default()
        };
        let changed = old.unequal(&new.config);
        for ((key, from), (_, mut to)) in old.values().into_iter().zip(new.config.values()) {
            if !changed.contains(&key.name) {
                continue;
            }
            if from == to {
                to.push_str(" (with other secrets)");
            }
            let change = Change {
                key: key.name.to_owned(),
                from,
                to,
            };
            match key.effect {
                Effect::Live => reloaded.applied.push(change),
                Effect::Restart => reloaded.needs_restart.push(change),
            }
        }
        let mut state = self.lock();
        state.in_force = state.in_force.with_live_of(&new);
        state.read = new;
        Ok(reloaded)
    }
}

#[async_trait::async_trait]
impl Control for Reloader {
    async fn reload(&self) -> Result<Reloaded, Refused> {
        let outcome = self.read_again().await;
        match &outcome {
            Ok(reloaded) => {
                self.metrics.reloaded("applied");
                for change in &reloaded.applied {
                    tracing::info!(
                        key = change.key,
                        from = change.from,
                        to = change.to,
                        "reconfigured"
                    );
                }
                for change in &reloaded.needs_restart {
                    tracing::warn!(
                        key = change.key,
                        from = change.from,
                        to = change.to,
                        "counts after a restart of the daemon"
                    );
                }
                tracing::info!(
                    applied = reloaded.applied.len(),
                    needs_restart = reloaded.needs_restart.len(),
                    "the configuration was read again"
                );
            }
            Err(refused) => {
                self.metrics.reloaded("refused");
                tracing::error!(reason = refused.0, "the configuration stays as it was");
            }
        }
        outcome
    }

    fn settings(&self) -> Vec<Setting> {
        let state = self.lock();
        let values = state.in_force.config.values().into_iter();
        values
            .zip(state.read.config.values())
            .map(|((key, value), (_, read))| Setting {
                key: key.name.to_owned(),
                origin: state.in_force.origin(key).to_string(),
                live: key.effect == Effect::Live,
                pending: (key.effect == Effect::Restart && read != value).then_some(read),
                value,
            })
            .collect()
    }

    fn set_log_level(&self, filter: &str) -> Result<String, Refused> {
        let filter = LogFilter::read(&Value::Word(filter.to_owned()))
            .map_err(|remedy| Refused(format!("filter = {filter:?}: {remedy}")))?;
        let before = {
            let mut state = self.lock();
            state.in_force.set_by("log.level", "coracle log-level");
            std::mem::replace(&mut state.in_force.config.log_level, filter.clone())
        };
        self.logging.set_level(&filter);
        self.engine.log_shims(&filter.0);
        tracing::info!(
            from = before.0,
            to = filter.0,
            "the log level was changed by a command"
        );
        Ok(before.0)
    }
}
