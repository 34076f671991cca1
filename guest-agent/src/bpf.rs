//! BPF programs of control groups: a hand's breadth of assembler, and the way into the kernel.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

/// An instruction as the kernel reads it: `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u8,
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

// Registers whose use is fixed.
pub const RESULT: u8 = 0;
pub const CONTEXT: u8 = 1;

// Codes: linux/bpf_common.h and linux/bpf.h.
pub const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
pub const STORE_WORD: u8 = 0x63; // BPF_STX | BPF_MEM | BPF_W
pub const MOVE: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
pub const MOVE_CONSTANT: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
pub const AND: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
pub const SHIFT_RIGHT: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
pub const JUMP_UNLESS_EQUAL: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
pub const JUMP_IF_ANY: u8 = 0x46; // BPF_JMP32 | BPF_JSET | BPF_K
pub const JUMP: u8 = 0x05; // BPF_JMP | BPF_JA
pub const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// One instruction; an offset of a jump counts instructions behind this one.
pub fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: u32) -> Instruction {
    Instruction {
        code,
        registers: from << 4 | to,
        offset,
        immediate: immediate.cast_signed(),
    }
}

/// Ends the program with a result.
pub fn answer(value: u32) -> Vec<Instruction> {
    vec![
        instruction(MOVE_CONSTANT, RESULT, 0, 0, value),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

// ------------------------------------------------------------------------------------------------ The kernel

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// How often a program is given to the kernel that signals interrupt.
const ATTEMPTS: usize = 100;

/// The start of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buffer: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

/// The start of `union bpf_attr` for BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
}

/// The start of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Gives a program to the kernel, which checks it.
pub fn load(program_type: u32, attach_type: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = LoadAttributes {
        program_type,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..LoadAttributes::default()
    };
    let mut attempts = 1;
    loop {
        match bpf(BPF_PROG_LOAD, &attributes) {
            // A signal came while the kernel checked it: a child of the agent's has ended.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempts < ATTEMPTS => attempts += 1,
            result => return descriptor(result?),
        }
    }
}

/// Has a program run for every process of a cgroup, as long as that is there.
pub fn attach(program: &OwnedFd, attach_type: u32, cgroup: BorrowedFd) -> io::Result<()> {
    let attributes = AttachAttributes {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        attach_type,
        flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attributes).map(drop)
}

/// Has a program run for every process of a cgroup, until the result is closed.
pub fn link(program: &OwnedFd, attach_type: u32, cgroup: BorrowedFd) -> io::Result<OwnedFd> {
    let attributes = LinkAttributes {
        program: program.as_raw_fd() as u32,
        target: cgroup.as_raw_fd() as u32,
        attach_type,
        flags: 0,
    };
    descriptor(bpf(BPF_LINK_CREATE, &attributes)?)
}

fn descriptor(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<Attributes>(command: libc::c_long, attributes: &Attributes) -> io::Result<i32> {
    // SAFETY: the attributes are the start of the union that the command reads, of the size given, and what they point
    // to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<Attributes>()) };
    match result {
        -1 => Err(io::Error::last_os_error()),
        fd => Ok(fd as i32),
    }
}
