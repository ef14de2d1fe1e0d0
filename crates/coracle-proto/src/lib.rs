//! Generated types of the CRI, the admin service and the shim's protocol.
