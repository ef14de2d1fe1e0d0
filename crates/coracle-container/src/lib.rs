//! The OCI runtime: namespaces, mounts, cgroups, seccomp, capabilities, init and exec.
