//! How the kernel schedules the agent among the containers' processes.

use std::io;

use nix::errno::Errno;
use nix::libc;

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

fn set_policy(policy: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call; 0 is the calling thread, the only one.
    Ok(Errno::result(unsafe { libc::sched_setscheduler(0, policy, &parameters) }).map(drop)?)
}
