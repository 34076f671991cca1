//! The standard streams of the process, and what else it is given.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::stat::fstat;
use nix::unistd::{Gid, Uid, fchown};

use super::failure::{Context, Result};
use super::tree::is_character_device;

const STREAMS: [RawFd; 3] = [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO];

/// Puts a null device of the container where the agent has put the guest's, whose mode and owner the container could
/// change through it.
///
/// `descriptors` is how many the process is given, from 0 on.
pub fn replace_nulls(null: BorrowedFd, descriptors: RawFd) -> Result<()> {
    for stream in 0..descriptors {
        if is_null(stream)? {
            replace(stream, null)?;
        }
    }
    Ok(())
}

/// Puts a file in the place of a stream.
fn replace(stream: RawFd, file: BorrowedFd) -> Result<()> {
    // SAFETY: no object of this process owns the descriptors of the standard streams.
    let result = unsafe { libc::dup2(file.as_raw_fd(), stream) };
    Errno::result(result)
        .map(drop)
        .context(|| format!("dup2 onto stream {stream}"))
}

/// Puts a terminal in the place of all three.
pub fn replace_all(terminal: BorrowedFd) -> Result<()> {
    STREAMS.iter().try_for_each(|stream| replace(*stream, terminal))
}

/// Gives the streams to the user, and to the group if it is to change, who may then open them anew by /dev/stdout and
/// /proc/self/fd.
pub fn give_to(user: Uid, group: Option<Gid>) -> Result<()> {
    for stream in STREAMS {
        let file = borrow(stream);
        let status = fstat(file).context(|| format!("stat stream {stream}"))?;
        if status.st_uid == user.as_raw() || is_null(stream)? {
            continue;
        }
        match fchown(file, Some(user), group.or(Some(Gid::from_raw(status.st_gid)))) {
            // A file system that is read-only or knows no owners: the stream works nevertheless.
            Ok(()) | Err(Errno::EINVAL | Errno::EPERM | Errno::EROFS) => {}
            failed => failed.context(|| format!("chown stream {stream}"))?,
        }
    }
    Ok(())
}

fn is_null(stream: RawFd) -> Result<bool> {
    let status = fstat(borrow(stream)).context(|| format!("stat stream {stream}"))?;
    Ok(is_character_device(&status, 1, 3))
}

fn borrow(stream: RawFd) -> BorrowedFd<'static> {
    // SAFETY: the standard streams stay open for the process's life; they are only ever replaced.
    unsafe { BorrowedFd::borrow_raw(stream) }
}
