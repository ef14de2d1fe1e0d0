//! What is logged, how, and where to: records of the whole program with the ids of what they are about.
//!
//! A record carries the fields of its spans beside its own, so that pod, container and operation stand in
//! every line that is written on their behalf, whoever wrote it. One write makes one line, so processes
//! that share a log do not cut each other's lines.

mod record;
mod write;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use tracing::{Event, Subscriber, span};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use self::record::{Fields, Record};
use self::write::Output;
use crate::cli::LogFormat;
use crate::config::{Config, LogFilter, Setting as _, Value};

/// Changes what is logged while the program runs.
#[derive(Debug, Clone)]
pub(crate) struct Logging {
    filter: reload::Handle<Targets, tracing_subscriber::Registry>,
    output: Arc<AtomicU8>,
}

impl Logging {
    /// Begins to log by the configuration; a process does so once.
    ///
    /// # Errors
    /// When something in this process logs already.
    pub(crate) fn begin(config: &Config) -> anyhow::Result<Self> {
        let (filter, handle) = reload::Layer::new(targets(&config.log_level));
        let output = Arc::new(AtomicU8::new(Output::of(config.log_format) as u8));
        let recorder = Recorder {
            output: Arc::clone(&output),
            about: Vec::new(),
            identifier: "coracle",
        };
        tracing_subscriber::registry()
            .with(filter)
            .with(recorder)
            .try_init()
            .context("begin to log")?;
        Ok(Self {
            filter: handle,
            output,
        })
    }

    /// From now on this is logged.
    pub(crate) fn set_level(&self, filter: &LogFilter) {
        // It fails when nothing logs any more.
        let _ = self.filter.reload(targets(filter));
    }

    /// From now on records are written so.
    pub(crate) fn set_format(&self, format: LogFormat) {
        self.output.store(Output::of(format) as u8, Ordering::Relaxed);
    }
}

/// How a shim's filter is changed: set by [`begin_for_shim`].
static SHIM_FILTER: OnceLock<reload::Handle<Targets, tracing_subscriber::Registry>> = OnceLock::new();

/// Begins to log for a shim, by the daemon's filter and each record with the pod's id. They go to the journal
/// where the daemon's do, else to standard error, which is the keeper's log. A daemon of before said no
/// filter: then warnings and worse are logged.
pub(crate) fn begin_for_shim(pod: &str, filter: &str) {
    let wanted = shim_targets(filter).unwrap_or_else(|| Targets::new().with_default(LevelFilter::WARN));
    let (filter, handle) = reload::Layer::new(wanted);
    let recorder = Recorder {
        output: Arc::new(AtomicU8::new(Output::of_shim() as u8)),
        about: vec![("pod", pod.into())],
        identifier: "coracle-shim",
    };
    let _ = tracing_subscriber::registry()
        .with(filter)
        .with(recorder)
        .try_init();
    let _ = SHIM_FILTER.set(handle);
}

/// From now on this is logged by this shim; what means nothing changes nothing.
pub(crate) fn set_shim_filter(filter: &str) {
    if let (Some(handle), Some(targets)) = (SHIM_FILTER.get(), shim_targets(filter)) {
        // It fails when nothing logs any more.
        let _ = handle.reload(targets);
    }
}

fn shim_targets(filter: &str) -> Option<Targets> {
    let filter = LogFilter::read(&Value::Word(filter.to_owned())).ok()?;
    filter.targets()
}

fn targets(filter: &LogFilter) -> Targets {
    // The configuration took it, so it means something.
    filter
        .targets()
        .unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

/// Writes each record with its spans' fields.
struct Recorder {
    output: Arc<AtomicU8>,
    /// Fields of every record.
    about: Vec<(&'static str, serde_json::Value)>,
    identifier: &'static str,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        // From the innermost out: what is said closer to the event counts.
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add_missing(outer.named());
            }
        }
        fields.add_missing(&self.about);
        let record = Record::new(event.metadata(), fields);
        write::write(
            &record,
            Output::from(self.output.load(Ordering::Relaxed)),
            self.identifier,
        );
    }
}
