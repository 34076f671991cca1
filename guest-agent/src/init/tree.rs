//! The container's file tree, as seen from outside of it: every path is resolved as if the tree's root were the root.
//!
//! A path of the container never leaves the tree, whatever symbolic links its author or another process plants in it,
//! and what was found is held by a file descriptor, so it cannot be replaced between a check and its use.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, mkdirat};

use super::failure::{Context, Result};
use super::protocol::Failure;

/// How many components and dangling symbolic links are worked off to make one path: more than `PATH_MAX` has room for.
const MAX_STEPS: usize = 4096;

/// How often a path is resolved again that was renamed at the same time.
const MAX_ATTEMPTS: usize = 32;

/// A directory that is the root of all paths given to it.
pub struct Tree {
    root: OwnedFd,
}

/// What a missing mount point is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

impl Tree {
    /// The tree below a directory.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path as a reference (`O_PATH`): it can be looked at and mounted onto, but is not opened for input or
    /// output, which a device or FIFO could make harmful.
    pub fn find(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH)
    }

    /// Opens a path, whose symbolic links are followed within the tree.
    pub fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        open_in(
            self.root(),
            path,
            flags,
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        )
    }

    /// Opens a path as a reference, in which no symbolic link may occur.
    pub fn find_without_links(&self, path: &Path) -> nix::Result<OwnedFd> {
        open_in(
            self.root(),
            path,
            OFlag::O_PATH | OFlag::O_NOFOLLOW,
            ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS,
        )
    }

    /// Opens a path as a reference, and makes what is missing of it: directories with mode 0755, and at its end what
    /// `kind` tells. The target of a dangling symbolic link is made where the link leads to within the tree.
    pub fn find_or_make(&self, path: &Path, kind: Kind) -> Result<OwnedFd> {
        self.find_or_make_within(&mut MAX_STEPS.clone(), Path::new("/").join(path), kind)
    }

    fn find_or_make_within(&self, steps: &mut usize, mut path: PathBuf, kind: Kind) -> Result<OwnedFd> {
        while *steps > 0 {
            *steps -= 1;
            match self.find(&path) {
                Err(Errno::ENOENT) => {}
                result => return result.context(|| format!("open {}", path.display())),
            }
            let Some(parent) = path.parent() else {
                return Err(Errno::ENOENT).context(|| format!("open {}", path.display()));
            };
            let directory = self.find_or_make_within(steps, parent.to_owned(), Kind::Directory)?;
            // A `..` is there as soon as what it is in.
            let Some(name) = path.file_name() else { continue };
            if let Ok(target) = readlinkat(&directory, name) {
                path = parent.join(target);
                continue;
            }
            match make(directory.as_fd(), Path::new(name), kind) {
                Ok(()) | Err(Errno::EEXIST) => {}
                failed => failed.context(|| format!("mkdir {}", path.display()))?,
            }
        }
        Err(Errno::ELOOP).context(|| format!("open {}", path.display()))
    }

    /// Where a file of the tree is, as a path that begins at the tree's root. Fails for one that was moved out of it.
    /// Needs the guest's own /proc.
    pub fn path_of(&self, file: BorrowedFd) -> Result<PathBuf> {
        let [root, path] = [self.root(), file].map(|fd| {
            let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
            std::fs::read_link(&link).context(|| format!("readlink {link}"))
        });
        let path = path?;
        match path.strip_prefix(root?) {
            Ok(inside) => Ok(Path::new("/").join(inside)),
            Err(_) => Err(Failure::kernel(format!(
                "{} is outside of the container's root",
                path.display()
            ))),
        }
    }
}

/// Opens a path relative to a directory, again if it was moved around meanwhile.
pub fn open_in(directory: BorrowedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
    for _ in 0..MAX_ATTEMPTS {
        match openat2(directory, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN)
}

fn make(directory: BorrowedFd, name: &Path, kind: Kind) -> nix::Result<()> {
    match kind {
        Kind::Directory => mkdirat(directory, name, Mode::from_bits_truncate(0o755)),
        Kind::File => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            openat(directory, name, flags, Mode::from_bits_truncate(0o755)).map(drop)
        }
    }
}

/// Whether a file is a directory.
pub fn is_directory(status: &FileStat) -> bool {
    file_type(status) == SFlag::S_IFDIR
}

/// Whether a file is the character device of the given numbers.
pub fn is_character_device(status: &FileStat, major: u64, minor: u64) -> bool {
    file_type(status) == SFlag::S_IFCHR && status.st_rdev == nix::sys::stat::makedev(major, minor)
}

/// The type of a file.
pub fn file_type(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vruntime-tree-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("root")).unwrap();
            Self(path)
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        fn tree(&self) -> Tree {
            Tree::new(fs::File::open(self.root()).unwrap().into())
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn missing_directories_and_files_are_made() {
        let scratch = Scratch::new("made");
        let tree = scratch.tree();
        let file = tree.find_or_make(Path::new("/a/b/c"), Kind::File).unwrap();
        assert_eq!(tree.path_of(file.as_fd()).unwrap(), Path::new("/a/b/c"));
        tree.find_or_make(Path::new("/a/d"), Kind::Directory).unwrap();
        assert!(scratch.root().join("a/b/c").is_file());
        assert!(scratch.root().join("a/d").is_dir());
    }

    #[test]
    fn no_path_leads_out_of_the_tree() {
        let scratch = Scratch::new("escape");
        symlink("/", scratch.root().join("absolute")).unwrap();
        symlink("../../..", scratch.root().join("relative")).unwrap();
        let tree = scratch.tree();
        for path in ["/absolute/x", "/relative/y", "/../../z", "../w", "/missing/../../../v"] {
            let made = tree.find_or_make(Path::new(path), Kind::Directory).unwrap();
            assert_eq!(tree.path_of(made.as_fd()).unwrap().components().count(), 2, "{path}");
        }
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1);
    }

    #[test]
    fn a_dangling_link_is_made_where_it_leads_to() {
        let scratch = Scratch::new("dangling");
        fs::create_dir(scratch.root().join("etc")).unwrap();
        symlink("../run/resolved/resolv.conf", scratch.root().join("etc/resolv.conf")).unwrap();
        scratch
            .tree()
            .find_or_make(Path::new("/etc/resolv.conf"), Kind::File)
            .unwrap();
        assert!(scratch.root().join("run/resolved/resolv.conf").is_file());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let scratch = Scratch::new("circle");
        symlink("b", scratch.root().join("a")).unwrap();
        symlink("a", scratch.root().join("b")).unwrap();
        let failure = scratch.tree().find_or_make(Path::new("/a"), Kind::File).unwrap_err();
        assert!(
            failure.message.contains("too many levels of symbolic links"),
            "{}",
            failure.message
        );
    }
}
