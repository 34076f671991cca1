//! What the agent and the process that becomes a container's say to each other before execve.
//!
//! The agent starts `/proc/self/exe init N` with the descriptors of the container's process as 0 to N-1 (with a terminal
//! the first three are /dev/null: the pty replaces them) and one end of a `SOCK_STREAM` socketpair as N.
//! It moves the process into the container's cgroup, and then sends one request:
//!
//! ```text
//! agent                                 init
//!   | --- Create, or Exec + pidfd -------> |   the pidfd is that of the container's init, as SCM_RIGHTS
//!   | <--------- Network + its namespace - |   only after Create, if a network namespace has been made
//!   | <-------------------------- Pid ---- |   the process that goes on; the one that was started exits with 0
//!   | <------------ Console + pty master - |   only if process.terminal
//!   | --- NetworkReady ------------------> |   only after Network, at any time: its interfaces are there
//!   | <------------------------- Ready --- |   only after Create: all is set up, the executable is there
//!   | --- Start -------------------------> |   only after Create
//!   | <--------------------- HooksDone --- |   only if there are startContainer hooks
//!   | <-------------- end of the stream -- |   execve has succeeded
//! ```
//!
//! `Failed` may come in place of any event of init's; nothing follows it, and the process exits with 1. An end of the
//! stream before execve was due means that the process died (killed, or out of memory). When the agent closes its end,
//! init exits.
//!
//! The process named by `Pid` is no child of the started one for long: that exits at once, so that the agent, as PID 1
//! (or as subreaper), becomes its parent. Its end may be seen before its `Failed` has been read.
//!
//! A message is a frame: its length as 4 bytes, little endian, then that many bytes of JSON. A file descriptor is
//! attached to the first byte of its frame, so a reader that takes whole frames never sees it with another message.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{read, write};
use oci_spec::runtime::{Process, Spec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The largest frame. The configuration and the process come in gRPC messages of at most 4 MiB each.
pub const MAX_FRAME: usize = 8 << 20;

/// Length of the frame's prefix.
pub const HEADER: usize = 4;

/// From the agent to init.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Set up a container and become its init.
    Create(Box<Create>),
    /// Join a container and become one more process of it. Carries the pidfd of the container's init.
    Exec(Box<Exec>),
    /// The network namespace has what it begins with.
    NetworkReady,
    /// Execute the program of the container that was created.
    Start,
}

/// A container to be made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Create {
    /// The container's id.
    pub container: String,
    /// The OCI configuration; its root.path and the sources of its bind mounts are paths of the guest.
    pub spec: Spec,
    /// The terminal's first size, if process.consoleSize gives none.
    pub window: Option<WindowSize>,
    /// The state, as JSON, that the startContainer hooks are told, but for the pid.
    pub hook_state: String,
}

/// A process to be added to a container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Exec {
    /// The container's id.
    pub container: String,
    /// The process; what it leaves open (capabilities, rlimits, noNewPrivileges, oomScoreAdj) is taken from the
    /// container's.
    pub process: Process,
    /// The container's configuration, as it was created.
    pub spec: Spec,
    /// The terminal's first size, if process.consoleSize gives none.
    pub window: Option<WindowSize>,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// From init to the agent.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The container's process, in the agent's pid namespace.
    Pid(u32),
    /// The network namespace that has been made is attached, and waits for its interfaces.
    Network,
    /// The pty's master is attached.
    Console,
    /// The container is set up, and its process waits for Start.
    Ready,
    /// The startContainer hooks have run.
    HooksDone,
    /// The end of it.
    Failed(Failure),
}

/// Why there is no container, or no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind of failure.
    pub reason: Reason,
    /// One line: what failed, on what, why; in runc's wording where runc has one.
    pub message: String,
}

/// What a [`Failure`] means to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// No such file, or not in PATH (`ExecutableError.NOT_FOUND`).
    NotFound,
    /// There, but not executable (`ExecutableError.NOT_EXECUTABLE`).
    NotExecutable,
    /// process.cwd is missing or cannot be entered (`ExecutableError.WORKING_DIRECTORY`).
    WorkingDirectory,
    /// Anything else that belongs to the process alone: user, rlimits, capabilities (`ExecutableError.SETUP`).
    Process,
    /// The request cannot be carried out as written (gRPC's `INVALID_ARGUMENT`).
    Invalid,
    /// An operation of the kernel failed: a namespace, a mount, a device (gRPC's `INTERNAL`).
    Kernel,
}

/// The frame of a message, ready to be written.
pub fn encode<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)?;
    let length = frame.len() - HEADER;
    if length > MAX_FRAME {
        return Err(invalid(format!(
            "a message of {length} bytes is over the limit of {MAX_FRAME}"
        )));
    }
    frame[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// How many bytes follow a header, if they may.
pub fn body_length(header: [u8; HEADER]) -> io::Result<usize> {
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME {
        return Err(invalid(format!(
            "a message of {length} bytes is over the limit of {MAX_FRAME}"
        )));
    }
    Ok(length)
}

/// The message in a frame's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    Ok(serde_json::from_slice(body)?)
}

/// Sends a message; blocks.
///
/// Only write(2) is called, which a seccomp filter hardly ever forbids: init speaks under the container's.
pub fn send<T: Serialize>(socket: BorrowedFd, message: &T) -> io::Result<()> {
    write_all(socket, &encode(message)?)
}

/// Sends a message with a file descriptor; blocks.
pub fn send_with_fd<T: Serialize>(socket: BorrowedFd, message: &T, fd: BorrowedFd) -> io::Result<()> {
    let frame = encode(message)?;
    let fds = [fd.as_raw_fd()];
    let sent = retry(|| {
        let content = [IoSlice::new(&frame)];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(socket.as_raw_fd(), &content, &rights, MsgFlags::MSG_NOSIGNAL, None)
    })?;
    write_all(socket, &frame[sent..])
}

/// Receives a message, `None` at the end of the stream; blocks. An attached file descriptor is closed.
///
/// Only read(2) is called; see [`send`].
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd) -> io::Result<Option<T>> {
    let mut header = [0; HEADER];
    match read_full(socket, &mut header)? {
        0 => Ok(None),
        HEADER => read_body(socket, header).map(Some),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Receives a message and the file descriptor attached to it, `None` at the end of the stream; blocks.
pub fn receive_with_fd<T: DeserializeOwned>(socket: BorrowedFd) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut header = [0; HEADER];
    let (length, fd) = receive_some(socket, &mut header)?;
    if length == 0 {
        return Ok(None);
    }
    if length + read_full(socket, &mut header[length..])? < HEADER {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((read_body(socket, header)?, fd)))
}

fn receive_some(socket: BorrowedFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 1]);
    let mut content = [IoSliceMut::new(buffer)];
    let message = retry(|| {
        recvmsg::<()>(
            socket.as_raw_fd(),
            &mut content,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .map(|message| {
            (
                message.bytes,
                message.cmsgs().map(|controls| received_fds(controls).next()),
            )
        })
    })?;
    let (length, fd) = message;
    Ok((length, fd?))
}

fn received_fds(controls: impl Iterator<Item = ControlMessageOwned>) -> impl Iterator<Item = OwnedFd> {
    controls
        .filter_map(|control| match control {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        // SAFETY: the kernel has just installed this descriptor for us, and nothing else knows of it.
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn read_body<T: DeserializeOwned>(socket: BorrowedFd, header: [u8; HEADER]) -> io::Result<T> {
    let mut body = vec![0; body_length(header)?];
    if read_full(socket, &mut body)? < body.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    decode(&body)
}

/// Fills the buffer, or as much of it as there is before the end of the stream.
fn read_full(socket: BorrowedFd, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match retry(|| read(socket.as_fd(), &mut buffer[filled..]))? {
            0 => break,
            length => filled += length,
        }
    }
    Ok(filled)
}

fn write_all(socket: BorrowedFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let written = retry(|| write(socket, data))?;
        data = &data[written..];
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
