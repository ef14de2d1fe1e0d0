//! The process of an exec, from the container's bundle.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use coracle_types::Kind;
use oci_spec::runtime::{Process, Spec};

use crate::error::EngineError;
use crate::record::io_failed;

/// The process that runs `command` as the container's own first process runs: same user, capabilities,
/// environment and directory. The bundle is ours: nothing in it comes from the container.
pub(crate) fn process(bundle: &Path, command: &[String]) -> Result<Process, EngineError> {
    let path = bundle.join("config.json");
    let file = File::open(&path).map_err(|error| io_failed("read", &path, &error))?;
    let spec: Spec = serde_json::from_reader(BufReader::new(file))
        .map_err(|error| EngineError::new(Kind::Internal, "exec", format!("{}: {error}", path.display())))?;
    Ok(coracle_spec::exec_process(&spec, command, false))
}
