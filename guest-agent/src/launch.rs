//! Makes the process of a container: starts `init` and follows its account, as [`crate::init::protocol`] defines it.

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::init::hooks;
use crate::init::protocol::{self, Event, Request};
use crate::network::Namespace;
use crate::network::wanted::Network;
use crate::reaper::{Exit, Expectation, Reaper};
use crate::scheduling;
use crate::stdio::{self, ChildEnds, Kind, Streams};

/// How long `init` may take for all of its preparations, and to execute the program.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long a killed process may take to end.
const END_DEADLINE: Duration = Duration::from_secs(5);

/// A process that `init` has made: running its program after Exec, waiting for its start after Create.
pub struct Launched {
    pub pid: Pid,
    pub exit: Exit,
    pub streams: Streams,
    pub conversation: Conversation,
    /// The network namespace that was made.
    pub network: Option<Namespace>,
}

/// Where a process is made.
pub struct Place<'a> {
    pub reaper: &'a Arc<Reaper>,
    pub cgroup: &'a Cgroup,
    /// The container's init, which a further process joins.
    pub init: Option<Pid>,
    /// The CPUs to be on until the cgroup has been joined (`execCPUAffinity.initial`).
    pub cpus: Option<&'a str>,
    /// What a network namespace that is made begins with.
    pub network: Option<&'a Network>,
}

/// Makes a process, in the container's cgroup from its first instruction on. When that fails, nothing of it is left.
pub async fn launch(place: Place<'_>, request: &Request, descriptors: &[Kind]) -> Result<Launched> {
    let expectation = place.reaper.expect();
    let (ends, streams) = stdio::open(descriptors)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(cannot_start)?;
    let stage = spawn_init(&ends, theirs.as_fd()).map_err(cannot_start)?;
    drop((ends, theirs));
    let mut birth = Birth {
        reaper: place.reaper,
        pids: vec![stage],
        exit: expectation.claim(stage),
        streams,
        network: None,
    };
    let result = match Conversation::new(ours) {
        Ok(conversation) => {
            let work = birth.complete(&place, &expectation, conversation, request);
            within(Some(DEADLINE), work).await
        }
        Err(error) => Err(cannot_start(error)),
    };
    match result {
        Ok(conversation) => {
            let Birth {
                pids,
                exit,
                streams,
                network,
                ..
            } = birth;
            Ok(Launched {
                pid: pids[pids.len() - 1],
                exit,
                streams,
                conversation,
                network,
            })
        }
        Err(error) => {
            birth.abandon().await;
            Err(error)
        }
    }
}

/// A process on its way.
struct Birth<'a> {
    reaper: &'a Reaper,
    /// The process that was started, and the one that goes on.
    pids: Vec<Pid>,
    /// The end of the last of them.
    exit: Exit,
    streams: Streams,
    network: Option<Namespace>,
}

impl Birth<'_> {
    async fn complete(
        &mut self,
        place: &Place<'_>,
        expectation: &Expectation,
        mut conversation: Conversation,
        request: &Request,
    ) -> Result<Conversation> {
        if let Some(cpus) = place.cpus {
            scheduling::set_affinity(self.pids[0], cpus)
                .map_err(|errno| Error::kernel(format!("set the CPU affinity to {cpus}"), errno))?;
        }
        place.cgroup.add(self.pids[0], place.init)?;
        let init = place.init.map(open_pidfd).transpose()?;
        conversation.send(request, init).await?;
        loop {
            match conversation.receive().await? {
                Some((Event::Pid(pid), _)) => {
                    let pid = Pid::from_raw(pid as i32);
                    self.pids.push(pid);
                    self.exit = expectation.claim(pid);
                }
                Some((Event::Network, Some(namespace))) => {
                    self.furnish(namespace, place).await?;
                    // Init has gone on meanwhile. If it has failed, why is still to be read.
                    let _ = conversation.send(&Request::NetworkReady, None).await;
                }
                Some((Event::Network, None)) => return Err(broken("a network without a namespace")),
                Some((Event::Console, Some(master))) => self.streams.set_terminal(master)?,
                Some((Event::Console, None)) => return Err(broken("a console without a terminal")),
                Some((Event::Ready, _)) if self.pids.len() > 1 => return Ok(conversation),
                Some((Event::Ready, _)) => return Err(broken("ready without a process")),
                Some((Event::HooksDone, _)) => return Err(broken("hooks before the start")),
                Some((Event::Failed(failure), _)) => return Err(failure.into()),
                // After Exec, and with the process known, the end of the stream is its execve.
                None if place.init.is_some() && self.pids.len() > 1 => return Ok(conversation),
                None => return Err(died(self.exit.wait().await)),
            }
        }
    }

    async fn furnish(&mut self, namespace: OwnedFd, place: &Place<'_>) -> Result<()> {
        let (None, Some(wanted)) = (&self.network, place.network) else {
            return Err(broken("a network at an unexpected time"));
        };
        let namespace = self.network.insert(Namespace::new(namespace, place.cgroup.path()));
        namespace.bring_to(wanted.clone()).await
    }

    /// Kills what has been made, waits until it has ended, and has its network devices back.
    async fn abandon(mut self) {
        for pid in &self.pids {
            // It may have ended by itself.
            let _ = self.reaper.signal(*pid, libc::SIGKILL);
        }
        if tokio::time::timeout(END_DEADLINE, self.exit.wait()).await.is_err() {
            crate::log::warning("a killed process that was being set up has not ended");
        }
        if let Some(network) = self.network
            && let Err(error) = network.give_devices_back().await
        {
            crate::log::warning(&format!(
                "the network devices of a container that was given up: {error:?}"
            ));
        }
    }
}

/// Lets a created process execute its program, after its startContainer hooks.
pub async fn start(mut conversation: Conversation, spec: &Spec) -> Result<()> {
    let deadline = hooks::time_limit(spec).and_then(|hooks| hooks.checked_add(DEADLINE));
    let mut has_hooks = !hooks::of(spec).is_empty();
    within(deadline, async {
        conversation.send(&Request::Start, None).await?;
        loop {
            match conversation.receive().await? {
                None if has_hooks => return Err(Error::Internal("the process ended before its hooks had".into())),
                None => return Ok(()),
                Some((Event::HooksDone, _)) if has_hooks => has_hooks = false,
                Some((Event::Failed(failure), _)) => return Err(failure.into()),
                Some(_) => return Err(broken("an event after the start")),
            }
        }
    })
    .await
}

async fn within<T>(deadline: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(deadline) = deadline else { return work.await };
    tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
        Err(Error::Internal(format!(
            "the process has not been set up within {} s",
            deadline.as_secs()
        )))
    })
}

/// Starts this executable once more, as `init`, with the signals as a new program expects them.
fn spawn_init(ChildEnds(ends): &ChildEnds, socket: BorrowedFd) -> io::Result<Pid> {
    let number = ends.len() as RawFd;
    // Above all of their targets, so that none is overwritten that is still needed.
    let given = ends.iter().map(AsFd::as_fd).chain([socket]);
    let given: Vec<OwnedFd> = given.map(|fd| dup_above(fd, number)).collect::<io::Result<_>>()?;
    let mut actions = PosixSpawnFileActions::init()?;
    for (target, fd) in (0..).zip(&given) {
        actions.add_dup2(fd.as_raw_fd(), target)?;
    }
    let number = CString::new(number.to_string()).expect("a number has no nul");

    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    attributes.set_sigmask(&SigSet::empty())?;

    let no_environment: [&std::ffi::CStr; 0] = [];
    Ok(posix_spawn(
        c"/proc/self/exe",
        &actions,
        &attributes,
        &[c"vruntime-agent", c"init", &number],
        &no_environment,
    )?)
}

fn dup_above(fd: BorrowedFd, number: RawFd) -> io::Result<OwnedFd> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(number + 1))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn open_pidfd(pid: Pid) -> Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes no pointers.
    match unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) } {
        -1 => Err(Error::kernel(format!("open process {pid}"), io::Error::last_os_error())),
        // SAFETY: the kernel has just made this descriptor for us.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
    }
}

fn cannot_start(error: io::Error) -> Error {
    Error::kernel("start a process", error)
}

fn died(exit_code: u8) -> Error {
    Error::Internal(format!(
        "the process died while it was set up, with exit code {exit_code}"
    ))
}

/// The agent's end of the socket to an `init`.
pub struct Conversation {
    socket: UnixStream,
    fds: VecDeque<OwnedFd>,
}

impl Conversation {
    fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixStream::from_std(socket)?,
            fds: VecDeque::new(),
        })
    }

    async fn send(&mut self, request: &Request, fd: Option<OwnedFd>) -> Result<()> {
        let frame = protocol::encode(request).map_err(cannot_talk)?;
        let mut sent = self.send_some(&frame, fd.as_slice()).await?;
        while sent < frame.len() {
            sent += self.send_some(&frame[sent..], &[]).await?;
        }
        Ok(())
    }

    async fn send_some(&self, data: &[u8], fds: &[OwnedFd]) -> Result<usize> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights: &[ControlMessage] = if raw.is_empty() {
            &[]
        } else {
            &[ControlMessage::ScmRights(&raw)]
        };
        let send = || {
            let content = [io::IoSlice::new(data)];
            Ok(sendmsg::<()>(
                self.socket.as_raw_fd(),
                &content,
                rights,
                MsgFlags::MSG_NOSIGNAL,
                None,
            )?)
        };
        self.socket
            .async_io(Interest::WRITABLE, send)
            .await
            .map_err(cannot_talk)
    }

    /// The next event, and the descriptor that came with it; None when `init` has closed its end.
    async fn receive(&mut self) -> Result<Option<(Event, Option<OwnedFd>)>> {
        let mut header = [0; protocol::HEADER];
        if !self.receive_exactly(&mut header).await? {
            return Ok(None);
        }
        let mut body = vec![0; protocol::body_length(header).map_err(cannot_talk)?];
        if !self.receive_exactly(&mut body).await? {
            return Ok(None);
        }
        let event = protocol::decode(&body).map_err(cannot_talk)?;
        Ok(Some((event, self.fds.pop_front())))
    }

    /// Fills the buffer; false when the stream ends before.
    async fn receive_exactly(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.receive_some(&mut buffer[filled..]).await.map_err(cannot_talk)? {
                0 => return Ok(false),
                length => filled += length,
            }
        }
        Ok(true)
    }

    async fn receive_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { socket, fds } = self;
        let receive = || {
            let mut space = nix::cmsg_space!([RawFd; 1]);
            let mut content = [io::IoSliceMut::new(buffer)];
            let message = recvmsg::<()>(
                socket.as_raw_fd(),
                &mut content,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )?;
            for control in message.cmsgs()? {
                if let ControlMessageOwned::ScmRights(received) = control {
                    // SAFETY: the kernel has just made these descriptors for us.
                    fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            Ok(message.bytes)
        };
        match socket.async_io(Interest::READABLE, receive).await {
            // The process died with a request unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            result => result,
        }
    }
}

fn broken(what: &str) -> Error {
    Error::Internal(format!("init broke the protocol: {what}"))
}

fn cannot_talk(error: io::Error) -> Error {
    Error::kernel("talk to init", error)
}
