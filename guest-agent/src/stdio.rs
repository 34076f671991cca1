//! The descriptors of a process that lead to the host: pipes, sockets, or the master of a pty, of which the agent holds
//! the other side. Each is named by the process's own number of it.
//!
//! A stream is lent to one caller at a time and outlives his connection: when the host reconnects, it reads on.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::sys::socket::{Shutdown, shutdown};
use nix::unistd::pipe2;
use tokio::io::Interest;
use tokio::sync::{Mutex, OwnedMappedMutexGuard, OwnedMutexGuard, watch};

use crate::error::{Error, Result};
use crate::fd::{Watched, not_blocking, read_into, watch as watch_fd};
use crate::init::protocol::WindowSize;
use crate::reaper::Exit;

/// The most that one message of output carries, in bytes.
pub const MAX_CHUNK: usize = 256 << 10;

/// Less room than this is not worth a read.
const MIN_CHUNK: usize = 32 << 10;

/// Capacity of a pipe: as much as an unprivileged process could ask for, so that a process is seldom stopped.
const PIPE_SIZE: i32 = 1 << 20;

/// The standard streams by their numbers.
pub const STDIN: u32 = 0;
pub const STDOUT: u32 = 1;

/// How many descriptors are the standard streams, which a terminal replaces.
pub const STANDARD: usize = 3;

/// What a descriptor of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// /dev/null.
    Null,
    /// A pipe that the process reads.
    Input,
    /// A pipe that the process writes.
    Output,
    /// A connected socket.
    Socket,
}

/// What becomes the file descriptors of the process, from 0 on.
pub struct ChildEnds(pub Vec<OwnedFd>);

/// The host's side of the descriptors of one process, by their numbers.
#[derive(Default)]
pub struct Streams {
    inputs: HashMap<u32, Arc<Mutex<Input>>>,
    /// Nothing after [`Streams::close_output`].
    outputs: HashMap<u32, Arc<Mutex<Option<Output>>>>,
    terminal: Option<Arc<Watched>>,
    /// Its end tells readers and writers that the process is forgotten.
    life: watch::Sender<()>,
}

enum Input {
    Pipe(Watched),
    Socket(Arc<Watched>),
    Terminal(Arc<Watched>),
    Closed,
}

enum Output {
    Pipe(Watched),
    Socket(Arc<Watched>),
    Terminal(Arc<Watched>),
}

/// Makes the descriptors of a process, of these kinds, from 0 on.
pub fn open(kinds: &[Kind]) -> Result<(ChildEnds, Streams)> {
    let mut streams = Streams::default();
    let ends = (0..).zip(kinds).map(|(number, kind)| streams.open(number, *kind));
    match ends.collect::<io::Result<_>>() {
        Ok(ends) => Ok((ChildEnds(ends), streams)),
        Err(error) => Err(Error::kernel("make the pipes of a process", error)),
    }
}

/// Our end of a pipe: large, and never blocking.
fn prepared(pipe: OwnedFd) -> io::Result<File> {
    // A smaller pipe serves as well: the limit of all pipes of the user may be reached.
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    not_blocking(pipe)
}

impl Streams {
    /// Makes one descriptor, and keeps our side; the process's.
    fn open(&mut self, number: u32, kind: Kind) -> io::Result<OwnedFd> {
        Ok(match kind {
            Kind::Null => File::options().read(true).write(true).open("/dev/null")?.into(),
            Kind::Input => {
                let (child, ours) = pipe2(OFlag::O_CLOEXEC)?;
                let pipe = watch_fd(prepared(ours)?, Interest::WRITABLE | Interest::ERROR)?;
                self.add_input(number, Input::Pipe(pipe));
                child
            }
            Kind::Output => {
                let (ours, child) = pipe2(OFlag::O_CLOEXEC)?;
                let pipe = watch_fd(prepared(ours)?, Interest::READABLE)?;
                self.add_output(number, Output::Pipe(pipe));
                child
            }
            Kind::Socket => {
                let (ours, child) = UnixStream::pair()?;
                let socket = watch_fd(not_blocking(ours.into())?, Interest::READABLE | Interest::WRITABLE)?;
                let socket = Arc::new(socket);
                self.add_input(number, Input::Socket(socket.clone()));
                self.add_output(number, Output::Socket(socket));
                child.into()
            }
        })
    }

    fn add_input(&mut self, number: u32, input: Input) {
        self.inputs.insert(number, Arc::new(Mutex::new(input)));
    }

    fn add_output(&mut self, number: u32, output: Output) {
        self.outputs.insert(number, Arc::new(Mutex::new(Some(output))));
    }

    /// Takes the master of the pty that `init` has opened.
    pub fn set_terminal(&mut self, master: OwnedFd) -> Result<()> {
        let terminal = not_blocking(master)
            .and_then(|master| watch_fd(master, Interest::READABLE | Interest::WRITABLE))
            .map_err(|error| Error::kernel("prepare the terminal", error))?;
        let terminal = Arc::new(terminal);
        self.add_input(STDIN, Input::Terminal(terminal.clone()));
        self.add_output(STDOUT, Output::Terminal(terminal.clone()));
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Lends a descriptor that the process reads.
    pub fn writer(&self, number: u32, exit: Exit) -> Result<Writer> {
        let input = self.inputs.get(&number).ok_or_else(|| missing(number, "input"))?;
        let input = input.clone().try_lock_owned().map_err(|_| busy(number, "written"))?;
        Ok(Writer {
            input,
            exit,
            life: self.life.subscribe(),
        })
    }

    /// Lends a descriptor that the process writes.
    pub fn reader(&self, number: u32, exit: Exit) -> Result<Reader> {
        let output = self
            .output(number)?
            .try_lock_owned()
            .map_err(|_| busy(number, "read"))?;
        let output = OwnedMutexGuard::try_map(output, Option::as_mut).map_err(|_| missing(number, "output"))?;
        let buffer = BytesMut::new();
        Ok(Reader {
            output,
            exit,
            life: self.life.subscribe(),
            buffer,
            ended: false,
            told: false,
        })
    }

    /// Gives up the host's end of an output, once the last reader has given it back: to write there fails from then on.
    pub async fn close_output(&self, number: u32) -> Result<()> {
        let mut output = self.output(number)?.lock_owned().await;
        match &*output {
            Some(Output::Terminal(_)) => {
                let message = format!("the process's descriptor {number} is a terminal");
                return Err(Error::FailedPrecondition(message));
            }
            Some(Output::Socket(socket)) => shut_down(socket, Shutdown::Read),
            Some(Output::Pipe(_)) | None => {}
        }
        *output = None;
        Ok(())
    }

    fn output(&self, number: u32) -> Result<Arc<Mutex<Option<Output>>>> {
        let output = self.outputs.get(&number).ok_or_else(|| missing(number, "output"))?;
        Ok(output.clone())
    }

    /// Sets the terminal's window size; the foreground processes get SIGWINCH.
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        let no_terminal = || Error::FailedPrecondition("the process has no terminal".to_owned());
        let terminal = self.terminal.as_ref().ok_or_else(no_terminal)?;
        let size = libc::winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: TIOCSWINSZ reads a winsize, which lives through the call.
        let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) };
        nix::errno::Errno::result(result)
            .map(drop)
            .map_err(|error| Error::kernel("resize the terminal", error))
    }
}

fn missing(number: u32, direction: &str) -> Error {
    Error::FailedPrecondition(format!("the process has no {direction} at descriptor {number}"))
}

fn busy(number: u32, action: &str) -> Error {
    Error::FailedPrecondition(format!(
        "the process's descriptor {number} is being {action} by another call"
    ))
}

/// Ends one direction of a socket, unless the process has ended it already.
fn shut_down(socket: &Watched, direction: Shutdown) {
    let _ = shutdown(socket.as_raw_fd(), direction);
}

/// A descriptor that a process reads, lent.
pub struct Writer {
    input: OwnedMutexGuard<Input>,
    exit: Exit,
    life: watch::Receiver<()>,
}

impl Writer {
    /// Writes all, or until nobody is left to read: the number of bytes written.
    pub async fn write(&mut self, data: &[u8]) -> Result<usize> {
        let mut written = 0;
        while written < data.len() {
            let Some(fd) = self.input.fd() else { break };
            let ready = tokio::select! {
                biased;
                ready = fd.ready(Interest::WRITABLE) => ready,
                () = abandoned(&self.input, &mut self.exit, &mut self.life) => break,
            };
            let mut ready = ready.map_err(|error| Error::kernel("wait for a reader", error))?;
            match ready.try_io(|fd| fd.get_ref().write(&data[written..])) {
                Ok(Ok(length)) => written += length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EPIPE of a pipe or socket, EIO of a terminal: nobody reads.
                Ok(Err(error)) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EIO)) => {
                    self.close();
                    break;
                }
                Ok(Err(error)) => return Err(Error::kernel("write to a process", error)),
                Err(_would_block) => {}
            }
        }
        Ok(written)
    }

    /// Waits until nobody is left to read.
    pub async fn abandoned(&mut self) {
        abandoned(&self.input, &mut self.exit, &mut self.life).await;
    }

    /// Ends the input. A terminal stays as it is: there is no end of file on its line but the user's Ctrl-D.
    pub fn close(&mut self) {
        match &*self.input {
            Input::Terminal(_) => return,
            Input::Socket(socket) => shut_down(socket, Shutdown::Write),
            Input::Pipe(_) | Input::Closed => {}
        }
        *self.input = Input::Closed;
    }
}

impl Input {
    fn fd(&self) -> Option<&Watched> {
        match self {
            Self::Pipe(pipe) => Some(pipe),
            Self::Socket(shared) | Self::Terminal(shared) => Some(shared),
            Self::Closed => None,
        }
    }
}

/// Waits until nobody reads an input any more: the pipe has lost its last reader, or the terminal its process.
async fn abandoned(input: &Input, exit: &mut Exit, life: &mut watch::Receiver<()>) {
    let lost = async {
        match input {
            Input::Pipe(pipe) => drop(pipe.ready(Interest::ERROR).await),
            Input::Terminal(_) => drop(exit.wait().await),
            // The next write finds out.
            Input::Socket(_) => std::future::pending().await,
            Input::Closed => {}
        }
    };
    tokio::select! {
        () = lost => {}
        () = forgotten(life) => {}
    }
}

/// Waits until the process is forgotten.
async fn forgotten(life: &mut watch::Receiver<()>) {
    while life.changed().await.is_ok() {}
}

/// A descriptor that a process writes, lent.
pub struct Reader {
    output: OwnedMappedMutexGuard<Option<Output>, Output>,
    exit: Exit,
    life: watch::Receiver<()>,
    buffer: BytesMut,
    /// The process has ended.
    ended: bool,
    /// The caller knows that he has all of what the process itself wrote.
    told: bool,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Bytes),
    /// The process has ended, and all that it wrote has been read.
    ProcessEnded,
    /// Nobody holds the stream any more.
    End,
}

enum Attempt {
    Data,
    Nothing,
    End,
}

impl Reader {
    /// The next piece. That the process has ended is told once, after the last of its data: what it wrote is in the pipe
    /// (or in the terminal's buffer) by then, so who reads until nothing is there has read all of it.
    pub async fn next(&mut self) -> Result<Piece> {
        loop {
            match self.read()? {
                Attempt::Data => return Ok(Piece::Data(self.buffer.split().freeze())),
                Attempt::End => return Ok(Piece::End),
                Attempt::Nothing if self.ended && !self.told => {
                    self.told = true;
                    return Ok(Piece::ProcessEnded);
                }
                Attempt::Nothing => {}
            }
            tokio::select! {
                biased;
                ready = self.output.fd().readable() => {
                    ready.map_err(|error| Error::kernel("wait for output", error))?.retain_ready();
                }
                _ = self.exit.wait(), if !self.ended => self.ended = true,
                () = forgotten(&mut self.life) => return Ok(Piece::End),
            }
        }
    }

    /// Reads what is there, up to a chunk: a terminal gives it in small parts.
    fn read(&mut self) -> Result<Attempt> {
        // A block of memory serves for many small pieces.
        if self.buffer.capacity() < MIN_CHUNK {
            self.buffer.reserve(MAX_CHUNK);
        }
        let limit = self.buffer.capacity().min(MAX_CHUNK);
        while self.buffer.len() < limit {
            match self.read_once(limit) {
                Ok(0) => return Ok(self.outcome(Attempt::End)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(self.outcome(Attempt::Nothing)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // All holders of the terminal have closed it.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(self.outcome(Attempt::End)),
                Err(error) => return Err(Error::kernel("read the output of a process", error)),
            }
        }
        Ok(Attempt::Data)
    }

    fn read_once(&mut self, limit: usize) -> io::Result<usize> {
        let fd = self.output.fd();
        if self.ended && !self.told {
            // Asks the kernel itself: the runtime may not know yet of what the process wrote last.
            return read_into(fd.get_ref(), &mut self.buffer, limit);
        }
        fd.try_io(Interest::READABLE, |file| read_into(file, &mut self.buffer, limit))
    }

    /// What has been read before comes first; the outcome will be met again.
    fn outcome(&self, empty: Attempt) -> Attempt {
        if self.buffer.is_empty() { empty } else { Attempt::Data }
    }
}

impl Output {
    fn fd(&self) -> &Watched {
        match self {
            Self::Pipe(pipe) => pipe,
            Self::Socket(shared) | Self::Terminal(shared) => shared,
        }
    }
}
