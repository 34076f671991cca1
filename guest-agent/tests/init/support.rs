//! Plays the agent to `vruntime-agent init`: starts it, speaks the protocol, collects what the process writes.
//!
//! These tests make namespaces and mounts, so they need root; they leave nothing behind on the host.

// The agent uses other parts of it.
#[allow(dead_code)]
#[path = "../../src/init/protocol.rs"]
pub mod protocol;

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use oci_spec::runtime::{Process, Spec};
use serde_json::{Value, json};

use protocol::{Create, Event, Exec, Failure, Request, WindowSize};

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: &[&str] = &[
    "cat", "chmod", "echo", "env", "false", "grep", "head", "hostname", "id", "kill", "ls", "mkdir", "mount", "pwd",
    "readlink", "sh", "sleep", "sort", "stat", "stty", "touch", "true", "tty",
];

/// A bundle with a root file system of busybox, removed at its end.
pub struct Bundle {
    directory: PathBuf,
    /// The configuration, to be changed by the test.
    pub config: Value,
}

impl Bundle {
    /// With what `runc spec` writes, but for the cgroup mount (hosts may have cgroup v1) and the network namespace.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("vruntime-init-{}-{number}", std::process::id()));
        let bundle = Self {
            config: default_config(&directory),
            directory,
        };
        bundle.make_root().expect("a root file system with busybox");
        bundle
    }

    /// The root file system's directory.
    pub fn root(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// A path beside the root file system, for mounts' sources.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Sets the program.
    pub fn run(mut self, arguments: &[&str]) -> Self {
        self.config["process"]["args"] = json!(arguments);
        self
    }

    /// Sets the program to a script of the container's shell.
    pub fn script(self, script: &str) -> Self {
        self.run(&["sh", "-c", script])
    }

    /// Sets a part of the configuration, by its JSON pointer.
    pub fn set(mut self, pointer: &str, value: Value) -> Self {
        let (parent, name) = pointer.rsplit_once('/').expect("a JSON pointer");
        self.config.pointer_mut(parent).expect("the part's parent")[name] = value;
        self
    }

    /// Adds a mount.
    pub fn mount(mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> Self {
        let mount = json!({"destination": destination, "type": kind, "source": source, "options": options});
        self.config["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    /// Replaces the mounts.
    pub fn without_mount(mut self, destination: &str) -> Self {
        let mounts = self.config["mounts"].as_array_mut().expect("mounts");
        mounts.retain(|mount| mount["destination"] != destination);
        self
    }

    /// The configuration as the agent passes it on.
    pub fn spec(&self) -> Spec {
        serde_json::from_value(self.config.clone()).expect("a configuration")
    }

    /// What the program writes to stdout and stderr, when run by runc on the same bundle. `None` without runc.
    pub fn run_by_runc(&self) -> Option<Outcome> {
        fs::write(self.directory.join("config.json"), self.config.to_string()).expect("write config.json");
        let id = self.directory.file_name().expect("a name");
        let output = Command::new("runc")
            .arg("run")
            .arg(id)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .output();
        let output = output.ok()?;
        let text = [output.stdout, output.stderr].concat();
        let code = output.status.code().expect("an exit code");
        Some(Outcome {
            code,
            output: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    fn make_root(&self) -> io::Result<()> {
        let root = self.root();
        for directory in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
        fs::copy(BUSYBOX, root.join("bin/busybox"))?;
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet))?;
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        )
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn default_config(directory: &Path) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "ambient": capabilities
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": directory.join("rootfs"), "readonly": false},
        "hostname": "container",
        "mounts": [
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
        }
    })
}

/// How a program ended, and what it wrote.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit code, or 128 and the signal's number.
    pub code: i32,
    /// What it wrote to stdout and stderr, or to its terminal.
    pub output: String,
}

/// A process that `init` has become, or is to become. Killed at its end.
pub struct Started {
    /// In this process's pid namespace.
    pub pid: Pid,
    socket: UnixStream,
    stdout: Option<File>,
    /// The pty's master.
    pub console: Option<OwnedFd>,
    ended: bool,
}

/// Creates a container, up to Ready.
pub fn create(bundle: &Bundle) -> Result<Started, Failure> {
    let window = Some(WindowSize { rows: 40, columns: 100 });
    let request = Request::Create(Box::new(Create {
        container: "c".to_owned(),
        spec: bundle.spec(),
        window,
        hook_state: r#"{"id":"container","status":"created"}"#.into(),
    }));
    Started::launch(&request, None)
}

/// Runs a container to its end.
pub fn run(bundle: &Bundle) -> Result<Outcome, Failure> {
    let mut container = create(bundle)?;
    container.start()?;
    Ok(container.finish())
}

/// What the program of a container writes, if all goes well.
pub fn output(bundle: &Bundle) -> String {
    let outcome = run(bundle).expect("a container");
    assert_eq!(outcome.code, 0, "{}", outcome.output);
    outcome.output
}

/// Adds a process to a running container.
pub fn exec(bundle: &Bundle, container: &Started, process: Value) -> Result<Started, Failure> {
    let process: Process = serde_json::from_value(process).expect("a process");
    let request = Request::Exec(Box::new(Exec {
        container: "c".to_owned(),
        process,
        spec: bundle.spec(),
        window: None,
    }));
    Started::launch(&request, Some(open_pidfd(container.pid).as_fd()))
}

impl Started {
    fn launch(request: &Request, container: Option<BorrowedFd>) -> Result<Self, Failure> {
        become_subreaper();
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut started = Self {
            pid: spawn(&theirs, writer),
            socket: ours,
            stdout: Some(OwnedFd::from(reader).into()),
            console: None,
            ended: false,
        };
        drop(theirs);
        match container {
            Some(pidfd) => protocol::send_with_fd(started.socket.as_fd(), request, pidfd),
            None => protocol::send(started.socket.as_fd(), request),
        }
        .expect("send the request");
        started.follow(container.is_some()).map(|()| started)
    }

    /// Follows the events up to Ready, or for Exec to execve.
    fn follow(&mut self, is_exec: bool) -> Result<(), Failure> {
        loop {
            match protocol::receive_with_fd(self.socket.as_fd()).expect("an event") {
                Some((Event::Pid(pid), _)) => {
                    let stage = std::mem::replace(&mut self.pid, Pid::from_raw(pid as i32));
                    assert_eq!(waitpid(stage, None).expect("wait"), WaitStatus::Exited(stage, 0));
                }
                Some((Event::Network, namespace)) => {
                    assert!(namespace.is_some(), "no namespace");
                    protocol::send(self.socket.as_fd(), &Request::NetworkReady).expect("send NetworkReady");
                }
                Some((Event::Console, master)) => self.console = Some(master.expect("the pty's master")),
                Some((Event::Ready, _)) if !is_exec => return Ok(()),
                Some((Event::Failed(failure), _)) => return Err(failure),
                None if is_exec => return Ok(()),
                other => panic!("{other:?} at an unexpected time"),
            }
        }
    }

    /// Lets a created container execute its program.
    pub fn start(&mut self) -> Result<(), Failure> {
        protocol::send(self.socket.as_fd(), &Request::Start).expect("send Start");
        loop {
            match protocol::receive(self.socket.as_fd()).expect("the end of the stream") {
                None => return Ok(()),
                Some(Event::HooksDone) => {}
                Some(Event::Failed(failure)) => return Err(failure),
                Some(other) => panic!("{other:?} after Start"),
            }
        }
    }

    /// Reads what the process writes until it ends.
    pub fn finish(mut self) -> Outcome {
        let mut output = Vec::new();
        match self.console.take() {
            // EIO is a terminal's way to tell that nobody has it open any more.
            Some(master) => drop(File::from(master).read_to_end(&mut output)),
            None => drop(
                self.stdout
                    .take()
                    .expect("stdout")
                    .read_to_end(&mut output)
                    .expect("read stdout"),
            ),
        }
        let code = self.wait();
        Outcome {
            code,
            output: String::from_utf8_lossy(&output).into_owned(),
        }
    }

    /// Closes the agent's end of the socket.
    pub fn hang_up(&self) {
        self.socket.shutdown(std::net::Shutdown::Both).expect("shutdown");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("kill");
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> i32 {
        self.ended = true;
        match waitpid(self.pid, None).expect("wait") {
            WaitStatus::Exited(_, code) => code,
            WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// As PID 1 is in the guest: a container's process outlives the one that was started.
fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| nix::sys::prctl::set_child_subreaper(true).expect("become a subreaper"));
}

/// Behind the standard streams.
const SOCKET: i32 = 3;

#[expect(clippy::zombie_processes, reason = "it is waited for by its pid")]
fn spawn(socket: &UnixStream, output: io::PipeWriter) -> Pid {
    let socket = socket.as_raw_fd();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vruntime-agent"));
    command.args(["init", "3"]).env_clear().stdin(Stdio::null());
    command.stdout(output.try_clone().expect("dup")).stderr(output);
    // SAFETY: dup2 is safe to call between fork and exec.
    unsafe { command.pre_exec(move || inherit(socket, SOCKET)) };
    let child = command.spawn().expect("start init");
    Pid::from_raw(child.id() as i32)
}

fn inherit(fd: i32, number: i32) -> io::Result<()> {
    // SAFETY: no object owns the target, and the source stays open.
    let result = unsafe {
        if fd == number {
            libc::fcntl(fd, libc::F_SETFD, 0)
        } else {
            libc::dup2(fd, number)
        }
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn open_pidfd(pid: Pid) -> OwnedFd {
    // SAFETY: no pointer is passed, and the descriptor is fresh.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        assert!(fd >= 0, "pidfd_open: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd as i32)
    }
}
