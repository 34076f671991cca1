//! What the kernel grants the process: rlimits, scheduling, I/O priority, personality (runtime-spec: config.md,
//! "POSIX process" and "Linux Process").

use nix::errno::Errno;
use nix::libc::{self, c_int, c_ulong};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimit, PosixRlimitType, Process, Scheduler,
};

use super::failure::{Context, Result};
use crate::scheduling;

/// ioprio_set(2): the priority's class is above these bits, and the target is one process.
const IOPRIO_CLASS_SHIFT: c_int = 13;
const IOPRIO_WHO_PROCESS: c_int = 1;

/// The rlimits of a process: its own, or without any the container's.
pub fn rlimits<'a>(process: &'a Process, container: Option<&'a Process>) -> &'a [PosixRlimit] {
    let named = |process: &'a Process| process.rlimits().as_deref().filter(|limits| !limits.is_empty());
    named(process).or_else(|| container.and_then(named)).unwrap_or_default()
}

/// Raises the hard limits to what is going to be set: in a user namespace of its own a process can only lower them.
pub fn make_room(limits: &[PosixRlimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| {
        let kind = resource(limit.typ());
        let raise = || {
            let (soft, hard) = getrlimit(kind)?;
            setrlimit(kind, soft, hard.max(limit.hard()))
        };
        raise().context(|| format!("error setting rlimit {}", limit.typ()))
    })
}

/// Sets the rlimits.
pub fn set_rlimits(limits: &[PosixRlimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| {
        setrlimit(resource(limit.typ()), limit.soft(), limit.hard())
            .context(|| format!("error setting rlimit {}", limit.typ()))
    })
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => Resource::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => Resource::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => Resource::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => Resource::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => Resource::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => Resource::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => Resource::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => Resource::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => Resource::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => Resource::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => Resource::RLIMIT_RTTIME,
    }
}

/// Sets the scheduling policy and its parameters.
pub fn set_scheduler(scheduler: &Scheduler) -> Result<()> {
    let flags = scheduler
        .flags()
        .iter()
        .flatten()
        .map(|flag| scheduler_flag(*flag))
        .fold(0, |all, flag| all | flag);
    let attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy(*scheduler.policy()) as u32,
        sched_flags: flags,
        sched_nice: scheduler.nice().unwrap_or(0),
        sched_priority: scheduler.priority().map_or(0, |priority| priority as u32),
        sched_runtime: scheduler.runtime().unwrap_or(0),
        sched_deadline: scheduler.deadline().unwrap_or(0),
        sched_period: scheduler.period().unwrap_or(0),
    };
    let (itself, no_flags) = (0, 0);
    // SAFETY: the structure carries its size, and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, itself, &raw const attributes, no_flags) };
    Errno::result(result)
        .map(drop)
        .context(|| format!("error setting scheduler {}", scheduler.policy()))
}

fn policy(policy: LinuxSchedulerPolicy) -> c_int {
    /// Reserved in the kernel, which refuses it.
    const SCHED_ISO: c_int = 4;
    match policy {
        LinuxSchedulerPolicy::SchedOther => libc::SCHED_OTHER,
        LinuxSchedulerPolicy::SchedFifo => libc::SCHED_FIFO,
        LinuxSchedulerPolicy::SchedRr => libc::SCHED_RR,
        LinuxSchedulerPolicy::SchedBatch => libc::SCHED_BATCH,
        LinuxSchedulerPolicy::SchedIso => SCHED_ISO,
        LinuxSchedulerPolicy::SchedIdle => libc::SCHED_IDLE,
        LinuxSchedulerPolicy::SchedDeadline => libc::SCHED_DEADLINE,
    }
}

/// Bits of linux/sched.h.
fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    }
}

/// Sets the CPUs that a further process is to run on in the end: its own, or else the container's (`execCPUAffinity`).
pub fn set_final_affinity(process: &Process, container: Option<&Process>) -> Result<()> {
    let itself = Pid::from_raw(0);
    let affinity = scheduling::affinity(process, container);
    let cpus = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    cpus.map_or(Ok(()), |cpus| {
        scheduling::set_affinity(itself, cpus).context(|| format!("error setting CPU affinity to {cpus}"))
    })
}

/// Sets the priority of input and output.
pub fn set_io_priority(priority: &LinuxIOPriority) -> Result<()> {
    let class = match priority.class() {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    let value = class << IOPRIO_CLASS_SHIFT | (priority.priority() & 0x7) as c_int;
    let itself = 0;
    // SAFETY: no pointer is passed.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, itself, value) };
    Errno::result(result)
        .map(drop)
        .context(|| format!("failed to set io priority {}", priority.class()))
}

/// Sets the execution domain.
pub fn set_personality(personality: &LinuxPersonality) -> Result<()> {
    const PER_LINUX: c_ulong = 0;
    const PER_LINUX32: c_ulong = 8;
    let domain = match personality.domain() {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    };
    // SAFETY: no pointer is passed.
    let result = unsafe { libc::personality(domain) };
    Errno::result(result)
        .map(drop)
        .context(|| format!("failed to set personality {}", personality.domain()))
}
