//! End-to-end tests: conformance, recovery, abuse.
