//! A keeper for the tests: its shims deposit a pipe and a child that ends with 7 when told to.

use std::os::fd::AsFd as _;

use coracle_keeper::client::Keeper;
use coracle_keeper::{DepositKey, ShimStart};
use coracle_sys::fork::{Forked, fork, run_child};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    assert_eq!(
        arguments.next().as_deref(),
        Some("keeper".as_ref()),
        "the only role"
    );
    coracle_keeper::run(arguments, shim)
}

/// Its child reads a byte from the pipe and ends with 7; so it does when nobody holds the writing end.
fn shim(start: ShimStart) -> i32 {
    let key = |text: &str| text.parse::<DepositKey>().expect("a key");
    let keeper = Keeper::connect(start.keeper.as_deref().expect("a keeper")).expect("connect");
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let child = match fork().expect("fork") {
        Forked::InChild => run_child(|| {
            let _ = rustix::stdio::dup2_stdin(&read);
            let _ = coracle_sys::process::close_from(3, coracle_sys::process::CloseRange::Now);
            let mut byte = [0];
            let _ = rustix::io::read(rustix::stdio::stdin(), &mut byte);
            7
        }),
        Forked::Parent(child) => child,
    };
    let pid = child.pid.as_raw_nonzero().get();
    keeper
        .deposit(&start.pod, &key("pipe"), &[write.as_fd()])
        .expect("deposit");
    keeper
        .deposit_process(&start.pod, &key("child"), pid, &[child.pidfd.as_fd()])
        .expect("deposit");
    std::fs::write(start.state_dir.join("up"), pid.to_string()).expect("say so");
    loop {
        std::thread::park();
    }
}
