//! Forks the shims, reaps their orphans and holds the descriptors that must outlive a shim.
