//! The CRI and admin services on a unix socket: translation between the wire and the engine.
