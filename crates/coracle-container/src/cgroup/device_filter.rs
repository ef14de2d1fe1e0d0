//! Device rules of the OCI specification as a BPF program of cgroup v2.

use coracle_sys::bpf::Instruction;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::Error;

/// What a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    All,
    Block,
    Char,
}

/// One rule with its numbers checked; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    pub(super) class: Class,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    /// Bits of `linux/bpf.h`: 1 mknod, 2 read, 4 write.
    pub(super) access: u8,
}

const ALL_ACCESS: u8 = 7;
const MKNOD: u8 = 1;

impl Rule {
    /// As the v1 controller's files take it.
    pub(super) fn v1(&self) -> String {
        let class = match self.class {
            Class::All => return "a".into(),
            Class::Block => 'b',
            Class::Char => 'c',
        };
        let number = |number: Option<u32>| number.map_or_else(|| "*".into(), |number| number.to_string());
        let mut access = String::new();
        for (bit, letter) in [(2, 'r'), (4, 'w'), (1, 'm')] {
            if self.access & bit != 0 {
                access.push(letter);
            }
        }
        format!("{class} {}:{} {access}", number(self.major), number(self.minor))
    }
}

/// The rules of a specification and, after them, what every container may use: making nodes (harmless
/// without access) and the default devices of config-linux.md.
pub(super) fn rules(given: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::with_capacity(given.len() + 12);
    rules.push(Rule {
        allow: false,
        class: Class::All,
        major: None,
        minor: None,
        access: ALL_ACCESS,
    });
    for rule in given {
        rules.push(read(rule)?);
    }
    let all_allowed = rules
        .last()
        .is_some_and(|rule| rule.allow && rule.class == Class::All);
    if !all_allowed {
        rules.extend(defaults());
    }
    Ok(rules)
}

fn defaults() -> impl Iterator<Item = Rule> {
    let nodes = [Class::Char, Class::Block].map(|class| Rule {
        allow: true,
        class,
        major: None,
        minor: None,
        access: MKNOD,
    });
    let devices = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ]
    .map(|(major, minor)| Rule {
        allow: true,
        class: Class::Char,
        major: Some(major),
        minor,
        access: ALL_ACCESS,
    });
    nodes.into_iter().chain(devices)
}

fn read(rule: &LinuxDeviceCgroup) -> Result<Rule, Error> {
    let wrong = |value: String, problem: &str| Error::spec("linux.resources.devices", value, problem);
    let class = match rule.typ() {
        None | Some(LinuxDeviceType::A) => Class::All,
        Some(LinuxDeviceType::B) => Class::Block,
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Class::Char,
        Some(LinuxDeviceType::P) => return Err(wrong("p".into(), "a FIFO is no device; take b, c or a")),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => u32::try_from(number).map(Some).map_err(|_| {
            wrong(
                number.to_string(),
                "a device number is -1 (any) or 0 to 4294967295",
            )
        }),
    };
    let mut access = 0;
    for letter in rule.access().as_deref().unwrap_or("rwm").chars() {
        access |= match letter {
            'r' => 2,
            'w' => 4,
            'm' => 1,
            _ => return Err(wrong(letter.to_string(), "access is made of r, w and m")),
        };
    }
    // For the v1 controller `a` means all devices and all access, whatever else the rule says.
    let (major, minor) = (number(rule.major())?, number(rule.minor())?);
    if class == Class::All {
        if major.is_some() || minor.is_some() {
            return Err(wrong("a".into(), "a rule for all types can have no numbers"));
        }
        access = ALL_ACCESS;
    }
    Ok(Rule {
        allow: rule.allow(),
        class,
        major,
        minor,
        access,
    })
}

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: to | (from << 4),
        offset,
        immediate,
    }
}

const LOAD_WORD: u8 = 0x61;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_UNEQUAL: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program: the last rule that speaks of an access decides, none denies. Registers: 2 type, 3 access,
/// 4 major, 5 minor, 1 scratch.
pub(super) fn program(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE_REGISTER, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        append(&mut program, rule);
        if rule.class == Class::All {
            // What stands before a rule for everything never counts, and the verifier refuses dead code.
            return program;
        }
    }
    program.push(instruction(MOVE, 0, 0, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

fn append(program: &mut Vec<Instruction>, rule: &Rule) {
    let mut block: Vec<Instruction> = Vec::with_capacity(8);
    let mut exits = Vec::new();
    if rule.class != Class::All {
        let class = if rule.class == Class::Block { 1 } else { 2 };
        exits.push(block.len());
        block.push(instruction(JUMP_UNEQUAL, 2, 0, 0, class));
        if rule.access != ALL_ACCESS {
            block.push(instruction(MOVE_REGISTER, 1, 3, 0, 0));
            block.push(instruction(AND, 1, 0, 0, i32::from(rule.access)));
            exits.push(block.len());
            // An allowing rule must cover all that is asked, a denying one any of it.
            block.push(if rule.allow {
                instruction(JUMP_UNEQUAL_REGISTER, 1, 3, 0, 0)
            } else {
                instruction(JUMP_EQUAL, 1, 0, 0, 0)
            });
        }
        for (register, number) in [(4, rule.major), (5, rule.minor)] {
            if let Some(number) = number {
                exits.push(block.len());
                block.push(instruction(JUMP_UNEQUAL, register, 0, 0, number.cast_signed()));
            }
        }
    }
    block.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow)));
    block.push(instruction(EXIT, 0, 0, 0, 0));
    let end = block.len();
    for at in exits {
        block[at].offset = i16::try_from(end - at - 1).expect("a rule has fewer than ten instructions");
    }
    program.append(&mut block);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would, for the few instructions used.
    fn run(program: &[Instruction], class: u64, access: u64, major: u64, minor: u64) -> bool {
        let mut registers = [0_u64; 11];
        let context = [class | access << 16, major, minor];
        let mut at = 0_usize;
        loop {
            let i = program[at];
            let (to, from) = (usize::from(i.registers & 15), usize::from(i.registers >> 4));
            let immediate = i64::from(i.immediate).cast_unsigned();
            let mut jump = false;
            match i.code {
                LOAD_WORD => registers[to] = context[usize::try_from(i.offset).unwrap() / 4],
                AND => registers[to] &= immediate,
                SHIFT_RIGHT => registers[to] >>= immediate,
                MOVE => registers[to] = immediate,
                MOVE_REGISTER => registers[to] = registers[from],
                JUMP_EQUAL => jump = registers[to] == immediate,
                JUMP_UNEQUAL => jump = registers[to] != immediate,
                JUMP_UNEQUAL_REGISTER => jump = registers[to] != registers[from],
                EXIT => return registers[0] == 1,
                code => panic!("{code:x}"),
            }
            at += 1 + if jump {
                usize::try_from(i.offset).unwrap()
            } else {
                0
            };
        }
    }

    fn rule(allow: bool, class: Class, major: Option<u32>, minor: Option<u32>, access: u8) -> Rule {
        Rule {
            allow,
            class,
            major,
            minor,
            access,
        }
    }

    #[test]
    fn the_last_rule_that_speaks_of_an_access_decides() {
        let program = program(&[
            rule(false, Class::All, None, None, 7),
            rule(true, Class::Char, Some(10), None, 6),
            rule(false, Class::Char, Some(10), Some(5), 4),
        ]);
        assert!(run(&program, 2, 2, 10, 1));
        assert!(run(&program, 2, 6, 10, 1));
        assert!(!run(&program, 2, 7, 10, 1), "mknod was not allowed");
        assert!(!run(&program, 2, 6, 10, 5), "write was taken back");
        assert!(run(&program, 2, 2, 10, 5));
        assert!(!run(&program, 1, 2, 10, 1), "a block device of the same number");
        assert!(!run(&program, 2, 2, 11, 1));
    }

    #[test]
    fn defaults_are_always_there_and_everything_else_is_denied() {
        let program = program(&rules(&[]).unwrap());
        assert!(run(&program, 2, 6, 1, 3), "/dev/null");
        assert!(run(&program, 1, 1, 8, 0), "mknod of a disk");
        assert!(!run(&program, 1, 2, 8, 0), "reading a disk");
        assert!(!run(&program, 2, 2, 1, 1), "/dev/mem");
    }
}
