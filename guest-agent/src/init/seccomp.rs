//! The seccomp filter of a container (runtime-spec: config-linux.md, "Seccomp"), compiled by libseccomp.
//!
//! Before libseccomp's program goes a stub that answers `ENOSYS` to system calls that are newer than any the profile
//! names, as runc does: libraries then fall back to older calls, where the profile's own refusal (mostly `EPERM`) would
//! make them fail.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;

use libseccomp::error::SeccompError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use nix::errno::Errno;
use nix::libc::{self, sock_filter};
use nix::sys::memfd::{MFdFlags, memfd_create};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use super::failure::{Context, Result};
use super::protocol::Failure;

/// What a refused call fails with if the profile does not say.
const DEFAULT_ERRNO: u32 = libc::EPERM as u32;

/// Set in the numbers of x32's calls, which otherwise have x86-64's architecture (asm/unistd.h).
const X32_SYSCALL_BIT: u32 = 0x4000_0000;

/// Where the number and the architecture are in the data that a filter looks at (linux/seccomp.h).
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;

/// A compiled filter.
pub struct Filter {
    program: Vec<sock_filter>,
    flags: libc::c_ulong,
}

impl Filter {
    /// Compiles a profile. System calls that libseccomp does not know are passed over.
    pub fn compile(profile: &LinuxSeccomp) -> Result<Self> {
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let architectures = architectures(profile)?;
        let context = build(profile, default, &architectures).context(|| "error building the seccomp filter".into())?;
        let mut program = unknown_calls_stub(profile, default, &architectures);
        program.extend(export(&context).context(|| "error exporting the seccomp filter".into())?);
        Ok(Self {
            program,
            flags: flags(profile),
        })
    }

    /// Puts the process under the filter, for good.
    pub fn load(&self) -> Result<()> {
        let length = u16::try_from(self.program.len())
            .map_err(|_| Failure::invalid("linux.seccomp: the filter has too many instructions"))?;
        let program = libc::sock_fprog {
            len: length,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: the program's length is that of the instructions pointed to, which the kernel copies.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                &raw const program,
            )
        };
        Errno::result(result)
            .map(drop)
            .context(|| "error loading seccomp filter into kernel".into())
    }
}

impl<T> Context<T> for std::result::Result<T, SeccompError> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Failure::invalid(format!("{}: {error}", what())))
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction> {
    let value = errno.unwrap_or(DEFAULT_ERRNO);
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(value as i32),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Failure::invalid("linux.seccomp: SCMP_ACT_NOTIFY is not supported"));
        }
    })
}

/// The profile's architectures and the native one, which is always part of a filter.
fn architectures(profile: &LinuxSeccomp) -> Result<Vec<ScmpArch>> {
    let mut architectures = vec![ScmpArch::native()];
    for listed in profile.architectures().iter().flatten() {
        let name = listed.to_string();
        let architecture = name
            .parse::<ScmpArch>()
            .context(|| format!("linux.seccomp: architecture {name}"))?;
        if architecture != ScmpArch::Native && !architectures.contains(&architecture) {
            architectures.push(architecture);
        }
    }
    Ok(architectures)
}

fn flags(profile: &LinuxSeccomp) -> libc::c_ulong {
    let bits = profile.flags().iter().flatten().map(|flag| match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
    });
    bits.fold(0, |all, flag| all | flag as libc::c_ulong)
}

fn build(profile: &LinuxSeccomp, default: ScmpAction, architectures: &[ScmpArch]) -> Result<ScmpFilterContext> {
    let mut context = ScmpFilterContext::new(default).context(|| "default action".into())?;
    for architecture in architectures {
        context
            .add_arch(*architecture)
            .context(|| format!("architecture {architecture:?}"))?;
    }
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        // libseccomp refuses a rule that changes nothing.
        if action != default {
            add_rule(&mut context, rule, action)?;
        }
    }
    Ok(context)
}

fn add_rule(context: &mut ScmpFilterContext, rule: &LinuxSyscall, action: ScmpAction) -> Result<()> {
    let conditions: Vec<ScmpArgCompare> = rule.args().iter().flatten().map(condition).collect::<Result<_>>()?;
    for name in rule.names() {
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let added = if conditions.is_empty() {
            context.add_rule(action, call).map(drop)
        } else if names_an_argument_twice(rule) {
            // All conditions of one rule must hold, but on one argument there can be only one: any of these suffices.
            conditions
                .iter()
                .try_for_each(|one| context.add_rule_conditional(action, call, &[*one]).map(drop))
        } else {
            context.add_rule_conditional(action, call, &conditions).map(drop)
        };
        added.context(|| format!("error adding seccomp filter rule for syscall {name}"))?;
    }
    Ok(())
}

fn names_an_argument_twice(rule: &LinuxSyscall) -> bool {
    let mut indexes: Vec<usize> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    let count = indexes.len();
    indexes.sort_unstable();
    indexes.dedup();
    indexes.len() < count
}

fn condition(argument: &LinuxSeccompArg) -> Result<ScmpArgCompare> {
    let index = u32::try_from(argument.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| Failure::invalid("linux.seccomp: a system call has the arguments 0 to 5"))?;
    let value = argument.value();
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, value),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => (ScmpCompareOp::MaskedEqual(value), argument.value_two().unwrap_or(0)),
    };
    Ok(ScmpArgCompare::new(index, operator, value))
}

/// libseccomp's program.
fn export(context: &ScmpFilterContext) -> Result<Vec<sock_filter>> {
    let memory: OwnedFd = memfd_create("seccomp", MFdFlags::MFD_CLOEXEC).context(|| "memfd_create".into())?;
    context.export_bpf(&memory).context(|| "export".into())?;
    let (mut file, mut bytes) = (File::from(memory), Vec::new());
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .context(|| "read".into())?;
    Ok(bytes
        .chunks_exact(size_of::<sock_filter>())
        .map(instruction_from)
        .collect())
}

fn instruction_from(bytes: &[u8]) -> sock_filter {
    let word = |from: usize| u32::from_ne_bytes([bytes[from], bytes[from + 1], bytes[from + 2], bytes[from + 3]]);
    sock_filter {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: word(4),
    }
}

/// For each architecture: calls above the last one that the profile names fail with `ENOSYS`.
fn unknown_calls_stub(profile: &LinuxSeccomp, default: ScmpAction, architectures: &[ScmpArch]) -> Vec<sock_filter> {
    let tolerant = matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_));
    if tolerant || default == ScmpAction::Errno(libc::ENOSYS) {
        return Vec::new();
    }
    architectures
        .iter()
        .filter_map(|architecture| Some((*architecture, last_call(profile, *architecture)?)))
        .flat_map(|(architecture, last)| stub(architecture, last))
        .collect()
}

fn last_call(profile: &LinuxSeccomp, architecture: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let calls = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, architecture).ok());
    // Negative are the calls that only other architectures have.
    calls.filter_map(|call| u32::try_from(call.as_raw_syscall()).ok()).max()
}

/// Goes on behind itself for other architectures and for known calls.
fn stub(architecture: ScmpArch, last: u32) -> Vec<sock_filter> {
    let Some(token) = audit_token(architecture) else {
        return Vec::new();
    };
    let refusal = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let refuse_above = [
        jump(libc::BPF_JGT, last, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, refusal),
    ];
    let mut stub = vec![load(ARCHITECTURE_OFFSET)];
    match architecture {
        // Two that share a token, told apart by a bit of the number.
        ScmpArch::X8664 => stub.extend([
            jump(libc::BPF_JEQ, token, 0, 4),
            load(NUMBER_OFFSET),
            jump(libc::BPF_JSET, X32_SYSCALL_BIT, 2, 0),
        ]),
        ScmpArch::X32 => stub.extend([
            jump(libc::BPF_JEQ, token, 0, 4),
            load(NUMBER_OFFSET),
            jump(libc::BPF_JSET, X32_SYSCALL_BIT, 0, 2),
        ]),
        _ => stub.extend([jump(libc::BPF_JEQ, token, 0, 3), load(NUMBER_OFFSET)]),
    }
    stub.extend(refuse_above);
    stub
}

/// The kernel's name of an architecture, `AUDIT_ARCH_*` (linux/audit.h), for those that a guest can run.
fn audit_token(architecture: ScmpArch) -> Option<u32> {
    Some(match architecture {
        ScmpArch::X8664 | ScmpArch::X32 => 0xc000_003e,
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Arm => 0x4000_0028,
        _ => return None,
    })
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

fn jump(condition: u32, k: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter {
        code: (libc::BPF_JMP | condition | libc::BPF_K) as u16,
        jt: if_true,
        jf: if_false,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(json: &str) -> Result<Filter> {
        Filter::compile(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn unknown_calls_and_redundant_rules_are_passed_over() {
        let rules = r#"[{"names": ["nosuchcall", "mkdir"], "action": "SCMP_ACT_ERRNO"},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"}]"#;
        compile(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rules}}}"#
        ))
        .unwrap();
    }

    #[test]
    fn an_unusable_argument_is_refused() {
        let args = r#"[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]"#;
        let rules = format!(r#"[{{"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": {args}}}]"#);
        let profile = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rules}}}"#);
        assert!(compile(&profile).err().unwrap().message.contains("arguments 0 to 5"));
    }

    #[test]
    fn the_stub_goes_before_strict_profiles_only() {
        let first = |default: &str| {
            let rules = r#"[{"names": ["read"], "action": "SCMP_ACT_KILL_PROCESS"}]"#;
            let profile = format!(r#"{{"defaultAction": "{default}", "syscalls": {rules}}}"#);
            let filter = compile(&profile).unwrap();
            filter
                .program
                .iter()
                .any(|one| one.k == libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)
        };
        assert!(first("SCMP_ACT_ERRNO"));
        assert!(!first("SCMP_ACT_ALLOW"));
    }
}
