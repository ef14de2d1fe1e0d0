//! Keeper and shim for the tests, through the same entry functions as the real program's.

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    assert_eq!(
        arguments.next().as_deref(),
        Some("keeper".as_ref()),
        "the only role"
    );
    coracle_keeper::run(arguments, |start| coracle_shim::entry(start, |_| {}))
}
