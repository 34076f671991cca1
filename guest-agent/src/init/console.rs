//! The terminal of the process: a pty of the container's own devpts.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, ResolveFlag, openat};
use nix::libc::{self, c_int};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use oci_spec::runtime::Process;

use super::failure::{Context, Result};
use super::mount_api::{self, Depth};
use super::protocol::{Failure, WindowSize};
use super::streams;
use super::tree::{Tree, file_type, is_character_device, open_in};

nix::ioctl_write_ptr_bad!(set_lock, libc::TIOCSPTLCK, c_int);
nix::ioctl_write_int_bad!(open_peer, libc::TIOCGPTPEER);
nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(set_controlling, libc::TIOCSCTTY);

/// A pty of a container.
pub struct Console {
    /// The agent's end.
    pub master: OwnedFd,
    terminal: OwnedFd,
}

/// The size that the terminal starts with, if any is asked for.
pub fn window_size(process: &Process, default: Option<WindowSize>) -> Option<WindowSize> {
    let limited = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    let asked = process.console_size();
    asked
        .map(|size| WindowSize {
            rows: limited(size.height()),
            columns: limited(size.width()),
        })
        .or(default)
}

impl Console {
    /// Opens a new pty in the container's /dev/pts.
    ///
    /// Something of the container's author in its place could have the agent talk to a terminal, or any other file,
    /// that is none of the container's (CVE-2025-52565).
    pub fn open(tree: &Tree, size: Option<WindowSize>) -> Result<Self> {
        let master = open_multiplexer(tree).context(|| "open the pty multiplexer /dev/pts/ptmx".into())?;
        let (device, unlocked) = (master.as_raw_fd(), 0);
        // SAFETY: the integer outlives the call.
        unsafe { set_lock(device, &raw const unlocked) }.context(|| "unlock the pty".into())?;
        if let Some(size) = size {
            let size = libc::winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // SAFETY: the structure outlives the call.
            unsafe { set_size(device, &raw const size) }.context(|| "set the size of the pty".into())?;
        }
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        // Not by its name in /dev/pts, which may be mounted over.
        // SAFETY: the argument is no pointer.
        let terminal = unsafe { open_peer(device, flags.bits()) }.context(|| "open the pty's terminal".into())?;
        // SAFETY: the kernel has just made this descriptor.
        let terminal = unsafe { OwnedFd::from_raw_fd(terminal) };
        Ok(Self { master, terminal })
    }

    /// Shows the terminal as the container's /dev/console.
    pub fn bind_to_dev(&self, tree: &Tree) -> Result<()> {
        let target = console_file(tree).context(|| "open /dev/console".into())?;
        let terminal =
            mount_api::clone_tree_at(self.terminal.as_fd(), Depth::One).context(|| "bind the terminal".into())?;
        mount_api::attach(terminal.as_fd(), target.as_fd()).context(|| "mount /dev/console".into())
    }

    /// Makes it the controlling terminal of this session, and its standard streams.
    pub fn take(&self) -> Result<()> {
        // SAFETY: the argument is no pointer.
        unsafe { set_controlling(self.terminal.as_raw_fd(), 0) }.context(|| "set the controlling terminal".into())?;
        streams::replace_all(self.terminal.as_fd())
    }
}

fn open_multiplexer(tree: &Tree) -> Result<OwnedFd> {
    let dev = tree.find(Path::new("/dev")).context(|| "open /dev".into())?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let multiplexer = open_in(
        dev.as_fd(),
        Path::new("pts/ptmx"),
        flags,
        ResolveFlag::RESOLVE_NO_SYMLINKS,
    )
    .context(|| "open".into())?;
    let status = fstat(&multiplexer).context(|| "stat".into())?;
    let filesystem = fstatfs(&multiplexer).context(|| "statfs".into())?;
    if filesystem.filesystem_type() != DEVPTS_SUPER_MAGIC || !is_character_device(&status, 5, 2) {
        return Err(Failure::kernel("it is not the multiplexer of a devpts"));
    }
    Ok(multiplexer)
}

/// The regular file in the container's /dev that the terminal is mounted onto, made if missing.
fn console_file(tree: &Tree) -> Result<OwnedFd> {
    let dev = tree.find(Path::new("/dev")).context(|| "open /dev".into())?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&dev, "console", flags, Mode::from_bits_truncate(0o666)) {
        Ok(_) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno).context(|| "create".into()),
    }
    let found = open_in(
        dev.as_fd(),
        Path::new("console"),
        OFlag::O_PATH,
        ResolveFlag::RESOLVE_NO_SYMLINKS,
    )
    .context(|| "open".into())?;
    let status = fstat(&found).context(|| "stat".into())?;
    match file_type(&status) {
        SFlag::S_IFREG | SFlag::S_IFCHR => Ok(found),
        _ => Err(Failure::kernel("it is no file that the terminal could be mounted onto")),
    }
}
