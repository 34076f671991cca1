//! The container's root file system: from a directory of the guest to the root of a mount namespace.

use std::os::fd::{AsFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, ResolveFlag};
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, fstat, umask};
use nix::unistd::{chdir, fchdir, pivot_root};
use oci_spec::runtime::{Linux, Spec};

use super::devices;
use super::failure::{Context, Result};
use super::mount_api::{self, Attributes, Depth};
use super::mount_options::root_propagation;
use super::mounts::{self, Deferred};
use super::protocol::{Failure, Reason};
use super::streams;
use super::tree::{Kind, Tree, is_directory, open_in};

/// The umask under which the tree is made, and that of a process for which none is asked.
const DEFAULT_UMASK: u32 = 0o022;

/// A container's root file system in the making.
pub struct Rootfs {
    tree: Tree,
    deferred: Deferred,
}

impl Rootfs {
    /// Builds the tree: the root, the mounts, the devices. Needs a mount namespace of its own.
    ///
    /// `descriptors` is how many the process is given, from 0 on.
    pub fn build(spec: &Spec, descriptors: RawFd) -> Result<Self> {
        umask(Mode::from_bits_truncate(DEFAULT_UMASK));
        isolate().context(|| "error preparing rootfs".into())?;
        let tree = open_root(spec).context(|| "error preparing rootfs".into())?;
        let mounts = spec.mounts().as_deref().unwrap_or_default();
        let deferred = mounts::mount_all(&tree, mounts)?;
        if mounts::has_own_dev(mounts) {
            let devices = linux(spec)
                .and_then(|linux| linux.devices().as_deref())
                .unwrap_or_default();
            devices::populate(&tree, devices)?;
            streams::replace_nulls(devices::null_device(&tree)?.as_fd(), descriptors)?;
        }
        Ok(Self { tree, deferred })
    }

    /// The container's tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Makes it the root of this mount namespace, and makes the working directory, which a fresh image may lack.
    pub fn enter(&self, spec: &Spec) -> Result<()> {
        pivot(&self.tree).context(|| "error jailing process inside rootfs".into())?;
        if let Some(name) = linux(spec).and_then(|linux| linux.rootfs_propagation().as_deref()) {
            let (propagation, depth) = root_propagation(name)
                .ok_or_else(|| Failure::invalid(format!("rootfsPropagation={name} is not supported")))?;
            mount_api::set_propagation(self.tree.root(), propagation, depth)
                .context(|| "unable to apply root propagation flags".into())?;
        }
        let directory = spec.process().as_ref().map_or(Path::new("/"), |process| process.cwd());
        self.make_directory(directory)
            .map_err(|failure| failure.because_of(Reason::WorkingDirectory))
    }

    fn make_directory(&self, path: &Path) -> Result<()> {
        let found = self.tree.find_or_make(path, Kind::Directory)?;
        let status = fstat(found).context(|| format!("stat {}", path.display()))?;
        if is_directory(&status) {
            Ok(())
        } else {
            Err(Errno::ENOTDIR).context(|| format!("mkdir {}", path.display()))
        }
    }

    /// Takes away what the container may not write to or see.
    pub fn seal(self, spec: &Spec) -> Result<()> {
        self.deferred.make_read_only()?;
        if spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
            let read_only = Attributes {
                set: libc::MOUNT_ATTR_RDONLY,
                clear: 0,
            };
            mount_api::set_attributes(self.tree.root(), read_only, Depth::One)
                .context(|| "make the root read-only".into())?;
        }
        let paths = |get: fn(&Linux) -> &Option<Vec<String>>| linux(spec).and_then(|linux| get(linux).as_deref());
        mounts::make_read_only(&self.tree, paths(Linux::readonly_paths).unwrap_or_default())?;
        mounts::mask(&self.tree, paths(Linux::masked_paths).unwrap_or_default())
    }
}

fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}

/// Cuts this mount namespace off from the agent's: what is mounted here stays here.
///
/// The guest's root, whose copy this namespace starts with, must be a mount that pivot_root(2) can exchange. All of it is
/// unmounted then, so that nothing of it is left below the container's root.
fn isolate() -> Result<()> {
    let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context(|| "make / a slave".into())
}

/// Mounts the root's directory onto itself: only a mount can become the root.
fn open_root(spec: &Spec) -> Result<Tree> {
    let path = spec
        .root()
        .as_ref()
        .ok_or_else(|| Failure::invalid("root is missing"))?
        .path();
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    let directory = open_in(AT_FDCWD, path, flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
        .context(|| format!("open the root filesystem {}", path.display()))?;
    let root =
        mount_api::clone_tree_at(directory.as_fd(), Depth::Recursive).context(|| format!("bind {}", path.display()))?;
    mount_api::attach(root.as_fd(), directory.as_fd()).context(|| format!("mount {}", path.display()))?;
    Ok(Tree::new(root))
}

/// Exchanges the root, and lets go of the guest's: nothing of it can be reached from here on.
fn pivot(tree: &Tree) -> Result<()> {
    fchdir(tree.root()).context(|| "chdir to the root".into())?;
    // Both at the same place: the old root ends up on top of the new one, from where it is unmounted.
    pivot_root(".", ".").context(|| "pivot_root".into())?;
    umount2(".", MntFlags::MNT_DETACH).context(|| "unmount the guest's root".into())?;
    chdir("/").context(|| "chdir to /".into())
}
