//! Writes to the guest's own /proc.
//!
//! All that is written to a /proc is written to that of the agent, opened before the container's root is entered: in its
//! place no container can put another file (CVE-2025-52881).

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, ResolveFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};

use super::failure::{Context, Result};
use super::protocol::Failure;
use super::tree::open_in;

/// The guest's /proc.
pub struct Procfs(OwnedFd);

impl Procfs {
    /// Opens it.
    pub fn open() -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open("/proc", flags, Mode::empty()).context(|| "open /proc".into())?;
        let filesystem = fstatfs(&directory).context(|| "statfs /proc".into())?;
        if filesystem.filesystem_type() != PROC_SUPER_MAGIC {
            return Err(Failure::kernel("/proc is not of type proc"));
        }
        Ok(Self(directory))
    }

    /// Writes a file below /proc at one go.
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
        let file = open_in(self.0.as_fd(), Path::new(path), OFlag::O_WRONLY, resolve)
            .context(|| format!("open /proc/{path}"))?;
        File::from(file)
            .write_all(value.as_bytes())
            .context(|| format!("write /proc/{path}"))
    }
}
