//! The program: roles, command line, configuration, terminal.
fn main() {}
