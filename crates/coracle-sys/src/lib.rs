//! Every unsafe line of the project: one family of system calls a file.
