//! The standard streams of a process: pipes, or the master of a pty, of which the agent holds the host's side.
//!
//! A stream is lent to one caller at a time and outlives his connection: when the host reconnects, it reads on.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
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

/// Which pipes a process gets; a stream not asked for is /dev/null, and a terminal replaces all three.
#[derive(Clone, Copy, Default)]
pub struct Plan {
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What becomes file descriptors 0, 1 and 2 of the process.
pub struct ChildEnds(pub [OwnedFd; 3]);

/// The host's side of the streams of one process.
#[derive(Default)]
pub struct Streams {
    input: Option<Arc<Mutex<Input>>>,
    output: Option<Arc<Mutex<Option<Output>>>>,
    errors: Option<Arc<Mutex<Option<Output>>>>,
    terminal: Option<Arc<Watched>>,
    /// Its end tells readers and writers that the process is forgotten.
    life: watch::Sender<()>,
}

enum Input {
    Pipe(Watched),
    Terminal(Arc<Watched>),
    Closed,
}

enum Output {
    Pipe(Watched),
    Terminal(Arc<Watched>),
}

/// Which of the two streams that a process writes.
#[derive(Clone, Copy)]
pub enum Source {
    Stdout,
    Stderr,
}

/// Makes the pipes of a process.
pub fn open(plan: Plan) -> Result<(ChildEnds, Streams)> {
    let attempt = || -> io::Result<(ChildEnds, Streams)> {
        let wants = |stream: bool| stream && !plan.terminal;
        let mut streams = Streams::default();
        let stdin = match wants(plan.stdin) {
            true => {
                let (child, ours) = pipe2(OFlag::O_CLOEXEC)?;
                let pipe = watch_fd(prepared(ours)?, Interest::WRITABLE | Interest::ERROR)?;
                streams.input = Some(Arc::new(Mutex::new(Input::Pipe(pipe))));
                child
            }
            false => File::open("/dev/null")?.into(),
        };
        let (stdout, output) = open_output(wants(plan.stdout))?;
        let (stderr, errors) = open_output(wants(plan.stderr))?;
        (streams.output, streams.errors) = (output, errors);
        Ok((ChildEnds([stdin, stdout, stderr]), streams))
    };
    attempt().map_err(|error| Error::kernel("make the pipes of a process", error))
}

/// The child's end of an output stream, and ours: nothing after [`Streams::close_output`].
type OutputEnds = (OwnedFd, Option<Arc<Mutex<Option<Output>>>>);

fn open_output(wanted: bool) -> io::Result<OutputEnds> {
    if !wanted {
        return Ok((File::options().write(true).open("/dev/null")?.into(), None));
    }
    let (ours, child) = pipe2(OFlag::O_CLOEXEC)?;
    let pipe = watch_fd(prepared(ours)?, Interest::READABLE)?;
    Ok((child, Some(Arc::new(Mutex::new(Some(Output::Pipe(pipe)))))))
}

/// Our end of a pipe: large, and never blocking.
fn prepared(pipe: OwnedFd) -> io::Result<File> {
    // A smaller pipe serves as well: the limit of all pipes of the user may be reached.
    let _ = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_SIZE));
    not_blocking(pipe)
}

impl Streams {
    /// Takes the master of the pty that `init` has opened.
    pub fn set_terminal(&mut self, master: OwnedFd) -> Result<()> {
        let terminal = not_blocking(master)
            .and_then(|master| watch_fd(master, Interest::READABLE | Interest::WRITABLE))
            .map_err(|error| Error::kernel("prepare the terminal", error))?;
        let terminal = Arc::new(terminal);
        self.input = Some(Arc::new(Mutex::new(Input::Terminal(terminal.clone()))));
        self.output = Some(Arc::new(Mutex::new(Some(Output::Terminal(terminal.clone())))));
        self.terminal = Some(terminal);
        Ok(())
    }

    /// Lends the stdin.
    pub fn writer(&self, exit: Exit) -> Result<Writer> {
        let input = self.input.clone().ok_or_else(|| missing("stdin"))?;
        let input = input.try_lock_owned().map_err(|_| busy("stdin", "written"))?;
        Ok(Writer {
            input,
            exit,
            life: self.life.subscribe(),
        })
    }

    /// Lends the stdout or the stderr.
    pub fn reader(&self, source: Source, exit: Exit) -> Result<Reader> {
        let (name, output) = self.output(source)?;
        let output = output.try_lock_owned().map_err(|_| busy(name, "read"))?;
        let output = OwnedMutexGuard::try_map(output, Option::as_mut).map_err(|_| missing(name))?;
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

    /// Gives up the host's end of a pipe, once the last reader has given it back: to write there fails from then on.
    pub async fn close_output(&self, source: Source) -> Result<()> {
        let (name, output) = self.output(source)?;
        let mut output = output.lock_owned().await;
        match *output {
            Some(Output::Terminal(_)) => Err(Error::FailedPrecondition(format!("the process's {name} is a terminal"))),
            Some(Output::Pipe(_)) | None => {
                *output = None;
                Ok(())
            }
        }
    }

    fn output(&self, source: Source) -> Result<(&'static str, Arc<Mutex<Option<Output>>>)> {
        let (name, output) = match source {
            Source::Stdout => ("stdout", &self.output),
            Source::Stderr => ("stderr", &self.errors),
        };
        Ok((name, output.clone().ok_or_else(|| missing(name))?))
    }

    /// Sets the terminal's window size; the foreground processes get SIGWINCH.
    pub fn resize(&self, size: WindowSize) -> Result<()> {
        let terminal = self.terminal.as_ref().ok_or_else(|| missing("terminal"))?;
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

fn missing(name: &str) -> Error {
    Error::FailedPrecondition(format!("the process has no {name}"))
}

fn busy(name: &str, action: &str) -> Error {
    Error::FailedPrecondition(format!("the process's {name} is being {action} by another call"))
}

/// The stdin of a process, lent.
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
            let mut ready = ready.map_err(|error| Error::kernel("wait for a stdin", error))?;
            match ready.try_io(|fd| fd.get_ref().write(&data[written..])) {
                Ok(Ok(length)) => written += length,
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // EPIPE of a pipe, EIO of a terminal: nobody reads.
                Ok(Err(error)) if matches!(error.raw_os_error(), Some(libc::EPIPE | libc::EIO)) => {
                    self.close();
                    break;
                }
                Ok(Err(error)) => return Err(Error::kernel("write to a stdin", error)),
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
        if matches!(*self.input, Input::Pipe(_)) {
            *self.input = Input::Closed;
        }
    }
}

impl Input {
    fn fd(&self) -> Option<&Watched> {
        match self {
            Self::Pipe(pipe) => Some(pipe),
            Self::Terminal(terminal) => Some(terminal),
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

/// The stdout or the stderr of a process, lent.
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
            Self::Terminal(terminal) => terminal,
        }
    }
}
