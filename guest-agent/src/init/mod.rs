//! A process of a container, from the start of its executable to its execve.
//!
//! The agent starts itself as `init`, in one thread, and gives it one request ([`protocol`]): to make a container and
//! become its first process, or to join one. The way of a container: [`namespaces`] -> [`rootfs`] (-> `mounts`,
//! `devices`) -> [`console`] -> [`program`] (-> `environment`, `user`, `seccomp`, `executable`, `hooks`).

mod console;
mod copy;
mod devices;
mod environment;
mod executable;
pub mod failure;
pub mod hooks;
mod keyring;
mod limits;
mod mount_api;
mod mount_options;
mod mounts;
pub mod namespaces;
mod outside;
mod procfs;
mod program;
pub mod protocol;
mod rootfs;
mod seccomp;
mod signals;
mod streams;
mod sysctl;
mod tree;
mod user;
pub mod user_namespace;

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::exit;

use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, OFlag, ResolveFlag, fcntl, open};
use nix::sched::CloneFlags;
use nix::sys::prctl::set_dumpable;
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, fork, pipe2, read, setsid, write};
use oci_spec::runtime::{Process, Spec};

use console::{Console, window_size};
use failure::{Context, Result};
use procfs::Procfs;
use program::Program;
use protocol::{Create, Event, Exec, Failure, Request, WindowSize};
use rootfs::Rootfs;
use tree::Tree;

/// Carries out the request that comes on this descriptor (see [`protocol`]), and becomes the container's process. Never
/// returns.
pub fn run(socket: RawFd) -> ! {
    let agent = match Agent::inherited(socket) {
        Ok(agent) => agent,
        Err(error) => {
            eprintln!("vruntime-agent init is started by the agent only: descriptor {socket}: {error}");
            exit(2);
        }
    };
    let Err(failure) = carry_out(&agent);
    // If the agent is gone, so is the one who could want to know.
    let _ = agent.tell(&Event::Failed(failure));
    exit(1)
}

fn carry_out(agent: &Agent) -> Result<Infallible> {
    // No process of a container that this one joins may look into it, or reach the agent's files through it.
    set_dumpable(false).context(|| "unable to set dumpable".into())?;
    match agent.request()? {
        (Request::Create(request), None) => create(agent, &request),
        (Request::Exec(request), Some(container)) => join(agent, &request, container),
        _ => Err(Failure::invalid(
            "the first request must be Create, or Exec with the pidfd of the container's init",
        )),
    }
}

/// Makes a container and becomes its init.
fn create(agent: &Agent, request: &Create) -> Result<Infallible> {
    let spec = &request.spec;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Failure::invalid("process is missing"))?;
    set_up(agent, request, process).context(|| "error during container init".into())?;
    let mut program = Program::new(process, spec).prepare(agent.descriptors())?;
    agent.tell(&Event::Ready).context(|| "tell the agent".into())?;
    agent.wait_for_start()?;
    match hooks::of(spec) {
        [] => {}
        hooks => {
            program.run_hooks(hooks, &request.hook_state)?;
            agent.tell(&Event::HooksDone).context(|| "tell the agent".into())?;
        }
    }
    program.execute()
}

fn set_up(agent: &Agent, request: &Create, process: &Process) -> Result<()> {
    let spec = &request.spec;
    let procfs = Procfs::open()?;
    refuse_labels(process)?;
    set_oom_score(process.oom_score_adj(), &procfs)?;
    use_power(spec, process)?;
    let has_network = namespaces::enter(spec, &procfs)?.contains(CloneFlags::CLONE_NEWNET);
    if has_network {
        agent.give_network()?;
    }
    continue_in_child(agent)?;
    keyring::join(&request.container)?;
    let rootfs = Rootfs::build(spec, agent.descriptors())?;
    rootfs.enter(spec)?;
    if process.terminal().unwrap_or(false) {
        let console = open_console(agent, rootfs.tree(), process, request.window)?;
        console.bind_to_dev(rootfs.tree())?;
        console.take()?;
    }
    rootfs.seal(spec)?;
    if has_network {
        agent.wait_for_network()?;
    }
    // Some may be of an interface.
    sysctl::set(spec.linux().as_ref(), &procfs)
}

/// Joins a container and becomes one more process of it.
fn join(agent: &Agent, request: &Exec, container: OwnedFd) -> Result<Infallible> {
    let Exec {
        container: id,
        process,
        spec,
        window,
    } = request;
    join_container(agent, spec, process, container)
        .and_then(|()| keyring::join(id))
        .and_then(|()| attach_streams(agent, spec, process, *window))
        .context(|| "error during container init".into())?;
    Program::new(process, spec).prepare(agent.descriptors())?.execute()
}

fn join_container(agent: &Agent, spec: &Spec, process: &Process, container: OwnedFd) -> Result<()> {
    refuse_labels(process)?;
    let container_score = || spec.process().as_ref().and_then(Process::oom_score_adj);
    set_oom_score(process.oom_score_adj().or_else(container_score), &Procfs::open()?)?;
    limits::set_final_affinity(process, spec.process().as_ref())?;
    use_power(spec, process)?;
    namespaces::join_container(spec.linux().as_ref(), container)?;
    continue_in_child(agent)
}

/// Does what takes a power that a process loses with the entry into a user namespace.
fn use_power(spec: &Spec, process: &Process) -> Result<()> {
    let linux = spec.linux().as_ref();
    if !user_namespace::is_listed(linux) {
        return Ok(());
    }
    limits::make_room(limits::rlimits(process, spec.process().as_ref()))?;
    let (user, group) = user_namespace::guest_root(linux)
        .ok_or_else(|| Failure::invalid("linux: the container's root is not mapped"))?;
    streams::give_to(user, Some(group))
}

fn attach_streams(agent: &Agent, spec: &Spec, process: &Process, window: Option<WindowSize>) -> Result<()> {
    let root = tree::open_in(
        AT_FDCWD,
        "/".as_ref(),
        OFlag::O_PATH | OFlag::O_DIRECTORY,
        ResolveFlag::empty(),
    );
    let tree = Tree::new(root.context(|| "open /".into())?);
    if process.terminal().unwrap_or(false) {
        open_console(agent, &tree, process, window)?.take()
    } else if user_namespace::is_listed(spec.linux().as_ref()) {
        // The guest's null device is none that the container's root could change.
        Ok(())
    } else {
        let null = devices::null_device(&tree).or_else(|_| devices::unshared_null_device())?;
        streams::replace_nulls(null.as_fd(), agent.descriptors())
    }
}

fn open_console(agent: &Agent, tree: &Tree, process: &Process, window: Option<WindowSize>) -> Result<Console> {
    let console = Console::open(tree, window_size(process, window))?;
    agent
        .give_console(console.master.as_fd())
        .context(|| "give the console to the agent".into())?;
    Ok(console)
}

/// Goes on in a child, which a new or joined pid namespace takes to begin, as the leader of a session of its own.
///
/// The agent learns the child's pid before the child does anything.
fn continue_in_child(agent: &Agent) -> Result<()> {
    let (gate, opener) = pipe2(OFlag::O_CLOEXEC).context(|| "pipe".into())?;
    // SAFETY: this process has one thread only, so the child's memory is in no intermediate state.
    match unsafe { fork() }.context(|| "fork".into())? {
        ForkResult::Parent { child } => {
            let told = agent
                .tell(&Event::Pid(child.as_raw() as u32))
                .and_then(|()| Ok(write(opener, &[0])?));
            exit(i32::from(told.is_err()))
        }
        ForkResult::Child => {
            drop(opener);
            if read(gate, &mut [0]) != Ok(1) {
                exit(1);
            }
            setsid().map(drop).context(|| "setsid".into())
        }
    }
}

/// Children inherit it, and here the /proc to write it to is still the agent's.
fn set_oom_score(score: Option<i32>, procfs: &Procfs) -> Result<()> {
    match score {
        Some(score) => procfs.write(&format!("{}/oom_score_adj", std::process::id()), &score.to_string()),
        None => Ok(()),
    }
}

/// The guest's kernel has neither of the two, and a process that is to be confined must not run without.
fn refuse_labels(process: &Process) -> Result<()> {
    let asked = |label: &Option<String>| label.as_deref().is_some_and(|label| !label.is_empty());
    if asked(process.apparmor_profile()) {
        return Err(Failure::invalid(
            "apparmor profile is specified in config, but apparmor is disabled or not supported",
        ));
    }
    if asked(process.selinux_label()) {
        return Err(Failure::invalid(
            "selinux label is specified in config, but selinux is disabled or not supported",
        ));
    }
    Ok(())
}

/// The other end of the socket.
struct Agent {
    socket: OwnedFd,
}

impl Agent {
    fn inherited(socket: RawFd) -> nix::Result<Self> {
        // SAFETY: the descriptor is only looked at, and one that is not open is an error.
        let unknown = unsafe { BorrowedFd::borrow_raw(socket) };
        fcntl(unknown, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // SAFETY: it is open, and nothing else in this process knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(Self { socket })
    }

    /// How many descriptors, from 0 on, are the process's own.
    fn descriptors(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    fn request(&self) -> Result<(Request, Option<OwnedFd>)> {
        protocol::receive_with_fd(self.socket.as_fd())
            .and_then(|request| request.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()))
            .context(|| "receive the agent's request".into())
    }

    fn wait_for_start(&self) -> Result<()> {
        match protocol::receive(self.socket.as_fd()).context(|| "wait for the agent's Start".into())? {
            Some(Request::Start) => Ok(()),
            Some(_) => Err(Failure::invalid("only Start may follow Create")),
            // The container is deleted without having been started.
            None => exit(1),
        }
    }

    /// Gives the network namespace that has just been made to the agent, which furnishes it while this goes on: to move a
    /// device is to wait for a grace period of the kernel's, 12 ms.
    fn give_network(&self) -> Result<()> {
        let namespace = open("/proc/self/ns/net", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
            .context(|| "open the network namespace".into())?;
        protocol::send_with_fd(self.socket.as_fd(), &Event::Network, namespace.as_fd())
            .context(|| "give the network namespace to the agent".into())
    }

    /// Waits until the interfaces are there.
    fn wait_for_network(&self) -> Result<()> {
        match protocol::receive(self.socket.as_fd()).context(|| "wait for the network".into())? {
            Some(Request::NetworkReady) => Ok(()),
            Some(_) => Err(Failure::invalid("only NetworkReady may follow the network namespace")),
            // The network cannot be had, and the container is given up.
            None => exit(1),
        }
    }

    fn tell(&self, event: &Event) -> io::Result<()> {
        protocol::send(self.socket.as_fd(), event)
    }

    fn give_console(&self, master: BorrowedFd) -> io::Result<()> {
        protocol::send_with_fd(self.socket.as_fd(), &Event::Console, master)
    }
}
