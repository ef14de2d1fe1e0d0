//! The AppArmor profile that `RuntimeDefault` means.
//!
//! A container may do as the kernel otherwise lets it, but for what leads out of it although capabilities
//! and masked paths should already forbid it: mounts, and writes to what `/proc` and `/sys` say about the
//! whole node. Signals and traces stay among processes of the profile.

/// Name of the profile that the daemon brings along.
pub const APPARMOR_PROFILE: &str = "coracle-default";

/// The profile's text, in apparmor.d(5)'s language. It stands alone: no include, so nothing of the node's own
/// abstractions is needed.
#[must_use]
pub fn apparmor_profile() -> String {
    format!(
        "\
profile {APPARMOR_PROFILE} flags=(attach_disconnected,mediate_deleted) {{
  network,
  capability,
  file,
  umount,
  unix,

  # The node ends and probes its containers; they reach each other only.
  signal (receive) peer=unconfined,
  signal (send,receive) peer={APPARMOR_PROFILE},
  ptrace (readby,tracedby) peer=unconfined,
  ptrace (read,readby,trace,tracedby) peer={APPARMOR_PROFILE},

  deny mount,
  deny remount,
  deny pivot_root,

  # Of /proc only what is a process's own, and of the kernel's parameters those of System V's objects.
  deny /proc/* w,
  deny /proc/{{[^1-9s]*,s[^ey]*}}/** w,
  deny /proc/sys/[^k]** w,
  deny /proc/sys/k[^e]** w,
  deny /proc/sys/kernel/{{[^ms]*,m[^s]*,s[^eh]*,*/**}} w,
  deny /proc/{{kcore,sysrq-trigger}} rwklx,

  # Of /sys only cgroups, which have namespaces and mounts of their own.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/{{[^c]*,c[^g]*}}/** wklx,
  deny /sys/{{firmware,kernel/security,devices/virtual/powercap}}/** rwklx,
}}
"
    )
}
