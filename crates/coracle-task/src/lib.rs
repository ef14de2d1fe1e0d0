//! The client's side of a shim: launches it through the keeper and calls it.
