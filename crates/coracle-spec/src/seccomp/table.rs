//! The default profile as data: what is allowed always, and what under which condition.
//!
//! Kept in step with moby's `profiles/seccomp`, from which containerd's and CRI-O's defaults derive;
//! compared last with commit cd3bed8061c7b7378b61fc6827c7885779417a75 of github.com/moby/profiles
//! (2026-06-30). It differs in one thing: address families of `socket` are compared in their lower 32
//! bits, which is what the kernel looks at, so that 2^32 + `AF_VSOCK` does not pass for another one.

use super::rules::{Arg, Rule, When};

/// Allowed whatever the container may do otherwise.
pub(super) const ALWAYS: [&str; 12] = [
    // Processes, threads and their ids.
    "capget capset execve execveat exit exit_group fork get_robust_list get_thread_area getcpu \
     getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getpgid getpgrp getpid \
     getppid getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage \
     getsid gettid getuid getuid32 ioprio_get ioprio_set landlock_add_rule landlock_create_ruleset \
     landlock_restrict_self membarrier pidfd_open pidfd_send_signal prctl prlimit64 process_mrelease \
     restart_syscall rseq seccomp set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 \
     setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setpgid setpriority setregid \
     setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid \
     setuid setuid32 sysinfo times ugetrlimit umask uname uretprobe vfork wait4 waitid waitpid",
    // Signals.
    "kill pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend \
     rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4 \
     sigprocmask sigreturn tgkill tkill",
    // Scheduling.
    "sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
     sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity \
     sched_setattr sched_setparam sched_setscheduler sched_yield",
    // Time and timers.
    "adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
     clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep \
     setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 \
     timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime \
     timerfd_settime64",
    // Memory.
    "brk cachestat madvise map_shadow_stack memfd_create memfd_secret mincore mlock mlock2 mlockall \
     mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
     pkey_mprotect remap_file_pages",
    // Waiting.
    "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 \
     epoll_wait epoll_wait_old eventfd eventfd2 fanotify_mark futex futex_requeue futex_time64 \
     futex_wait futex_waitv futex_wake inotify_add_watch inotify_init inotify_init1 inotify_rm_watch \
     poll ppoll ppoll_time64 pselect6 pselect6_time64 select",
    // Sockets.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // System V and POSIX IPC.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
     semtimedop_time64 shmat shmctl shmdt shmget",
    // Asynchronous input and output.
    "io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit",
    // Paths and what they lead to.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 \
     fchown fchown32 fchownat fgetxattr flistxattr fremovexattr fsetxattr fstat fstat64 fstatat64 \
     fstatfs fstatfs64 ftruncate ftruncate64 futimesat getcwd getdents getdents64 getxattr getxattrat \
     lchown lchown32 lgetxattr link linkat listmount listxattr listxattrat llistxattr lremovexattr \
     lsetxattr lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat \
     openat2 readlink readlinkat removexattr removexattrat rename renameat renameat2 rmdir setxattr \
     setxattrat stat stat64 statfs statfs64 statmount statx symlink symlinkat truncate truncate64 \
     unlink unlinkat utime utimensat utimensat_time64 utimes",
    // Open files.
    "_llseek close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate fcntl \
     fcntl64 fdatasync flock fsync ioctl lseek pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev \
     pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee \
     vmsplice write writev",
    // Particular to one architecture.
    "riscv_hwprobe",
];

/// Flags of clone(2) that make namespaces, all seven that it knows.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
/// `personality(2)`: read it, or set the plain Linux one, with or without UNAME26, or BSD-like times.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Address families 0 to 63 but for 38 (`AF_ALG`) and 40 (`AF_VSOCK`), as aligned ranges: first and length.
const FAMILIES: [(u64, u64); 8] = [
    (0, 32),
    (32, 4),
    (36, 2),
    (39, 1),
    (41, 1),
    (42, 2),
    (44, 4),
    (48, 16),
];
/// `ENOSYS`: the C library then falls back from clone3, whose flags a filter cannot see, to clone.
const ENOSYS: u32 = 38;

/// Allowed (or answered) under conditions, in the order in which they are written to a profile.
pub(super) fn conditional() -> Vec<Rule> {
    let mut rules = vec![Rule::allow(
        "process_vm_readv process_vm_writev ptrace",
        &[When::Kernel(4, 8)],
    )];
    rules.extend(FAMILIES.map(|(first, length)| {
        Rule::allow("socket", &[]).if_arg(Arg::masked(0, 0xffff_ffff & !(length - 1), first))
    }));
    rules.extend(PERSONALITIES.map(|value| Rule::allow("personality", &[]).if_arg(Arg::equal(0, value))));
    rules.extend(architectures());
    rules.extend(capabilities());
    rules.extend([
        Rule::allow(
            "clone",
            &[When::Without("CAP_SYS_ADMIN"), When::NotArch(&["s390", "s390x"])],
        )
        .if_arg(Arg::masked(0, NEW_NAMESPACES, 0)),
        // s390 takes the flags second.
        Rule::allow(
            "clone",
            &[When::Without("CAP_SYS_ADMIN"), When::Arch(&["s390", "s390x"])],
        )
        .if_arg(Arg::masked(1, NEW_NAMESPACES, 0)),
        Rule::errno("clone3", &[When::Without("CAP_SYS_ADMIN")], ENOSYS),
    ]);
    rules
}

fn architectures() -> [Rule; 6] {
    [
        Rule::allow("swapcontext sync_file_range2", &[When::Arch(&["ppc64le"])]),
        Rule::allow(
            "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
            &[When::Arch(&["arm", "arm64"])],
        ),
        Rule::allow("arch_prctl", &[When::Arch(&["amd64", "x32"])]),
        Rule::allow("modify_ldt", &[When::Arch(&["amd64", "x32", "x86"])]),
        Rule::allow(
            "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
            &[When::Arch(&["s390", "s390x"])],
        ),
        Rule::allow("riscv_flush_icache", &[When::Arch(&["riscv64"])]),
    ]
}

fn capabilities() -> [Rule; 14] {
    [
        Rule::allow("open_by_handle_at", &[When::With("CAP_DAC_READ_SEARCH")]),
        Rule::allow(
            "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie \
            lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount \
            open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
            umount umount2 unshare",
            &[When::With("CAP_SYS_ADMIN")],
        ),
        Rule::allow("reboot", &[When::With("CAP_SYS_BOOT")]),
        Rule::allow("chroot", &[When::With("CAP_SYS_CHROOT")]),
        Rule::allow(
            "delete_module finit_module init_module",
            &[When::With("CAP_SYS_MODULE")],
        ),
        Rule::allow("acct", &[When::With("CAP_SYS_PACCT")]),
        Rule::allow(
            "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace",
            &[When::With("CAP_SYS_PTRACE")],
        ),
        Rule::allow("ioperm iopl", &[When::With("CAP_SYS_RAWIO")]),
        Rule::allow(
            "clock_settime clock_settime64 settimeofday stime",
            &[When::With("CAP_SYS_TIME")],
        ),
        Rule::allow("vhangup", &[When::With("CAP_SYS_TTY_CONFIG")]),
        Rule::allow(
            "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
            &[When::With("CAP_SYS_NICE")],
        ),
        Rule::allow("syslog", &[When::With("CAP_SYSLOG")]),
        Rule::allow("bpf", &[When::With("CAP_BPF")]),
        Rule::allow("perf_event_open", &[When::With("CAP_PERFMON")]),
    ]
}
