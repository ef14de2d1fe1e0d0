//! A client of a CRI socket: ours or another runtime's.
