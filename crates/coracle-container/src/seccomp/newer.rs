//! System calls that the linked libseccomp (2.5.4: Linux 5.17) has no name for, as instructions put
//! before its program.
//!
//! From 424 on the kernel gives a call the same number on every architecture; x32 adds its own bit. What
//! is newer than everything a profile names is answered with ENOSYS instead of the profile's error, so
//! that C libraries fall back to the older call.

use libseccomp::ScmpArch;

/// Names and numbers, as in the kernel's `scripts/syscall.tbl`.
const CALLS: [(&str, u32); 20] = [
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

const X32_BIT: u32 = 0x4000_0000;
/// `SECCOMP_RET_ERRNO` with ENOSYS.
const ENOSYS: u32 = 0x0005_0000 | 38;

/// The number of a newer call, the same on every architecture.
pub(super) fn number(name: &str) -> Option<u32> {
    CALLS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number)
}

/// What a program does with one newer call, as the value that the kernel takes (`SECCOMP_RET_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) number: u32,
    pub(super) returns: u32,
}

/// One architecture of a profile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    /// Its token in `seccomp_data` (`AUDIT_ARCH_*`).
    pub(super) token: u32,
    /// Whether its numbers carry the bit of x32.
    pub(super) x32: bool,
    /// The largest number that the profile names; `None` when unknown calls are none of our business.
    pub(super) largest: Option<u32>,
}

/// `AUDIT_ARCH_*` and the x32 bit of an architecture on which containers run.
pub(super) fn token(arch: ScmpArch) -> Option<(u32, bool)> {
    match arch {
        ScmpArch::X8664 => Some((0xc000_003e, false)),
        ScmpArch::X32 => Some((0xc000_003e, true)),
        ScmpArch::X86 => Some((0x4000_0003, false)),
        ScmpArch::Aarch64 => Some((0xc000_00b7, false)),
        ScmpArch::Arm => Some((0x4000_0028, false)),
        ScmpArch::Riscv64 => Some((0xc000_00f3, false)),
        ScmpArch::Ppc64Le => Some((0xc000_0015, false)),
        ScmpArch::S390X => Some((0x8000_0016, false)),
        _ => None,
    }
}

fn instruction(code: u16, jump_true: u8, jump_false: u8, value: u32) -> [u8; 8] {
    let [c0, c1] = code.to_ne_bytes();
    let [k0, k1, k2, k3] = value.to_ne_bytes();
    [c0, c1, jump_true, jump_false, k0, k1, k2, k3]
}

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Instructions that decide on newer calls and let everything else run into what follows them.
pub(super) fn prologue(tails: &[Tail], verdicts: &[Verdict]) -> Vec<u8> {
    let mut program = Vec::new();
    for tail in tails {
        let block = block(tail, verdicts);
        if block.is_empty() {
            continue;
        }
        // Not this architecture: over the block, by a jump that reaches further than 255 instructions.
        let length = u32::try_from(block.len()).unwrap_or(u32::MAX);
        program.push(instruction(LOAD, 0, 0, 4));
        program.push(instruction(JUMP_EQUAL, 1, 0, tail.token));
        program.push(instruction(JUMP, 0, 0, length));
        program.extend(block);
    }
    program.concat()
}

/// Ends by falling through, whatever it did not decide.
fn block(tail: &Tail, verdicts: &[Verdict]) -> Vec<[u8; 8]> {
    let bit = if tail.x32 { X32_BIT } else { 0 };
    let first = verdicts.iter().map(|verdict| verdict.number).min();
    let bound = match (first, tail.largest) {
        (Some(first), Some(largest)) => first.min(largest + 1),
        (Some(first), None) => first,
        (None, Some(largest)) => largest + 1,
        (None, None) => return Vec::new(),
    };
    let mut decisions = Vec::new();
    for verdict in verdicts {
        decisions.push(instruction(JUMP_EQUAL, 0, 1, verdict.number | bit));
        decisions.push(instruction(RETURN, 0, 0, verdict.returns));
    }
    if let Some(largest) = tail.largest {
        decisions.push(instruction(JUMP_GREATER, 0, 1, largest | bit));
        decisions.push(instruction(RETURN, 0, 0, ENOSYS));
    }
    let length = u32::try_from(decisions.len()).unwrap_or(u32::MAX);
    let mut block = vec![
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_GREATER_EQUAL, 1, 0, bound | bit),
    ];
    if tail.x32 {
        block.push(instruction(JUMP, 0, 0, length));
    } else {
        // Numbers with the x32 bit belong to another block, and -1 is a tracer's way to skip a call.
        block.push(instruction(JUMP, 0, 0, length + 2));
        block.push(instruction(JUMP_GREATER_EQUAL, 0, 1, X32_BIT));
        block.push(instruction(JUMP, 0, 0, length));
    }
    block.extend(decisions);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a program returns, `None` when it falls through.
    fn run(program: &[u8], arch: u32, number: u32) -> Option<u32> {
        let (instructions, _) = program.as_chunks::<8>();
        let (mut at, mut register) = (0, 0);
        while let Some([c0, c1, yes, no, k @ ..]) = instructions.get(at) {
            let value = u32::from_ne_bytes(*k);
            let jump = |condition: bool| usize::from(if condition { *yes } else { *no });
            at += 1;
            match u16::from_ne_bytes([*c0, *c1]) {
                LOAD => register = if value == 4 { arch } else { number },
                JUMP => at += usize::try_from(value).unwrap(),
                JUMP_EQUAL => at += jump(register == value),
                JUMP_GREATER => at += jump(register > value),
                JUMP_GREATER_EQUAL => at += jump(register >= value),
                RETURN => return Some(value),
                code => panic!("{code:x}"),
            }
        }
        assert_eq!(at, instructions.len(), "a jump went past the end");
        None
    }

    #[test]
    fn newer_calls_get_their_verdict_and_unknown_ones_enosys() {
        let native = Tail {
            token: 0xc000_003e,
            x32: false,
            largest: Some(462),
        };
        let x32 = Tail {
            token: 0xc000_003e,
            x32: true,
            largest: Some(462),
        };
        let i386 = Tail {
            token: 0x4000_0003,
            x32: false,
            largest: None,
        };
        let verdicts = [
            Verdict {
                number: 451,
                returns: 7,
            },
            Verdict {
                number: 462,
                returns: 8,
            },
        ];
        let program = prologue(&[native, x32, i386], &verdicts);
        for (arch, number, expected) in [
            (native.token, 1, None),
            (native.token, 450, None),
            (native.token, 451, Some(7)),
            (native.token, 452, None),
            (native.token, 462, Some(8)),
            (native.token, 463, Some(ENOSYS)),
            (native.token, X32_BIT | 1, None),
            (native.token, X32_BIT | 451, Some(7)),
            (native.token, X32_BIT | 500, Some(ENOSYS)),
            (i386.token, 451, Some(7)),
            (i386.token, 999, None),
            (0x1234, 451, None),
        ] {
            assert_eq!(run(&program, arch, number), expected, "{arch:x} {number}");
        }
    }

    #[test]
    fn nothing_to_decide_costs_nothing() {
        assert!(
            prologue(
                &[Tail {
                    token: 1,
                    x32: false,
                    largest: None
                }],
                &[]
            )
            .is_empty()
        );
    }
}
