//! From a CRI configuration and an image to an OCI runtime specification.
