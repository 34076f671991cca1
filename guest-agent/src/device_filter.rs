//! The device cgroup of a container: a BPF program of type BPF_PROG_TYPE_CGROUP_DEVICE that decides each access.
//!
//! Rules are OCI's `linux.resources.devices`, followed by the devices that every container has. A later rule overrules an
//! earlier one, for each kind of access (read, write, mknod) by itself; what no rule allows is denied. The program walks
//! the rules from the last to the first and keeps the kinds that are asked for and not yet decided:
//!
//! ```text
//! undecided = asked
//! for each rule, from the last:   if type, major and minor match:
//!     deny:                           if undecided & rule.access: return 0
//!     allow:                          undecided &= ~rule.access; if undecided == 0: return 1
//! return 0
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::bpf::{
    self, AND, CONTEXT, Instruction, JUMP, JUMP_IF_ANY, JUMP_UNLESS_EQUAL, LOAD_WORD, MOVE, SHIFT_RIGHT, answer,
    instruction,
};

/// More rules than any real configuration has: two for each major number.
const MAX_RULES: usize = 1024;

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MKNOD | READ | WRITE;

const BLOCK: u32 = 1;
const CHAR: u32 = 2;

const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;

/// One rule; None stands for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// What every container may access, as with runc: making any node, and using those of the default devices.
const DEFAULT_RULES: &[Rule] = &[
    default_rule(CHAR, None, None, MKNOD),
    default_rule(BLOCK, None, None, MKNOD),
    default_rule(CHAR, Some(1), Some(3), ALL),    // null
    default_rule(CHAR, Some(1), Some(8), ALL),    // random
    default_rule(CHAR, Some(1), Some(7), ALL),    // full
    default_rule(CHAR, Some(5), Some(0), ALL),    // tty
    default_rule(CHAR, Some(1), Some(5), ALL),    // zero
    default_rule(CHAR, Some(1), Some(9), ALL),    // urandom
    default_rule(CHAR, Some(136), None, ALL),     // pts
    default_rule(CHAR, Some(5), Some(2), ALL),    // ptmx
    default_rule(CHAR, Some(10), Some(200), ALL), // net/tun
];

const fn default_rule(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule {
        allow: true,
        kind: Some(kind),
        major,
        minor,
        access,
    }
}

/// The rules of a container, in OCI's order. An error says which of the devices is no rule, and why.
pub fn rules(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, String> {
    if devices.len() > MAX_RULES {
        return Err(format!("devices: {} rules are more than {MAX_RULES}", devices.len()));
    }
    let mut rules = Vec::with_capacity(devices.len() + DEFAULT_RULES.len());
    for (index, device) in devices.iter().enumerate() {
        rules.push(Rule::from_oci(device).map_err(|reason| format!("devices[{index}]: {reason}"))?);
    }
    rules.extend_from_slice(DEFAULT_RULES);
    Ok(rules)
}

impl Rule {
    fn from_oci(device: &LinuxDeviceCgroup) -> Result<Self, String> {
        let kind = match device.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(BLOCK),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(CHAR),
            LinuxDeviceType::P => return Err("type p has no device number".to_owned()),
        };
        Ok(Self {
            allow: device.allow(),
            kind,
            major: number("major", device.major())?,
            minor: number("minor", device.minor())?,
            access: access(device.access().as_deref().unwrap_or(""))?,
        })
    }
}

/// Absent and -1 are any.
fn number(name: &str, value: Option<i64>) -> Result<Option<u32>, String> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| format!("{name} {value} is out of range")),
    }
}

/// No letters are all of them, as runc reads it.
fn access(letters: &str) -> Result<u32, String> {
    if letters.is_empty() {
        return Ok(ALL);
    }
    letters.chars().try_fold(0, |access, letter| match letter {
        'r' => Ok(access | READ),
        'w' => Ok(access | WRITE),
        'm' => Ok(access | MKNOD),
        _ => Err(format!("access {letters:?} is not made of r, w and m")),
    })
}

// ------------------------------------------------------------------------------------------------ The program

// Registers, by what they hold.
const KIND: u8 = 2;
const UNDECIDED: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

fn program(rules: &[Rule]) -> Vec<Instruction> {
    // struct bpf_cgroup_dev_ctx { u32 access_type (kind, and access << 16); u32 major; u32 minor; }
    let mut program = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE, UNDECIDED, KIND, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, UNDECIDED, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        program.extend(block(rule));
    }
    program.extend(answer(0));
    program
}

/// The part for one rule, which ends at the next rule unless it decides.
fn block(rule: &Rule) -> Vec<Instruction> {
    let action = match rule.allow {
        true => [
            vec![
                instruction(AND, UNDECIDED, 0, 0, ALL & !rule.access),
                instruction(JUMP_UNLESS_EQUAL, UNDECIDED, 0, 2, 0),
            ],
            answer(1),
        ],
        false => [
            vec![
                instruction(JUMP_IF_ANY, UNDECIDED, 0, 1, rule.access),
                instruction(JUMP, 0, 0, 2, 0),
            ],
            answer(0),
        ],
    }
    .concat();
    let wanted: Vec<(u8, u32)> = [(KIND, rule.kind), (MAJOR, rule.major), (MINOR, rule.minor)]
        .into_iter()
        .filter_map(|(r, v)| Some((r, v?)))
        .collect();
    let tests = wanted.iter().enumerate().map(|(index, (register, value))| {
        let to_next_rule = wanted.len() - index - 1 + action.len();
        instruction(JUMP_UNLESS_EQUAL, *register, 0, to_next_rule as i16, *value)
    });
    tests.chain(action.iter().copied()).collect()
}

/// Makes the rules hold for every process of a cgroup.
pub fn attach(rules: &[Rule], cgroup: BorrowedFd) -> io::Result<()> {
    bpf::attach(&load(&program(rules))?, BPF_CGROUP_DEVICE, cgroup)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    bpf::load(BPF_PROG_TYPE_CGROUP_DEVICE, BPF_CGROUP_DEVICE, program)
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use crate::bpf::{EXIT, MOVE_CONSTANT};

    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [kind | access << 16, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: pair,
                offset,
                immediate,
            } = program[at];
            let (to, from) = ((pair & 15) as usize, (pair >> 4) as usize);
            let immediate = immediate as u32;
            let mut jump = |condition: bool| at += if condition { offset as usize } else { 0 };
            match code {
                LOAD_WORD => registers[to] = context[offset as usize / 4].into(),
                MOVE => registers[to] = registers[from],
                MOVE_CONSTANT => registers[to] = immediate.into(),
                AND => registers[to] = (registers[to] as u32 & immediate).into(),
                SHIFT_RIGHT => registers[to] = (registers[to] as u32 >> immediate).into(),
                JUMP_UNLESS_EQUAL => jump(registers[to] as u32 != immediate),
                JUMP_IF_ANY => jump(registers[to] as u32 & immediate != 0),
                JUMP => jump(true),
                EXIT => return registers[0] != 0,
                _ => panic!("no such instruction: {code:#x}"),
            }
            at += 1;
        }
    }

    fn compiled(json: &str) -> Vec<Instruction> {
        let devices: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("valid rules");
        program(&rules(&devices).expect("convertible rules"))
    }

    #[test]
    fn the_default_devices_are_allowed_and_no_others() {
        let program = compiled(r#"[{"allow":false,"access":"rwm"}]"#);
        assert!(run(&program, CHAR, READ | WRITE, 1, 3));
        assert!(run(&program, CHAR, READ | WRITE, 136, 9));
        assert!(run(&program, CHAR, MKNOD, 10, 229));
        assert!(run(&program, BLOCK, MKNOD, 8, 0));
        assert!(!run(&program, CHAR, READ, 10, 229));
        assert!(!run(&program, BLOCK, READ, 8, 0));
        assert!(!run(&program, BLOCK, READ | MKNOD, 8, 0));
        assert!(!run(&program, BLOCK, READ, 1, 3));
    }

    #[test]
    fn without_rules_only_the_default_devices_are_allowed() {
        let program = compiled("[]");
        assert!(run(&program, CHAR, READ, 1, 5));
        assert!(!run(&program, CHAR, READ, 4, 64));
    }

    #[test]
    fn a_later_rule_overrules_an_earlier_one_for_each_access() {
        let program = compiled(
            r#"[{"allow":true,"type":"b","major":8,"access":"rwm"},
                {"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]"#,
        );
        assert!(run(&program, BLOCK, READ | WRITE, 8, 0));
        assert!(run(&program, BLOCK, READ, 8, 1));
        assert!(!run(&program, BLOCK, WRITE, 8, 1));
        assert!(!run(&program, BLOCK, READ | WRITE, 8, 1));
    }

    #[test]
    fn two_rules_can_allow_one_access_together() {
        let program = compiled(
            r#"[{"allow":true,"type":"c","major":9,"minor":1,"access":"r"},
                {"allow":true,"type":"c","major":9,"minor":1,"access":"w"}]"#,
        );
        assert!(run(&program, CHAR, READ | WRITE, 9, 1));
        assert!(!run(&program, CHAR, READ | WRITE, 9, 2));
    }

    #[test]
    fn everything_can_be_allowed() {
        let program = compiled(r#"[{"allow":true,"access":"rwm"}]"#);
        assert!(run(&program, BLOCK, ALL, 259, 7));
        assert!(run(&program, CHAR, WRITE, 10, 200));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for json in [
            r#"[{"allow":true,"type":"p","access":"r"}]"#,
            r#"[{"allow":true,"type":"c","major":-2,"access":"r"}]"#,
            r#"[{"allow":true,"type":"c","minor":4294967296,"access":"r"}]"#,
            r#"[{"allow":true,"type":"c","access":"rx"}]"#,
        ] {
            let devices: Vec<LinuxDeviceCgroup> = serde_json::from_str(json).expect("valid rules");
            assert!(rules(&devices).is_err(), "{json}");
        }
    }

    #[test]
    fn the_kernel_accepts_the_program() {
        let many: Vec<Rule> = std::iter::repeat_n(DEFAULT_RULES, 20).flatten().copied().collect();
        for rules in [DEFAULT_RULES, &many] {
            match load(&program(rules)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => eprintln!("skipped: needs root"),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
