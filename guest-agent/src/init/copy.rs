//! Copies a directory's content, for tmpfs mounts that start with what they cover (the option `tmpcopyup`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::tree::file_type;

/// Copies what is in `source` into `target`: types, contents, owners, modes and times. Symbolic links are copied, never
/// followed.
pub fn copy_directory(source: OwnedFd, target: BorrowedFd) -> io::Result<()> {
    let mut directory = Dir::from_fd(source)?;
    let mut names = Vec::new();
    for entry in directory.iter() {
        names.push(entry?.file_name().to_owned());
    }
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let name = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
            name.to_bytes(),
        ));
        copy_entry(directory.as_fd(), target, name)?;
    }
    Ok(())
}

fn copy_entry(source: BorrowedFd, target: BorrowedFd, name: &Path) -> io::Result<()> {
    let status = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    match file_type(&status) {
        SFlag::S_IFDIR => {
            mkdirat(target, name, Mode::S_IRWXU)?;
            let [from, to] = [source, target].map(|directory| open(directory, name, OFlag::O_DIRECTORY, Mode::empty()));
            copy_directory(from?, to?.as_fd())?;
        }
        SFlag::S_IFREG => copy_file(source, target, name)?,
        SFlag::S_IFLNK => symlinkat(readlinkat(source, name)?.as_os_str(), target, name)?,
        kind => mknodat(target, name, kind, Mode::S_IRUSR, status.st_rdev)?,
    }
    copy_metadata(target, name, &status)
}

fn copy_file(source: BorrowedFd, target: BorrowedFd, name: &Path) -> io::Result<()> {
    let mut from = File::from(open(source, name, OFlag::O_NONBLOCK, Mode::empty())?);
    let mut to = File::from(open(
        target,
        name,
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL,
        Mode::S_IRUSR,
    )?);
    io::copy(&mut from, &mut to).map(drop)
}

fn copy_metadata(target: BorrowedFd, name: &Path, status: &FileStat) -> io::Result<()> {
    let (owner, group) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
    fchownat(target, name, Some(owner), Some(group), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if file_type(status) == SFlag::S_IFREG || file_type(status) == SFlag::S_IFDIR {
        // After the owner, whose change clears setuid and setgid.
        fchmod(
            open(target, name, OFlag::empty(), Mode::empty())?,
            Mode::from_bits_truncate(status.st_mode),
        )?;
    }
    let accessed = TimeSpec::new(status.st_atime, status.st_atime_nsec);
    let modified = TimeSpec::new(status.st_mtime, status.st_mtime_nsec);
    utimensat(target, name, &accessed, &modified, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

fn open(directory: BorrowedFd, name: &Path, flags: OFlag, mode: Mode) -> nix::Result<OwnedFd> {
    openat(directory, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, mode)
}
