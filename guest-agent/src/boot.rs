//! What PID 1 does before it serves: a root that containers can pivot away from, the kernel's file systems, cgroups, lo,
//! and the channel to the host. And the end: powering off.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};
use nix::time::{ClockId, clock_gettime};

use crate::channel::Channel;
use crate::{loopback, scheduling};

/// Where the cgroup v2 hierarchy is mounted in the guest.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The agent's own leaf: a cgroup with controllers for its children holds no processes.
const AGENT_CGROUP: &str = "/sys/fs/cgroup/agent";

/// The name of the virtio-serial port that leads to the host.
const PORT_NAME: &str = "vruntime.agent";

/// How long the kernel may take to announce the port.
const PORT_DEADLINE: Duration = Duration::from_secs(10);

/// What the guest is called before a container gives itself a name.
const HOSTNAME: &str = "vruntime";

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const NO_SUID_DEV: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const NO_SUID_DEV_EXEC: MsFlags = NO_SUID_DEV.union(MsFlags::MS_NOEXEC);
const NO_SUID_EXEC: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC);

/// The guest's own mounts, in order. Without `favordynmods` each move of a process to a cgroup, so each create and exec,
/// waits for an RCU grace period: 12 ms.
const MOUNTS: &[Mount] = &[
    Mount {
        kind: "proc",
        target: "/proc",
        flags: NO_SUID_DEV_EXEC,
        options: "",
    },
    Mount {
        kind: "sysfs",
        target: "/sys",
        flags: NO_SUID_DEV_EXEC,
        options: "",
    },
    Mount {
        kind: "devtmpfs",
        target: "/dev",
        flags: NO_SUID_EXEC,
        options: "mode=0755",
    },
    Mount {
        kind: "devpts",
        target: "/dev/pts",
        flags: NO_SUID_EXEC,
        options: "ptmxmode=0666,mode=0620,gid=5",
    },
    Mount {
        kind: "tmpfs",
        target: "/dev/shm",
        flags: NO_SUID_DEV,
        options: "mode=1777",
    },
    Mount {
        kind: "tmpfs",
        target: "/run",
        flags: NO_SUID_DEV,
        options: "mode=0755",
    },
    Mount {
        kind: "tmpfs",
        target: "/tmp",
        flags: NO_SUID_DEV,
        options: "mode=1777",
    },
    Mount {
        kind: "cgroup2",
        target: CGROUP_ROOT,
        flags: NO_SUID_DEV_EXEC,
        options: "nsdelegate,favordynmods",
    },
];

/// Microseconds from the kernel's start to main(), and to readiness.
#[derive(Clone, Copy, Default)]
pub struct StartTimes {
    pub init_usec: u64,
    pub ready_usec: u64,
}

static START_TIMES: OnceLock<StartTimes> = OnceLock::new();

/// Makes the guest ready for containers, and finds the way to the host.
pub fn prepare() -> io::Result<Channel> {
    leave_initial_root().map_err(|error| explained("move the root away from the initramfs", error))?;
    for entry in MOUNTS {
        entry.make()?;
    }
    prepare_cgroups()?;
    allow_overcommit()?;
    scheduling::batch().map_err(|error| explained("choose a scheduling policy", error))?;
    nix::unistd::sethostname(HOSTNAME).map_err(|error| explained("set the hostname", error))?;
    loopback::bring_up().map_err(|error| explained("bring up lo", error))?;
    find_channel()
}

/// Keeps when the agent began and when it became ready, for the host to ask for.
pub fn record_start(init_usec: u64) {
    START_TIMES.get_or_init(|| StartTimes {
        init_usec,
        ready_usec: uptime_usec(),
    });
}

/// When the agent began and became ready; zero outside of a guest.
pub fn start_times() -> StartTimes {
    START_TIMES.get().copied().unwrap_or_default()
}

/// Microseconds since the kernel started.
pub fn uptime_usec() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every kernel has a monotonic clock");
    now.tv_sec() as u64 * 1_000_000 + now.tv_nsec() as u64 / 1_000
}

/// Ends the virtual machine: the kernel command line makes a restart of the guest the end of QEMU.
pub fn power_off() -> libc::c_int {
    nix::unistd::sync();
    match reboot(RebootMode::RB_AUTOBOOT) {
        Ok(never) => match never {},
        Err(error) => {
            crate::log::error(&format!("the guest cannot be powered off: {error}"));
            1
        }
    }
}

impl Mount {
    fn make(&self) -> io::Result<()> {
        let attempt = || -> io::Result<()> {
            fs::create_dir_all(self.target)?;
            let options = Some(self.options).filter(|options| !options.is_empty());
            Ok(mount(
                Some(self.kind),
                self.target,
                Some(self.kind),
                self.flags,
                options,
            )?)
        };
        attempt().map_err(|error| explained(&format!("mount {} on {}", self.kind, self.target), error))
    }
}

/// Makes / a mount that has a parent: pivot_root(2) refuses to leave the initramfs itself, which has none.
fn leave_initial_root() -> io::Result<()> {
    const NEW_ROOT: &str = "/root";
    fs::create_dir_all(NEW_ROOT)?;
    mount(Some("/"), NEW_ROOT, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    nix::unistd::chdir(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    nix::unistd::chroot(".")?;
    Ok(nix::unistd::chdir("/")?)
}

/// Puts the agent into a leaf, and gives every controller to the containers.
fn prepare_cgroups() -> io::Result<()> {
    let attempt = || -> io::Result<()> {
        fs::create_dir_all(AGENT_CGROUP)?;
        fs::write(Path::new(AGENT_CGROUP).join("cgroup.procs"), "0")?;
        crate::cgroup::prepare_root(Path::new(CGROUP_ROOT))
    };
    attempt().map_err(|error| explained("set up the cgroups", error))
}

/// Memory that is asked for and not used costs nothing, and a limit counts what is used. The kernel refuses at once what
/// exceeds the machine's memory, which is hardly more than the container's limit; on a large host it would not.
fn allow_overcommit() -> io::Result<()> {
    fs::write("/proc/sys/vm/overcommit_memory", "1").map_err(|error| explained("let memory be overcommitted", error))
}

/// The channel that the kernel command line asks for: a virtio-serial port unless it says `vruntime.channel=vsock`.
fn find_channel() -> io::Result<Channel> {
    let command_line = fs::read_to_string("/proc/cmdline").map_err(|error| explained("read /proc/cmdline", error))?;
    match command_line
        .split_whitespace()
        .rev()
        .find_map(|word| word.strip_prefix("vruntime.channel="))
    {
        None | Some("serial") => await_port().map(Channel::Serial),
        Some("vsock") => Ok(Channel::Vsock),
        Some(other) => Err(io::Error::other(format!(
            "vruntime.channel={other}: neither serial nor vsock"
        ))),
    }
}

/// Waits until the kernel has announced the port to the host: its name comes later than the device itself.
fn await_port() -> io::Result<PathBuf> {
    let attempt = || -> io::Result<PathBuf> {
        let deadline = Instant::now() + PORT_DEADLINE;
        let events = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Listening comes before looking, so that no port appears in between.
        bind(events.as_raw_fd(), &NetlinkAddr::new(0, 1))?;
        loop {
            if let Some(port) = find_port() {
                return Ok(port);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if poll(
                &mut [PollFd::new(std::os::fd::AsFd::as_fd(&events), PollFlags::POLLIN)],
                timeout,
            )? == 0
            {
                return Err(io::Error::from(Errno::ETIMEDOUT));
            }
            while recv(events.as_raw_fd(), &mut [0; 4096], MsgFlags::empty()).is_ok() {}
        }
    };
    attempt().map_err(|error| explained(&format!("find the virtio-serial port {PORT_NAME}"), error))
}

fn find_port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports")
        .ok()?
        .flatten()
        .find_map(|port| {
            let name = fs::read_to_string(port.path().join("name")).ok()?;
            (name.trim_end() == PORT_NAME).then(|| Path::new("/dev").join(port.file_name()))
        })
}

fn explained(action: &str, error: impl Into<io::Error>) -> io::Error {
    let error = error.into();
    io::Error::new(error.kind(), format!("cannot {action}: {error}"))
}
