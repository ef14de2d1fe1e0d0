//! Hooks of the OCI runtime specification (config.md, "POSIX-platform Hooks").
