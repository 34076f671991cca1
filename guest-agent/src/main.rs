//! The guest agent: PID 1 of a vruntime virtual machine.
//!
//! One executable with two lives. As PID 1 it prepares the guest ([`boot`]) and serves the host ([`server`]) over one
//! byte stream ([`channel`]), in one thread. Re-executed as `init`, it is single-threaded and becomes a process of a
//! container ([`init`]).
//!
//! The way of a request: `server` -> `services` -> `container`, `process`, `stdio` -> {`launch`, `cgroup`, `ps`} ->
//! {`reaper`, `log`}.

mod boot;
mod cgroup;
mod channel;
mod container;
mod device_filter;
mod error;
mod fd;
mod init;
mod launch;
mod log;
mod process;
mod ps;
mod reaper;
mod resources;
mod scheduling;
mod server;
mod services;
mod stdio;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, exit};

use nix::sys::prctl::set_child_subreaper;

use crate::channel::Channel;

const USAGE: &str = "\
vruntime-agent is PID 1 of a vruntime guest, and is started by the guest's kernel.
Outside of one, for its own tests: vruntime-agent --listen-unix SOCKET --cgroup-root DIRECTORY";

/// How the agent was started.
enum Role {
    Guest,
    Test { socket: PathBuf, cgroup_root: PathBuf },
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    // Before a runtime or a thread exists: the process of a container is made of this one.
    if arguments.first().is_some_and(|verb| verb == "init") {
        if let Err(error) = scheduling::ordinary() {
            log::warning(&format!("a process keeps the agent's scheduling policy: {error}"));
        }
        init::run();
    }
    match Role::from(&arguments) {
        Some(Role::Guest) => run_guest(),
        Some(Role::Test { socket, cgroup_root }) => run_test(socket, cgroup_root),
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
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
fn run_guest() -> ExitCode {
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
fn run_test(socket: PathBuf, cgroup_root: PathBuf) -> ExitCode {
    match set_child_subreaper(true)
        .map_err(Into::into)
        .and_then(|()| cgroup::prepare_root(&cgroup_root))
    {
        Ok(()) => serve(Channel::Unix(socket), cgroup_root),
        Err(error) => {
            log::error(&format!("{} cannot be prepared: {error}", cgroup_root.display()));
            ExitCode::FAILURE
        }
    }
}

fn serve(channel: Channel, cgroup_root: PathBuf) -> ExitCode {
    match server::run(channel, cgroup_root) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error(&format!("the host cannot be served: {error}"));
            exit(1)
        }
    }
}
