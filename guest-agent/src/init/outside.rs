//! Work that takes a power which this process is about to give up: a child stays outside of the user namespace to do it.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::exit;

use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};

use super::failure::{Context, Result};
use super::protocol::Failure;

/// A child that waits to be told to do its work. Without that it ends together with this.
pub struct Outside {
    child: Pid,
    gate: OwnedFd,
    report: OwnedFd,
}

impl Outside {
    /// Forks the child, which keeps the namespaces and the rights that this process has now.
    pub fn prepare(work: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (wait, gate) = pipe2(OFlag::O_CLOEXEC).context(|| "pipe".into())?;
        let (report, tell) = pipe2(OFlag::O_CLOEXEC).context(|| "pipe".into())?;
        // SAFETY: this process has one thread only, so the child's memory is in no intermediate state.
        match unsafe { fork() }.context(|| "fork".into())? {
            ForkResult::Parent { child } => Ok(Self { child, gate, report }),
            ForkResult::Child => {
                drop((gate, report));
                if read(wait, &mut [0]) == Ok(1) {
                    let failure = serde_json::to_vec(&work().err()).unwrap_or_default();
                    // Whoever does not get it takes it for a death of ours.
                    let _ = write(tell, &failure);
                }
                exit(0)
            }
        }
    }

    /// Has the work done.
    pub fn finish(self) -> Result<()> {
        let mut report = Vec::new();
        write(&self.gate, &[0])
            .map_err(Into::into)
            .and_then(|_| File::from(self.report).read_to_end(&mut report))
            .context(|| "talk to the helper process".into())?;
        waitpid(self.child, None).context(|| "wait for the helper process".into())?;
        match serde_json::from_slice(&report) {
            Ok(None) => Ok(()),
            Ok(Some(failure)) => Err(failure),
            Err(_) => Err(Failure::kernel("the helper process died")),
        }
    }
}
