//! How the kernel schedules the agent among the containers' processes, and on which CPUs it runs a process.

use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use oci_spec::runtime::{ExecCPUAffinity, Process};

/// Lets the process that has just written go on until its pipe is full or its time is over, instead of handing the CPU to
/// the agent at each write: fewer and larger pieces, and a fraction of the context switches. A waiting agent still runs at
/// once when nobody else does.
pub fn batch() -> io::Result<()> {
    set_policy(libc::SCHED_BATCH)
}

/// The policy that a container's process expects to begin with.
pub fn ordinary() -> io::Result<()> {
    set_policy(libc::SCHED_OTHER)
}

/// Where a process that is added to a container is to run: as it says itself, or else the container's.
pub fn affinity<'a>(process: &'a Process, container: Option<&'a Process>) -> Option<&'a ExecCPUAffinity> {
    let own = process.exec_cpu_affinity().as_ref();
    own.or_else(|| container.and_then(|container| container.exec_cpu_affinity().as_ref()))
}

/// Binds a process to the CPUs of a list such as `0-3,7`; those that the guest lacks count for nothing.
pub fn set_affinity(process: Pid, list: &str) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = parse_range(range).ok_or(Errno::EINVAL)?;
        (first..=last.min(CpuSet::count() - 1)).try_for_each(|cpu| cpus.set(cpu))?;
    }
    sched_setaffinity(process, &cpus)
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn set_policy(policy: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call; 0 is the calling thread, the only one.
    Ok(Errno::result(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(drop)?)
}
