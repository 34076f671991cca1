//! File descriptors as the agent's one thread uses them: never blocking, and watched by the runtime.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::BytesMut;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A file that the runtime watches.
pub type Watched = AsyncFd<File>;

/// Has a file watched. Outside of a runtime it panics.
pub fn watch(file: File, interest: Interest) -> io::Result<Watched> {
    // SAFETY: a File owns its descriptor, which stays the same and open as long as the File lives; nothing here takes
    // the File out of the AsyncFd or replaces it.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}

/// Makes reads and writes return instead of block.
pub fn not_blocking(fd: OwnedFd) -> io::Result<File> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(fd.into())
}

/// Reads once, behind what the buffer holds, at most up to `limit` bytes in all; the buffer must have that capacity.
pub fn read_into(file: &File, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
    let wanted = limit - buffer.len();
    let length = read_uninitialised(file, &mut buffer.spare_capacity_mut()[..wanted])?;
    // SAFETY: that many bytes have been written behind the buffer's length, within its capacity.
    unsafe { buffer.set_len(buffer.len() + length) };
    Ok(length)
}

/// Reads once into memory that need not be cleared for it: how many bytes of its beginning are valid now.
pub fn read_uninitialised(file: &File, memory: &mut [MaybeUninit<u8>]) -> io::Result<usize> {
    // SAFETY: the kernel writes at most `memory.len()` bytes, to memory that is ours alone.
    let length = unsafe { libc::read(file.as_raw_fd(), memory.as_mut_ptr().cast(), memory.len()) };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}
