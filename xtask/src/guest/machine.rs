//! A virtual machine of QEMU: started, spoken to over two serial ports, and gone with its owner.
//!
//! All code is translated (TCG). /dev/kvm is not looked at: where it serves paravirtualised guests only,
//! a stock kernel hangs in it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use super::qmp::Qmp;
use super::trailer::Trailer;

/// What the machine is made of. A state can be resumed only by the same words, so they are part of its name.
pub(super) const MACHINE: &[&str] = &[
    "-nodefaults",
    "-no-user-config",
    "-machine",
    "q35",
    "-accel",
    "tcg,thread=multi,tb-size=512",
    "-cpu",
    // The allocator of kernel 6.12 breaks where the exchange of 16 bytes is translated (QEMU 7.2).
    "max,cx16=off",
    "-smp",
    "2",
    "-m",
    "4096",
    "-no-reboot",
    "-display",
    "none",
    "-object",
    "rng-random,id=random,filename=/dev/urandom",
    "-device",
    "virtio-rng-pci,rng=random",
    "-device",
    "virtio-serial-pci",
];

/// The kernel's command line: only cgroup v2, AppArmor, and nothing that takes time for nothing.
pub(super) const APPEND: &str = "root=/dev/vda rw console=ttyS0 quiet panic=-1 \
    systemd.unified_cgroup_hierarchy=1 apparmor=1 security=apparmor mitigations=off nokaslr \
    cryptomgr.notests audit=0 no_timer_check random.trust_cpu=on tsc=reliable";

/// The size of the disk that is carried in, always the same, as the resumed kernel remembers it. It is sparse.
pub(super) const CARRIED_SIZE: &str = "4G";

/// What a machine starts from.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    /// A bzImage.
    pub(super) kernel: &'a Path,
    /// What it starts from; none for a kernel with all drivers built in.
    pub(super) initrd: Option<&'a Path>,
    /// A qcow2 of the root file system, to be written to.
    pub(super) disk: &'a Path,
    /// An image that is carried in, read only.
    pub(super) carried: &'a Path,
    /// A state to resume instead of booting.
    pub(super) state: Option<&'a Path>,
}

/// A running machine; killed when dropped, and by the kernel when this process dies.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Child,
    qmp: Qmp,
    orders: BufReader<UnixStream>,
    output: UnixStream,
    directory: PathBuf,
    end: Instant,
}

impl Machine {
    /// Starts it; its sockets and its console's log lie in `directory`.
    ///
    /// Must be called on a thread that lives as long as the machine shall.
    pub(super) fn start(parts: &Parts<'_>, directory: &Path, deadline: Duration) -> Result<Self> {
        let end = Instant::now() + deadline;
        let handle = File::open(directory)?;
        let listen = |name: &str| -> Result<UnixListener> {
            // Through the descriptor, since the name of a socket must be shorter than directories may be.
            let path = format!("/proc/self/fd/{}/{name}", handle.as_raw_fd());
            let listener = UnixListener::bind(path).with_context(|| format!("the socket {name}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let listeners = [listen("qmp")?, listen("ctl")?, listen("out")?];
        let mut qemu = command(parts)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(directory.join("qemu.log"))?)
            .spawn()
            .context("cannot run setpriv (package util-linux)")?;
        let mut streams = Vec::new();
        for listener in &listeners {
            streams.push(accept(listener, &mut qemu, end, directory)?);
        }
        let [qmp, orders, output] =
            <[UnixStream; 3]>::try_from(streams).map_err(|_| anyhow::anyhow!("three sockets"))?;
        Ok(Self {
            qmp: Qmp::new(qmp)?,
            qemu,
            orders: BufReader::new(orders),
            output,
            directory: directory.to_owned(),
            end,
        })
    }

    /// Waits until a booted guest's agent waits for orders.
    pub(super) fn ready(&mut self) -> Result<()> {
        let left = self.end.saturating_duration_since(Instant::now());
        self.orders
            .get_ref()
            .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let mut line = String::new();
        let outcome = self.orders.read_line(&mut line);
        ensure!(
            outcome.is_ok() && line.trim() == "ready",
            "the guest did not come up in time; the end of its console:\n{}",
            self.console()
        );
        Ok(())
    }

    /// The machine's monitor.
    pub(super) fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Gives the agent its order and shows the output as it comes; gives the exit status.
    pub(super) fn order(&mut self, token: &str, mut show: impl Write) -> Result<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        writeln!(self.orders.get_mut(), "{now} {token}").context("the order to the agent")?;
        self.output.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut trailer = Trailer::new(token);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match self.output.read(&mut buffer) {
                Ok(0) => bail!(
                    "the machine has gone; the end of its console:\n{}",
                    self.console()
                ),
                Ok(count) => {
                    let (text, status) = trailer.take(&buffer[..count]);
                    show.write_all(&text)?;
                    show.flush()?;
                    if let Some(status) = status {
                        return Ok(status);
                    }
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error).context("the guest's output"),
            }
            ensure!(
                Instant::now() < self.end,
                "the deadline has passed (--deadline gives more); the end of the console:\n{}",
                self.console()
            );
        }
    }

    /// Ends it, with its disks written.
    pub(super) fn quit(mut self) -> Result<()> {
        self.qmp.quit()?;
        self.qemu.wait()?;
        Ok(())
    }

    fn console(&self) -> String {
        end_of(&self.directory)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// What QEMU and the guest's kernel said last.
fn end_of(directory: &Path) -> String {
    let mut text = String::new();
    for name in ["qemu.log", "console.log"] {
        let bytes = std::fs::read(directory.join(name)).unwrap_or_default();
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn accept(listener: &UnixListener, qemu: &mut Child, end: Instant, directory: &Path) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("QEMU's connection"),
        }
        if let Some(status) = qemu.try_wait()? {
            bail!("QEMU left at once ({status}): {}", end_of(directory));
        }
        if Instant::now() > end {
            let _ = qemu.kill();
            let _ = qemu.wait();
            bail!("QEMU did not start in time: {}", end_of(directory));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Paths that are not the caller's are relative to the machine's directory.
fn command(parts: &Parts<'_>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
    command.args(MACHINE);
    command.arg("-kernel").arg(parts.kernel);
    command.args(["-append", APPEND]);
    if let Some(initrd) = parts.initrd {
        command.arg("-initrd").arg(initrd);
    }
    for (path, rest) in [
        (parts.disk, "format=qcow2,cache=unsafe"),
        (parts.carried, "format=raw,readonly=on"),
    ] {
        // A comma in a value is written twice.
        let path = path.display().to_string().replace(',', ",,");
        command.arg("-drive").arg(format!("file={path},if=virtio,{rest}"));
    }
    command.args(["-serial", "file:console.log"]);
    command.args([
        "-chardev",
        "socket,id=qmp,path=qmp",
        "-mon",
        "chardev=qmp,mode=control",
    ]);
    for port in ["ctl", "out"] {
        command
            .arg("-chardev")
            .arg(format!("socket,id={port},path={port}"));
        command
            .arg("-device")
            .arg(format!("virtserialport,chardev={port},name={port}"));
    }
    if let Some(state) = parts.state {
        let from = format!("exec:cat '{}'", state.display());
        command.arg("-incoming").arg(from);
    }
    command
}
