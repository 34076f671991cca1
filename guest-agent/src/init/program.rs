//! The last part of the way: from a process in the container to the container's program.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Uid, chdir, execve, getcwd};
use oci_spec::runtime::{Hook, LinuxPersonality, LinuxSeccomp, Process, Spec};

use super::environment::Environment;
use super::failure::{Context, Result, text};
use super::protocol::{Failure, Reason};
use super::seccomp::Filter;
use super::user::{CapabilitySets, become_user};
use super::{executable, hooks, limits, signals, streams};

/// What a process becomes.
pub struct Program<'a> {
    process: &'a Process,
    /// The process of the container's configuration, for what the other leaves open.
    container: Option<&'a Process>,
    seccomp: Option<&'a LinuxSeccomp>,
    personality: Option<&'a LinuxPersonality>,
}

/// A program that only execve is missing to.
pub struct Ready {
    path: PathBuf,
    arguments: Vec<CString>,
    environment: Environment,
    filter: Option<Filter>,
}

impl<'a> Program<'a> {
    /// The program of a process of the container.
    pub fn new(process: &'a Process, spec: &'a Spec) -> Self {
        let linux = spec.linux().as_ref();
        Self {
            process,
            container: spec.process().as_ref(),
            seccomp: linux.and_then(|linux| linux.seccomp().as_ref()),
            personality: linux.and_then(|linux| linux.personality().as_ref()),
        }
    }

    /// Becomes the user with its rights, and finds the program, whose lookup these rights are to decide.
    ///
    /// The order is runc's. A filter is loaded late, so that it must allow as little as possible of what is done here,
    /// but without noNewPrivileges only root may load one.
    ///
    /// `descriptors` is how many the program is given, from 0 on; the next is the agent's socket.
    pub fn prepare(self, descriptors: RawFd) -> Result<Ready> {
        self.prepare_process(descriptors)
            .map_err(|failure| match failure.reason {
                Reason::Kernel => failure.because_of(Reason::Process),
                _ => failure,
            })
    }

    fn prepare_process(self, descriptors: RawFd) -> Result<Ready> {
        let user = self.process.user();
        let arguments = self.arguments()?;
        let mut environment = Environment::new(self.process.env().as_deref().unwrap_or_default())?;
        environment.complete_home(user.uid());
        umask(Mode::from_bits_truncate(user.umask().unwrap_or(0o022)));
        let confined = self.inherited(Process::no_new_privileges).unwrap_or(false);
        if confined {
            set_no_new_privs().context(|| "unable to set no_new_privs".into())?;
        }
        let filter = self.seccomp.map(Filter::compile).transpose()?;
        self.set_limits()?;
        let entered = enter_as_root(self.process.cwd())?;
        streams::give_to(Uid::from_raw(user.uid()), None)?;
        close_above(descriptors)?;
        let filter = load_unless(confined, filter)?;
        let capabilities = self.capabilities();
        capabilities.limit()?;
        become_user(user)?;
        if !entered {
            chdir(self.process.cwd()).map_err(|errno| cannot_enter(self.process.cwd(), errno))?;
        }
        verify_working_directory()?;
        capabilities.apply()?;
        let path = executable::find(self.name(), environment.get("PATH").unwrap_or_default())?;
        Ok(Ready {
            path,
            arguments,
            environment,
            filter,
        })
    }

    fn name(&self) -> &str {
        self.process.args().iter().flatten().next().map_or("", String::as_str)
    }

    fn arguments(&self) -> Result<Vec<CString>> {
        let arguments: Vec<CString> = self
            .process
            .args()
            .iter()
            .flatten()
            .map(|argument| CString::new(argument.as_str()))
            .collect::<std::result::Result<_, _>>()
            .map_err(|_| Failure::invalid("process.args: an argument contains a nul byte"))?;
        if arguments.is_empty() {
            Err(Failure::invalid("args must not be empty"))
        } else {
            Ok(arguments)
        }
    }

    /// A property of the process, or of the container's.
    fn inherited<T>(&self, property: impl Fn(&'a Process) -> Option<T>) -> Option<T> {
        property(self.process).or_else(|| self.container.and_then(property))
    }

    fn set_limits(&self) -> Result<()> {
        self.inherited(|process| process.scheduler().as_ref())
            .map_or(Ok(()), limits::set_scheduler)?;
        self.inherited(|process| process.io_priority().as_ref())
            .map_or(Ok(()), limits::set_io_priority)?;
        self.personality.map_or(Ok(()), limits::set_personality)?;
        limits::set_rlimits(limits::rlimits(self.process, self.container))
            .context(|| "error during container init: error setting rlimits for ready process".into())
    }

    /// None at all, if the configuration names none.
    fn capabilities(&self) -> CapabilitySets {
        let named = self.inherited(|process| process.capabilities().as_ref());
        named.map(CapabilitySets::from).unwrap_or_default()
    }
}

impl Ready {
    /// Runs hooks as what the program will be, under its filter; `state` is what they are told, but for the pid.
    pub fn run_hooks(&mut self, hooks: &[Hook], state: &str) -> Result<()> {
        load_unless(false, self.filter.take())?;
        hooks::run(hooks, state, &self.environment)
    }

    /// Executes the program. Returns only if that fails.
    pub fn execute(self) -> Result<Infallible> {
        let environment = self.environment.to_c_strings()?;
        load_unless(false, self.filter)?;
        signals::reset().context(|| "reset the signals".into())?;
        let Ok(path) = CString::new(self.path.as_os_str().as_bytes()) else {
            return Err(Failure::invalid("process.args: an argument contains a nul byte"));
        };
        execve(&path, &self.arguments, &environment).map_err(|errno| executable::not_executable(&self.path, errno))
    }
}

/// Loads a filter now, unless it is to be loaded later, when it is given back.
fn load_unless(later: bool, filter: Option<Filter>) -> Result<Option<Filter>> {
    if later {
        return Ok(filter);
    }
    filter.map_or(Ok(()), |filter| filter.load()).map(|()| None)
}

/// Enters the working directory as root, which the user may not be allowed to; tells whether that was possible, which
/// it is not where root's own rights do not reach.
fn enter_as_root(path: &Path) -> Result<bool> {
    match chdir(path) {
        Ok(()) => Ok(true),
        Err(Errno::EACCES | Errno::EPERM) => Ok(false),
        Err(errno) => Err(cannot_enter(path, errno)),
    }
}

fn cannot_enter(path: &Path, errno: Errno) -> Failure {
    let message = format!("chdir to cwd ({path:?}) set in config.json failed: {}", text(errno));
    Failure {
        reason: Reason::WorkingDirectory,
        message,
    }
}

/// A path such as /proc/self/fd/7 must not have led out of the container's root (CVE-2024-21626).
fn verify_working_directory() -> Result<()> {
    match getcwd() {
        Ok(path) if path.is_absolute() => Ok(()),
        Err(errno) if errno != Errno::ENOENT => Err(errno).context(|| "failed to verify if cwd is safe".into()),
        _ => Err(Failure {
            reason: Reason::WorkingDirectory,
            message: "current working directory is outside of container mount namespace root".into(),
        }),
    }
}

/// What was opened for the set-up is closed by then; this makes sure of it, and the socket is closed by execve.
fn close_above(socket: RawFd) -> Result<()> {
    let first = socket as libc::c_uint + 1;
    // SAFETY: no object of this process owns a descriptor in this range any more.
    Errno::result(unsafe { libc::close_range(first, libc::c_uint::MAX, 0) })
        .map(drop)
        .context(|| "close the files of the set-up".into())
}
