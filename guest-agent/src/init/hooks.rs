//! The startContainer hooks (runtime-spec: config.md, "StartContainer Hooks"): programs of the container, which its init
//! runs right before its own program, as the user, with the rights and under the filter that this one is to have.
//!
//! What they are told and how their failures read is runc's. A hook has ended when its process has: what it leaves
//! running may hold its streams open. Nothing is left of one that fails: the init ends, and the container with it.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, killpg, sigaction, sigprocmask};
use nix::sys::time::TimeSpec;
use nix::unistd::{Pid, getpid, setsid};
use oci_spec::runtime::{Hook, Spec};

use super::environment::Environment;
use super::failure::{Context, Result, text};
use super::protocol::{Failure, Reason};
use super::signals;

/// What is kept of each output of a hook, for its failure: the last of it.
const KEPT: usize = 1024;

/// A pipe holds this much.
const PIPE_SIZE: usize = 1 << 16;

/// The hooks of a configuration.
pub fn of(spec: &Spec) -> &[Hook] {
    let hooks = spec
        .hooks()
        .as_ref()
        .and_then(|hooks| hooks.start_container().as_deref());
    hooks.unwrap_or_default()
}

/// How long they may take in all; none, if one of them is not limited.
pub fn time_limit(spec: &Spec) -> Option<Duration> {
    of(spec).iter().map(timeout).sum()
}

/// Runs them, up to the first that fails. `state` is what they are told, but for the pid; those that name no
/// environment have the program's.
pub fn run(hooks: &[Hook], state: &str, environment: &Environment) -> Result<()> {
    let state = with_pid(state)?;
    let interruptible = heed_children().context(|| "heed the ends of children".into())?;
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        run_one(hook, &state, environment, &interruptible).map_err(|message| Failure {
            reason: Reason::Process,
            message: format!("error running hook #{index}: {message}"),
        })
    })
}

fn with_pid(state: &str) -> Result<Vec<u8>> {
    let invalid = |error| Failure::invalid(format!("the state for the hooks: {error}"));
    let mut state: serde_json::Map<String, serde_json::Value> = serde_json::from_str(state).map_err(invalid)?;
    state.insert("pid".into(), getpid().as_raw().into());
    serde_json::to_vec(&state).map_err(invalid)
}

fn timeout(hook: &Hook) -> Option<Duration> {
    hook.timeout().map(|seconds| Duration::from_secs(seconds.max(0) as u64))
}

/// From here on the end of a child interrupts a wait that has the mask given back, and nothing else. Programs get the
/// signals as new ones have them.
fn heed_children() -> nix::Result<SigSet> {
    extern "C" fn nothing(_: libc::c_int) {}
    let interrupt = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGCHLD, &interrupt) }?;
    let mut before = SigSet::empty();
    sigprocmask(
        SigmaskHow::SIG_BLOCK,
        Some(&SigSet::from(Signal::SIGCHLD)),
        Some(&mut before),
    )?;
    before.remove(Signal::SIGCHLD);
    Ok(before)
}

/// The message of an error is what failed, in runc's words.
fn run_one(
    hook: &Hook,
    state: &[u8],
    environment: &Environment,
    interruptible: &SigSet,
) -> std::result::Result<(), String> {
    let path = hook.path().display();
    let named = hook.env().as_deref().map(Environment::new).transpose();
    let named = named.map_err(|failure| failure.message)?;
    let mut child = spawn(hook, named.as_ref().unwrap_or(environment))
        .map_err(|error| format!("fork/exec {path}: {}", cause(&error)))?;
    let mut talk = Talk::with(&mut child, state).map_err(|error| format!("talk to {path}: {}", cause(&error)))?;
    let ended = talk.until_end(&mut child, timeout(hook), interruptible);
    match ended.map_err(|error| format!("wait for {path}: {}", cause(&error)))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!(
            "error running hook: {}, {}",
            describe(status),
            talk.transcript()
        )),
        None => {
            // It is the leader of a session, and not reaped yet: the number is its own.
            let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
            let limit = timeout(hook).unwrap_or_default().as_secs();
            Err(format!("hook ran past specified timeout of {limit}.0s"))
        }
    }
}

fn spawn(hook: &Hook, environment: &Environment) -> io::Result<Child> {
    let arguments = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(environment.pairs());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: both are but system calls.
    unsafe { command.pre_exec(|| Ok(setsid().and(signals::reset())?)) };
    command.spawn()
}

fn cause(error: &io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), |code| text(Errno::from_raw(code)))
}

/// As Go words it.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            // SAFETY: the text is static, or this thread's own until its next call.
            let name = unsafe { std::ffi::CStr::from_ptr(libc::strsignal(signal)) };
            let core = if status.core_dumped() { " (core dumped)" } else { "" };
            format!("signal: {}{core}", name.to_string_lossy().to_lowercase())
        }
        (None, None) => status.to_string(),
    }
}

/// What flows between the init and a hook.
struct Talk<'a> {
    unsent: &'a [u8],
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    said: [Vec<u8>; 2],
}

impl<'a> Talk<'a> {
    fn with(child: &mut Child, state: &'a [u8]) -> io::Result<Self> {
        let talk = Self {
            unsent: state,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            said: Default::default(),
        };
        for fd in talk.open_ends().into_iter().flatten() {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
            fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        Ok(talk)
    }

    fn open_ends(&self) -> [Option<BorrowedFd<'_>>; 3] {
        let stdout = self.stdout.as_ref().map(AsFd::as_fd);
        let stderr = self.stderr.as_ref().map(AsFd::as_fd);
        [self.stdin.as_ref().map(AsFd::as_fd), stdout, stderr]
    }

    /// Talks until the hook has ended; None, if it has not in time.
    fn until_end(
        &mut self,
        child: &mut Child,
        timeout: Option<Duration>,
        interruptible: &SigSet,
    ) -> io::Result<Option<ExitStatus>> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            if let Some(status) = child.try_wait()? {
                // All that its pipes still hold, not what others may yet write.
                self.hear();
                return Ok(Some(status));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.wait(left, interruptible)?;
            self.tell();
            self.hear();
        }
    }

    /// Waits until there is something to do, a child has ended, or the time is over.
    fn wait(&self, left: Option<Duration>, interruptible: &SigSet) -> io::Result<()> {
        let [stdin, stdout, stderr] = self.open_ends();
        let mut fds: Vec<PollFd> = stdin
            .map(|fd| PollFd::new(fd, PollFlags::POLLOUT))
            .into_iter()
            .collect();
        fds.extend(
            [stdout, stderr]
                .into_iter()
                .flatten()
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );
        match ppoll(&mut fds, left.map(TimeSpec::from_duration), Some(*interruptible)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes what there is room for; closes the stream when all is written, or nobody reads.
    fn tell(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        match stdin.write(self.unsent) {
            Ok(length) => self.unsent = &self.unsent[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_nobody_reads) => self.unsent = &[],
        }
        if self.unsent.is_empty() {
            self.stdin = None;
        }
    }

    fn hear(&mut self) {
        let [stdout, stderr] = &mut self.said;
        if self.stdout.as_mut().is_some_and(|stream| !keep_last(stream, stdout)) {
            self.stdout = None;
        }
        if self.stderr.as_mut().is_some_and(|stream| !keep_last(stream, stderr)) {
            self.stderr = None;
        }
    }

    fn transcript(&self) -> String {
        let [stdout, stderr] = self.said.each_ref().map(|said| String::from_utf8_lossy(said));
        format!("stdout: {stdout}, stderr: {stderr}")
    }
}

/// Reads what a pipe holds, and keeps the last of it; false at its end.
fn keep_last(stream: &mut impl Read, said: &mut Vec<u8>) -> bool {
    let mut buffer = vec![0; PIPE_SIZE];
    match stream.read(&mut buffer) {
        Ok(length) => {
            said.extend_from_slice(&buffer[..length]);
            said.drain(..said.len().saturating_sub(KEPT));
            length > 0
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}
