//! The one place that waits for children: PID 1 is the parent of every orphan, so nobody else may call wait(2).
//!
//! A process is made by a short-lived stage of `init`, and becomes known by a message that tells its pid. It may have
//! ended before that message is read. So while somebody expects a process, the ends of unknown pids are kept for him to
//! claim; at other times they are orphans of containers, and forgotten.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Waits for all children, and tells those who claimed one.
#[derive(Default)]
pub struct Reaper {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    alive: HashMap<Pid, watch::Sender<Option<u8>>>,
    unclaimed: HashMap<Pid, u8>,
    expectations: usize,
}

/// The end of a process: its exit code, when there is one.
#[derive(Clone)]
pub struct Exit(watch::Receiver<Option<u8>>);

/// As long as it lives, no exit code of a child is lost.
pub struct Expectation(Arc<Reaper>);

impl Reaper {
    /// Starts to reap, in a task of the current runtime.
    pub fn start() -> io::Result<Arc<Self>> {
        let reaper = Arc::new(Self::default());
        let mut child_changed = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            // The first round takes what ended before the signal was listened to.
            loop {
                reaping.reap();
                child_changed.recv().await;
            }
        });
        Ok(reaper)
    }

    /// Announces that a child is about to be made.
    pub fn expect(self: &Arc<Self>) -> Expectation {
        self.table().expectations += 1;
        Expectation(self.clone())
    }

    /// Sends a signal to a claimed process; false when it has ended. Its pid cannot have been reused, for it is freed
    /// under the same lock.
    pub fn signal(&self, pid: Pid, number: i32) -> nix::Result<bool> {
        let table = self.table();
        if !table.alive.contains_key(&pid) {
            return Ok(false);
        }
        send_signal(pid, number).map(|()| true)
    }

    fn reap(&self) {
        let mut table = self.table();
        while let Some((pid, exit_code)) = next_ended_child() {
            table.ended(pid, exit_code);
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while the table is locked")
    }
}

impl Table {
    fn ended(&mut self, pid: Pid, exit_code: u8) {
        if let Some(sender) = self.alive.remove(&pid) {
            sender.send_replace(Some(exit_code));
        } else if self.expectations > 0 {
            self.unclaimed.insert(pid, exit_code);
        }
    }
}

impl Expectation {
    /// Takes a child as one's own.
    pub fn claim(&self, pid: Pid) -> Exit {
        let mut table = self.0.table();
        let ended = table.unclaimed.remove(&pid);
        let (sender, receiver) = watch::channel(ended);
        if ended.is_none() {
            table.alive.insert(pid, sender);
        }
        Exit(receiver)
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut table = self.0.table();
        table.expectations -= 1;
        if table.expectations == 0 {
            table.unclaimed = HashMap::new();
        }
    }
}

impl Exit {
    /// The exit code, when the process has ended: what it gave to exit(2), or 128 + the signal's number.
    pub fn code(&self) -> Option<u8> {
        *self.0.borrow()
    }

    /// Waits until the process has ended.
    pub async fn wait(&mut self) -> u8 {
        loop {
            if let Some(code) = *self.0.borrow_and_update() {
                return code;
            }
            // The sender lives in the reaper's table until it has sent.
            if self.0.changed().await.is_err() && self.code().is_none() {
                unreachable!("a claimed process was dropped from the reaper's table");
            }
        }
    }
}

/// Takes the next ended child off the kernel's list. Not nix's `waitpid`: it has no name for real-time signals, and
/// would lose the child that died of one.
fn next_ended_child() -> Option<(Pid, u8)> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
    (pid > 0).then(|| (Pid::from_raw(pid), exit_code(status)))
}

fn exit_code(status: i32) -> u8 {
    match libc::WIFSIGNALED(status) {
        true => 128 + libc::WTERMSIG(status) as u8,
        false => libc::WEXITSTATUS(status) as u8,
    }
}

/// kill(2) for all 64 signals.
pub fn send_signal(pid: Pid, number: i32) -> nix::Result<()> {
    // SAFETY: kill(2) takes no pointers.
    Errno::result(unsafe { libc::kill(pid.as_raw(), number) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number)
    }

    #[test]
    fn an_end_before_the_claim_is_kept() {
        let reaper = Arc::new(Reaper::default());
        let expectation = reaper.expect();
        reaper.table().ended(pid(7), 3);
        assert_eq!(expectation.claim(pid(7)).code(), Some(3));
    }

    #[test]
    fn an_end_after_the_claim_is_told() {
        let reaper = Arc::new(Reaper::default());
        let exit = reaper.expect().claim(pid(7));
        assert_eq!(exit.code(), None);
        reaper.table().ended(pid(7), 3);
        assert_eq!(exit.code(), Some(3));
    }

    #[test]
    fn orphans_are_forgotten() {
        let reaper = Arc::new(Reaper::default());
        reaper.table().ended(pid(7), 3);
        let expectation = reaper.expect();
        reaper.table().ended(pid(8), 3);
        drop(expectation);
        assert!(reaper.table().unclaimed.is_empty());
        assert_eq!(reaper.expect().claim(pid(7)).code(), None);
    }

    #[test]
    fn an_ended_process_gets_no_signal() {
        let reaper = Arc::new(Reaper::default());
        assert_eq!(reaper.signal(pid(i32::MAX), libc::SIGKILL), Ok(false));
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(3 << 8), 3);
        assert_eq!(exit_code(libc::SIGKILL), 137);
        assert_eq!(exit_code(0x80 | libc::SIGSEGV), 139);
        assert_eq!(exit_code(64), 192);
    }
}
