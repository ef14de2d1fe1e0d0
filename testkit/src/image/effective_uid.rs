//! Prints its effective user; the image of it makes it setuid root (a program of its own, not a module).

fn main() -> std::io::Result<()> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    // Real, effective, saved, file system (proc_pid_status(5)).
    println!("Effective uid: {}", ids.split_whitespace().nth(1).unwrap_or("unknown"));
    Ok(())
}
