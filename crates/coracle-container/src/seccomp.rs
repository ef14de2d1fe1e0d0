//! OCI seccomp profiles compiled by libseccomp.

mod cache;
mod newer;

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use coracle_sys::seccomp::{Filter, Flags};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::Error;
use newer::{Tail, Verdict};

/// A profile ready to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(crate) filter: Filter,
    pub(crate) flags: Flags,
}

/// How many profiles are remembered.
const REMEMBERED: usize = 8;

static PROGRAMS: Mutex<Vec<(LinuxSeccomp, Program)>> = Mutex::new(Vec::new());

static CACHE: OnceLock<PathBuf> = OnceLock::new();

/// Keeps compiled profiles in a directory (made with mode 0700) that all processes of a node share; the
/// first call of a process counts.
///
/// # Errors
/// When the directory cannot be made; compiling works without it, at 7 to 15 ms a profile and process.
pub fn cache_in(directory: &Path) -> std::io::Result<()> {
    let directory = cache::prepare(directory)?;
    let _ = CACHE.set(directory);
    Ok(())
}

/// Compiles a profile; the last ones are remembered, since the containers of a node share few of them.
/// A process that calls this before it forks gives its children the compiled program.
///
/// # Errors
/// [`Error::Seccomp`] for what libseccomp refuses and for the notify action, which is not offered.
pub fn compile(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = programs.iter().position(|(known, _)| known == profile) {
        return Ok(programs[at].1.clone());
    }
    let program = compile_or_read(profile)?;
    if programs.len() == REMEMBERED {
        programs.remove(0);
    }
    programs.push((profile.clone(), program.clone()));
    Ok(program)
}

fn compile_or_read(profile: &LinuxSeccomp) -> Result<Program, Error> {
    let kept = CACHE
        .get()
        .and_then(|directory| Some((directory, cache::Key::new(profile)?)));
    if let Some((directory, key)) = &kept
        && let Some(filter) = cache::read(directory, key)
            .as_deref()
            .and_then(Filter::from_bytes)
    {
        return Ok(Program {
            filter,
            flags: flags(profile),
        });
    }
    let bytes = compile_anew(profile)?;
    let filter = Filter::from_bytes(&bytes)
        .ok_or_else(|| problem(format!("{} instructions, the kernel takes 4096", bytes.len() / 8)))?;
    if let Some((directory, key)) = &kept {
        cache::write(directory, key, &bytes);
    }
    Ok(Program {
        filter,
        flags: flags(profile),
    })
}

fn compile_anew(profile: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let mut context = ScmpFilterContext::new(default).map_err(library)?;
    let mut architectures = vec![ScmpArch::native()];
    for arch in profile.architectures().iter().flatten() {
        let arch: ScmpArch = arch
            .to_string()
            .parse()
            .map_err(|error| problem(format!("architecture {arch}: {error}")))?;
        if arch != ScmpArch::Native && !architectures.contains(&arch) {
            context.add_arch(arch).map_err(library)?;
            architectures.push(arch);
        }
    }
    // A tree instead of a list: ten comparisons a call instead of hundreds.
    context.set_ctl_optimize(2).map_err(library)?;
    let mut verdicts = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let wanted = action(rule.action(), rule.errno_ret())?;
        names.extend(rule.names().iter().map(String::as_str));
        if wanted != default {
            add(&mut context, rule, wanted, &mut verdicts)?;
        }
    }
    let tails = tails(profile, &architectures, &names);
    let mut bytes = newer::prologue(&tails, &verdicts);
    bytes.extend(export(&context)?);
    Ok(bytes)
}

fn add(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    wanted: ScmpAction,
    verdicts: &mut Vec<Verdict>,
) -> Result<(), Error> {
    let conditions = conditions(rule.args().as_deref().unwrap_or_default())?;
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            // A name that neither knows is of another architecture or the future: no rule can match it.
            if let Some(number) = newer::number(name) {
                if !conditions.is_empty() {
                    return Err(problem(format!(
                        "{name} is too new here for conditions on its arguments"
                    )));
                }
                verdicts.push(Verdict {
                    number,
                    returns: returns(wanted),
                });
            }
            continue;
        };
        if conditions.is_empty() {
            context
                .add_rule(wanted, call)
                .map_err(|error| problem(format!("{name}: {error}")))?;
        }
        for alternative in &conditions {
            context
                .add_rule_conditional(wanted, call, alternative)
                .map_err(|error| problem(format!("{name}: {error}")))?;
        }
    }
    Ok(())
}

/// Conditions of a rule hold together, except that libseccomp takes each argument once: several on the
/// same one are alternatives, as runc reads them.
fn conditions(arguments: &[LinuxSeccompArg]) -> Result<Vec<Vec<ScmpArgCompare>>, Error> {
    let mut compares = Vec::new();
    let mut seen = [false; 6];
    let mut repeated = false;
    for argument in arguments {
        let index = u32::try_from(argument.index()).ok().filter(|index| *index < 6);
        let index = index.ok_or_else(|| problem(format!("argument {}: a call has 6", argument.index())))?;
        let slot = &mut seen[argument.index()];
        repeated |= *slot;
        *slot = true;
        let (op, datum) = match argument.op() {
            LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, argument.value()),
            LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, argument.value()),
            LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, argument.value()),
            LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, argument.value()),
            LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, argument.value()),
            LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, argument.value()),
            LinuxSeccompOperator::ScmpCmpMaskedEq => (
                ScmpCompareOp::MaskedEqual(argument.value()),
                argument.value_two().unwrap_or(0),
            ),
        };
        compares.push(ScmpArgCompare::new(index, op, datum));
    }
    if compares.is_empty() {
        Ok(Vec::new())
    } else if repeated {
        Ok(compares.into_iter().map(|one| vec![one]).collect())
    } else {
        Ok(vec![compares])
    }
}

fn tails(profile: &LinuxSeccomp, architectures: &[ScmpArch], names: &[&str]) -> Vec<Tail> {
    let strict = !matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
            | LinuxSeccompAction::ScmpActNotify
    );
    architectures
        .iter()
        .filter_map(|arch| {
            let (token, x32) = newer::token(*arch)?;
            let largest = names
                .iter()
                .filter_map(|name| {
                    let known = ScmpSyscall::from_name_by_arch(name, *arch).ok();
                    let known = known.and_then(|call| u32::try_from(call.as_raw_syscall()).ok());
                    known
                        .map(|number| number & !0x4000_0000)
                        .or_else(|| newer::number(name))
                })
                .max();
            // Below 424 an architecture may end early; unknown calls of it are the profile's affair.
            Some(Tail {
                token,
                x32,
                largest: largest.filter(|largest| strict && *largest >= 424),
            })
        })
        .collect()
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let number = |default: u32| {
        u16::try_from(errno.unwrap_or(default)).map_err(|_| problem("an errno is at most 65535".into()))
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(i32::from(number(1)?)),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(number(1)?),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(problem(
                "SCMP_ACT_NOTIFY is not offered; take another action".into(),
            ));
        }
    })
}

/// The value a program returns for an action (linux/seccomp.h).
fn returns(action: ScmpAction) -> u32 {
    match action {
        ScmpAction::KillProcess => 0x8000_0000,
        ScmpAction::Trap => 0x0003_0000,
        ScmpAction::Errno(number) => 0x0005_0000 | (number.cast_unsigned() & 0xffff),
        ScmpAction::Trace(number) => 0x7ff0_0000 | u32::from(number),
        ScmpAction::Log => 0x7ffc_0000,
        ScmpAction::Allow => 0x7fff_0000,
        _ => 0,
    }
}

fn flags(profile: &LinuxSeccomp) -> Flags {
    profile.flags().iter().flatten().fold(Flags::NONE, |flags, flag| {
        flags.with(match flag {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => Flags::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Flags::TSYNC,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Flags::SPEC_ALLOW,
            // Only means something with a listener, and the kernel refuses it without one.
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => Flags::NONE,
        })
    })
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, Error> {
    let fd =
        memfd_create("seccomp", MemfdFlags::CLOEXEC).map_err(|errno| problem(format!("memfd: {errno}")))?;
    context.export_bpf(&fd).map_err(library)?;
    let mut file = File::from(fd);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(|error| problem(format!("memfd: {error}")))?;
    Ok(bytes)
}

fn problem(problem: String) -> Error {
    Error::Seccomp { problem }
}

fn library(error: libseccomp::error::SeccompError) -> Error {
    problem(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(json: &str) -> LinuxSeccomp {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn names_old_new_and_unknown_compile_and_the_second_time_is_remembered() {
        let profile = profile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,
                "architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],
                "syscalls":[{"names":["read","write","mseal","nothing_of_that_name"],"action":"SCMP_ACT_ALLOW"},
                {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"},
                {"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        let first = compile(&profile).unwrap();
        assert!(first.filter.len() > 10);
        assert_eq!(compile(&profile).unwrap(), first);
    }

    #[test]
    fn what_cannot_hold_is_refused_in_words() {
        for (json, word) in [
            (r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#, "SCMP_ACT_NOTIFY"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mseal"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
                "mseal",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO",
                "args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}]}"#,
                "argument 6",
            ),
        ] {
            let error = compile(&profile(json)).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
