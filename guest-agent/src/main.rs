//! The guest agent: PID 1 of a vruntime virtual machine.
//!
//! One executable with two lives. As PID 1 it prepares the guest ([`boot`]) and serves the host ([`server`]) over one
//! byte stream ([`channel`]), in one thread. Re-executed as `init`, it is single-threaded and becomes a process of a
//! container ([`init`]).
//!
//! The way of a request: `server` -> `services` -> `container`, `process`, `stdio`, `events` -> {`launch`, `network` -> `names`,
//! `cgroup`, `stats`, `notify`, `held`, `ps`} ->
//! {`reaper`, `log`}.

#![cfg_attr(not(test), no_main)]

mod boot;
mod bpf;
mod cgroup;
mod channel;
mod container;
mod device_filter;
mod error;
mod events;
mod fd;
mod held;
mod init;
mod launch;
mod log;
mod loopback;
mod names;
mod network;
mod notify;
mod process;
mod ps;
mod reaper;
mod resources;
mod scheduling;
mod server;
mod services;
mod stats;
mod status;
mod stdio;
mod wish;

use std::ffi::OsString;
use std::path::PathBuf;

use nix::libc::c_int;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::channel::Channel;

const USAGE: &str = "\
vruntime-agent is PID 1 of a vruntime guest, and is started by the guest's kernel.
Outside of one, for its own tests: vruntime-agent --listen-unix SOCKET --cgroup-root DIRECTORY";

/// How the agent was started.
enum Role {
    Guest,
    Test { socket: PathBuf, cgroup_root: PathBuf },
}

/// Entry, called by the C library. What Rust's own start does before is done here or not needed: it ignores SIGPIPE, and
/// reads /proc/self/maps for the end of the stack, which each process of a container would wait for.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main() -> c_int {
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigIgn) }.expect("SIGPIPE can be ignored");
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Before a runtime or a thread exists: the process of a container is made of this one.
    if arguments.first().is_some_and(|verb| verb == "init") {
        if let Err(error) = scheduling::ordinary() {
            log::warning(&format!("a process keeps the agent's scheduling policy: {error}"));
        }
        let socket = arguments.get(1).and_then(|number| number.to_str()?.parse().ok());
        init::run(socket.unwrap_or(-1));
    }
    match Role::from(&arguments) {
        Some(Role::Guest) => run_guest(),
        Some(Role::Test { socket, cgroup_root }) => run_test(socket, cgroup_root),
        None => {
            eprintln!("{USAGE}");
            2
        }
    }
}

impl Role {
    fn from(arguments: &[OsString]) -> Option<Self> {
        if std::process::id() == 1 {
            return Some(Self::Guest);
        }
        match arguments {
            [listen, socket, root, directory] if listen == "--listen-unix" && root == "--cgroup-root" => {
                Some(Self::Test {
                    socket: socket.into(),
                    cgroup_root: directory.into(),
                })
            }
            _ => None,
        }
    }
}

/// The guest's life. PID 1 must not return: the kernel would panic without a word about the cause.
fn run_guest() -> c_int {
    let init_usec = boot::uptime_usec();
    std::panic::set_hook(Box::new(|panic| log::error(&format!("panic: {panic}"))));
    match boot::prepare() {
        Ok(channel) => {
            boot::record_start(init_usec);
            serve(channel, boot::CGROUP_ROOT.into());
        }
        Err(error) => log::error(&format!("the guest cannot be prepared: {error}")),
    }
    boot::power_off()
}

/// The same server outside of a guest. Orphans come to it as they come to PID 1.
fn run_test(socket: PathBuf, cgroup_root: PathBuf) -> c_int {
    match set_child_subreaper(true)
        .map_err(Into::into)
        .and_then(|()| cgroup::prepare_root(&cgroup_root))
    {
        Ok(()) => serve(Channel::Unix(socket), cgroup_root),
        Err(error) => {
            log::error(&format!("{} cannot be prepared: {error}", cgroup_root.display()));
            1
        }
    }
}

fn serve(channel: Channel, cgroup_root: PathBuf) -> c_int {
    match server::run(channel, cgroup_root) {
        Ok(()) => 0,
        Err(error) => {
            log::error(&format!("the host cannot be served: {error}"));
            1
        }
    }
}
