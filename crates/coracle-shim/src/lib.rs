//! The shim of one pod: Task and Sandbox service, stdio, CRI log, reaping.
//!
//! # Owns
//! The process that is parent of a pod's containers. It is the OCI runtime too: container processes are its
//! own children by `coracle-container`. It serves containerd's Task (version 3) and Sandbox services and the
//! extension `coracle.shim.v1` over ttrpc, writes the CRI logs, and records what a successor needs.
//!
//! # Must never
//! Know registries, images or CNI; start a thread that allocates (it forks); wait by polling; trust what a
//! container writes further than copying its bytes.
//!
//! **Invariant:** one thread runs everything but the log writers, which make system calls only. No path
//! here leads to `spawn_blocking` or `tokio::fs`; `coracle_sys::fork` refuses to fork if one did.
//!
//! **Invariant:** an exit is reported after all that the process wrote is in its log.
//!
//! **Invariant:** what must outlive this process is deposited with the keeper before a container starts.
//!
//! # On disk
//! ```text
//! <state dir>/shim.sock    0600  made by the keeper before the fork, removed at shutdown
//! <state dir>/shim.json    state for a successor, replaced by rename on every change
//! <state dir>/shim.damaged one that no successor could read, until the pod's directory goes
//! ```
//! All are on tmpfs and go with the boot, as the processes do.

mod adopt;
mod capture;
mod container;
mod deposits;
mod error;
mod exec;
mod exits;
mod log;
mod oom;
mod pod;
mod readable;
mod record;
mod sandbox;
mod service;
mod stdio;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use coracle_keeper::ShimStart;

pub use error::Error;
pub use record::{ContainerRecord, ProcessRecord, Record, SandboxRecord};

use deposits::Deposits;
use pod::Pod;

/// The shim's whole life; what it returns is the process's exit code. A pod whose shim died is adopted from
/// its state file and the keeper before the first call is answered.
///
/// `set_log` is called when the daemon wants something else to be logged: who logs is not this crate's matter.
pub fn entry(start: ShimStart, set_log: fn(&str)) -> i32 {
    let pod = start.pod.clone();
    match run(start, set_log) {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is the keeper's log; where it cannot be written there is nowhere to say so.
            let _ = writeln!(std::io::stderr(), "shim of pod {pod}: {error}");
            1
        }
    }
}

fn run(start: ShimStart, set_log: fn(&str)) -> Result<(), Error> {
    coracle_sys::process::forbid_inspection().map_err(Error::system("become undumpable"))?;
    share_compiled_profiles(&start.state_dir);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(Error::system("start the runtime"))?;
    runtime.block_on(async {
        let deposits = Deposits::connect(start.pod.clone(), start.keeper.as_deref());
        let pod = Arc::new(Pod::new(start.pod, start.state_dir, deposits));
        match Record::load(&pod.state_dir) {
            Ok(Some(record)) => pod.adopt(record),
            Ok(None) => pod.save(&pod.state()),
            // Whoever put it aside would end containers that its program can take up.
            Err(error @ Error::Newer { .. }) => return Err(error),
            Err(error) => {
                // The pod can still be taken away: whoever asks for that knows the paths.
                tracing::error!(pod = %pod.id, %error, "its state file is damaged: it is put aside");
                Record::put_aside(&pod.state_dir)?;
                pod.save(&pod.state());
            }
        }
        service::serve(pod, start.listener.into(), set_log).await
    })
}

/// Compiling a seccomp profile takes longer than all else of a start: what one shim compiled, the others of
/// the node read, from `<state>/seccomp` beside `<state>/pods/<id>`.
fn share_compiled_profiles(state_dir: &Path) {
    let Some(node) = state_dir.ancestors().nth(2) else {
        return;
    };
    if let Err(error) = coracle_container::seccomp::cache_in(&node.join("seccomp")) {
        tracing::warn!(%error, "seccomp profiles are compiled for each pod anew");
    }
}
