//! The shim of one pod: Task and Sandbox service, stdio, CRI log, reaping.
