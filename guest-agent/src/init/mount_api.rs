//! The kernel's file-descriptor-based mount interface (fsopen(2), open_tree(2), move_mount(2), mount_setattr(2)).
//!
//! No mount is made by path, so none can be led astray by a symbolic link that appears between a check and its use.

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::NixPath;
use nix::errno::Errno;
use nix::libc::{self, c_int, c_uint, c_ulong};
use nix::mount::MsFlags;
use nix::unistd::read;

/// Attributes of a mount, `MOUNT_ATTR_*`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Attributes {
    /// To be set.
    pub set: u64,
    /// To be cleared; what is in both is set.
    pub clear: u64,
}

/// Only the mount itself, or those below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount.
    One,
    /// This mount and all that are mounted below it.
    Recursive,
}

/// A detached copy of what is visible at a path: the source of a bind mount. Automounts are triggered.
pub fn clone_tree(path: &Path, depth: Depth) -> nix::Result<OwnedFd> {
    open_tree(libc::AT_FDCWD, path, 0, depth)
}

/// A detached copy of what is visible at a file.
pub fn clone_tree_at(file: BorrowedFd, depth: Depth) -> nix::Result<OwnedFd> {
    open_tree(file.as_raw_fd(), Path::new(""), libc::AT_EMPTY_PATH as c_uint, depth)
}

fn open_tree(directory: RawFd, path: &Path, flags: c_uint, depth: Depth) -> nix::Result<OwnedFd> {
    let recursive = match depth {
        Depth::One => 0,
        Depth::Recursive => libc::AT_RECURSIVE as c_uint,
    };
    let flags = flags | recursive | libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    path.with_nix_path(|path| {
        // SAFETY: the path is a C string that outlives the call.
        owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
    })?
}

/// Attaches a detached mount onto a file or a directory.
pub fn attach(mount: BorrowedFd, target: BorrowedFd) -> nix::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are static C strings.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Gives a mount, and without `MS_BIND` its file system, the flags of mount(2) and no others. Needs the guest's own /proc.
pub fn remount(mount: BorrowedFd, flags: MsFlags, data: &str) -> nix::Result<()> {
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    let (source, kind, data) = (None::<&str>, None::<&str>, Some(data).filter(|data| !data.is_empty()));
    nix::mount::mount(source, path.as_str(), kind, flags | MsFlags::MS_REMOUNT, data)
}

/// Changes the attributes of a mount.
pub fn set_attributes(mount: BorrowedFd, attributes: Attributes, depth: Depth) -> nix::Result<()> {
    if attributes == Attributes::default() {
        return Ok(());
    }
    // The access time's mode is a field of values, of which 0 is relatime, and no set of bits.
    let mut clear = attributes.clear & !attributes.set;
    if (attributes.set | attributes.clear) & libc::MOUNT_ATTR__ATIME != 0 {
        clear |= libc::MOUNT_ATTR__ATIME;
    }
    mount_setattr(
        mount,
        libc::mount_attr {
            attr_set: attributes.set,
            attr_clr: clear,
            propagation: 0,
            userns_fd: 0,
        },
        depth,
    )
}

/// Changes the propagation of a mount, to one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE` and `MS_UNBINDABLE`.
pub fn set_propagation(mount: BorrowedFd, propagation: c_ulong, depth: Depth) -> nix::Result<()> {
    mount_setattr(
        mount,
        libc::mount_attr {
            attr_set: 0,
            attr_clr: 0,
            propagation,
            userns_fd: 0,
        },
        depth,
    )
}

fn mount_setattr(mount: BorrowedFd, attributes: libc::mount_attr, depth: Depth) -> nix::Result<()> {
    let flags = match depth {
        Depth::One => libc::AT_EMPTY_PATH,
        Depth::Recursive => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: the path is a static C string, and the attributes outlive the call, which is told their size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    Errno::result(result).map(drop)
}

/// A file system in the making.
pub struct Filesystem {
    context: OwnedFd,
}

impl Filesystem {
    /// Starts to configure a file system of the given type.
    pub fn open(kind: &str) -> nix::Result<Self> {
        let kind = c_string(kind)?;
        // SAFETY: the type is a C string that outlives the call.
        let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
        Ok(Self { context })
    }

    /// Sets an option without a value, e.g. `ro`.
    pub fn flag(&self, key: &str) -> nix::Result<()> {
        self.configure(libc::FSCONFIG_SET_FLAG, Some(&c_string(key)?), None)
    }

    /// Sets an option with a value, e.g. `size` to `64k`. The kernel takes at most 255 bytes.
    pub fn string(&self, key: &str, value: &str) -> nix::Result<()> {
        self.configure(
            libc::FSCONFIG_SET_STRING,
            Some(&c_string(key)?),
            Some(&c_string(value)?),
        )
    }

    /// Makes the file system, and a detached mount of it.
    pub fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        self.configure(libc::FSCONFIG_CMD_CREATE, None, None)?;
        // SAFETY: no pointer is passed.
        owned(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.context.as_raw_fd(),
                libc::FSMOUNT_CLOEXEC,
                attributes as c_uint,
            )
        })
    }

    /// What the file system itself says about its last failure, in a few words.
    pub fn explanation(&self) -> Option<String> {
        let mut message = [0; 256];
        let length = read(&self.context, &mut message).ok()?;
        let text = String::from_utf8_lossy(&message[..length]);
        // A letter tells the kind of message: "e tmpfs: Bad value for 'size'".
        text.strip_prefix("e ").map(|text| text.trim_end().to_owned())
    }

    fn configure(&self, command: c_uint, key: Option<&CString>, value: Option<&CString>) -> nix::Result<()> {
        let pointer = |text: Option<&CString>| text.map_or(std::ptr::null(), |text| text.as_ptr());
        let none: c_int = 0;
        // SAFETY: key and value are null or C strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.context.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                none,
            )
        };
        Errno::result(result).map(drop)
    }
}

fn c_string(text: &str) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn owned(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the system call has just made this descriptor, and nothing else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
