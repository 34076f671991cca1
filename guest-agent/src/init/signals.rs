//! The signals that a program starts with.

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Gives a program the signals as a fresh process has them: the agent, for one, ignores SIGPIPE.
///
/// By the system call itself, since the C library keeps two of the real-time signals to itself. Safe to call between
/// fork and exec.
pub fn reset() -> nix::Result<()> {
    /// The kernel's `struct sigaction`, of which zeros are the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_SIZE: usize = 8;
    let previous = std::ptr::null_mut::<u64>();
    for signal in (1..=libc::SIGRTMAX()).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP)) {
        // SAFETY: the action is as large as the kernel's, and runs no code of this process.
        let result = unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), previous, SET_SIZE) };
        Errno::result(result)?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
}
