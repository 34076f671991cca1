//! The mounts of a container (runtime-spec: config.md, "Mounts"), made in the container's tree before it is the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::mount::MsFlags;
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use oci_spec::runtime::Mount;

use super::copy::copy_directory;
use super::devices::null_device;
use super::failure::{Context, Result};
use super::mount_api::{self, Attributes, Depth, Filesystem};
use super::mount_options::MountOptions;
use super::protocol::Failure;
use super::tree::{Kind, Tree, is_directory};

const READ_ONLY: Attributes = Attributes {
    set: libc::MOUNT_ATTR_RDONLY,
    clear: 0,
};

/// The only files of /proc that may be mounted over: what lxcfs and checkpointing replace. Anything else could make
/// the set-up itself, and the container's security tools, trust a forged /proc (CVE-2019-19921).
const REPLACEABLE_IN_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Types of file systems that begin empty.
const HIDING: &[&str] = &["tmpfs", "mqueue"];

/// Mounts that become read-only when all is set up, because something has still to be made in them.
#[derive(Default)]
pub struct Deferred(Vec<OwnedFd>);

impl Deferred {
    /// Makes them read-only.
    pub fn make_read_only(self) -> Result<()> {
        self.0.iter().try_for_each(|mount| {
            mount_api::set_attributes(mount.as_fd(), READ_ONLY, Depth::One).context(|| "remount read-only".into())
        })
    }
}

/// Makes the mounts, in their order.
pub fn mount_all(tree: &Tree, mounts: &[Mount]) -> Result<Deferred> {
    let mut deferred = Deferred::default();
    for mount in mounts {
        mount_one(tree, mount, &mut deferred).context(|| {
            let source = mount.source().as_deref().unwrap_or(Path::new(""));
            format!("error mounting {source:?} to rootfs at {:?}", mount.destination())
        })?;
    }
    Ok(deferred)
}

/// Whether /dev is the container's own, to be filled with devices, and not somebody's directory bound to it.
pub fn has_own_dev(mounts: &[Mount]) -> bool {
    !mounts
        .iter()
        .any(|mount| options_of(mount).bind.is_some() && mount.destination() == Path::new("/dev"))
}

fn options_of(mount: &Mount) -> MountOptions {
    let mut options = MountOptions::parse(mount.options().iter().flatten().map(String::as_str));
    if kind_of(mount) == "bind" {
        options.bind = options.bind.or(Some(Depth::One));
    }
    options
}

fn kind_of(mount: &Mount) -> &str {
    mount.typ().as_deref().unwrap_or_default()
}

fn mount_one(tree: &Tree, mount: &Mount, deferred: &mut Deferred) -> Result<()> {
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() {
        return Err(Failure::invalid("id-mapped mounts are not supported"));
    }
    let options = options_of(mount);
    if options.remount {
        return remount(tree, mount, &options, deferred);
    }
    let (made, target) = match options.bind {
        Some(depth) => bind(tree, mount, depth)?,
        None => make_filesystem(tree, mount, &options)?,
    };
    attach(&made, &target)?;
    configure(made, mount, &options, deferred)
}

/// Changes what is mounted at the destination already: all of its attributes, also those that are not named, and without
/// the option bind the options of its file system.
fn remount(tree: &Tree, mount: &Mount, options: &MountOptions, deferred: &mut Deferred) -> Result<()> {
    let mounted = tree.find_or_make(mount.destination(), Kind::Directory)?;
    let mut flags = options.remount_flags();
    let later = options.read_only() && is_filled_later(mount);
    flags.set(MsFlags::MS_RDONLY, options.read_only() && !later);
    mount_api::remount(mounted.as_fd(), flags, &options.data.join(",")).context(|| "remount".into())?;
    set_propagation(mounted.as_fd(), options)?;
    if later {
        deferred.0.push(mounted);
    }
    Ok(())
}

/// A detached copy of the source, and where it goes.
fn bind(tree: &Tree, mount: &Mount, depth: Depth) -> Result<(OwnedFd, OwnedFd)> {
    let Some(source) = mount.source() else {
        return Err(Failure::invalid("a bind mount needs a source"));
    };
    let clone = mount_api::clone_tree(source, depth).context(|| format!("stat {}", source.display()))?;
    let status = fstat(&clone).context(|| format!("stat {}", source.display()))?;
    let kind = if is_directory(&status) {
        Kind::Directory
    } else {
        Kind::File
    };
    let target = tree.find_or_make(mount.destination(), kind)?;
    guard(tree, &target, clone.as_fd(), "bind")?;
    Ok((clone, target))
}

/// A detached new file system, and where it goes.
fn make_filesystem(tree: &Tree, mount: &Mount, options: &MountOptions) -> Result<(OwnedFd, OwnedFd)> {
    let kind = match kind_of(mount) {
        // The guest has cgroup v2 only.
        "cgroup" => "cgroup2",
        kind => kind,
    };
    let existed = tree.find(mount.destination()).is_ok();
    let target = match kind {
        "proc" | "sysfs" => ordinary_directory(tree, mount.destination(), kind)?,
        _ => tree.find_or_make(mount.destination(), Kind::Directory)?,
    };
    let mut data = options.data.clone();
    if kind == "tmpfs" && existed && options.value("mode").is_none() {
        // What is covered keeps its look: a tmpfs on /run/lock or /tmp has that directory's mode.
        let status = fstat(&target).context(|| "stat the mount point".into())?;
        data.push(format!("mode={:o}", status.st_mode & 0o7777));
    }
    // On these the read-only state comes last, see `configure`.
    let read_only = options.read_only() && !is_filled_later(mount);
    let made = new_filesystem(kind, mount.source().as_deref(), options, &data, read_only)?;
    if options.copy_up {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let covered = openat(&target, ".", flags, Mode::empty()).context(|| "open the directory to copy up".into())?;
        copy_directory(covered, made.as_fd()).context(|| "copy up".into())?;
    }
    guard(tree, &target, made.as_fd(), kind)?;
    Ok((made, target))
}

fn new_filesystem(
    kind: &str,
    source: Option<&Path>,
    options: &MountOptions,
    data: &[String],
    read_only: bool,
) -> Result<OwnedFd> {
    let filesystem = Filesystem::open(kind).context(|| format!("file system type {kind:?}"))?;
    let configure = || {
        if let Some(source) = source.and_then(Path::to_str).filter(|source| !source.is_empty()) {
            filesystem.string("source", source)?;
        }
        let read_only = read_only.then_some("ro");
        options
            .flags
            .iter()
            .copied()
            .chain(read_only)
            .try_for_each(|flag| filesystem.flag(flag))?;
        data.iter().try_for_each(|option| match option.split_once('=') {
            Some((key, value)) => filesystem.string(key, value),
            None => filesystem.flag(option),
        })?;
        // The attributes come when it is attached.
        filesystem.mount(0)
    };
    configure().context(|| match filesystem.explanation() {
        Some(explanation) => format!("mount {kind} ({explanation})"),
        None if data.is_empty() => format!("mount {kind}"),
        None => format!("mount {kind}, data: {}", data.join(",")),
    })
}

/// A directory, made if need be, that is no symbolic link and below none: on /proc and /sys rests the security of what
/// is done through them later (CVE-2019-16884, CVE-2019-19921).
fn ordinary_directory(tree: &Tree, path: &Path, kind: &str) -> Result<OwnedFd> {
    let refused = || Failure::kernel(format!("filesystem {kind:?} must be mounted on ordinary directory"));
    match tree.find_without_links(path) {
        Ok(found) => {
            let status = fstat(&found).context(|| format!("stat {}", path.display()))?;
            if is_directory(&status) {
                Ok(found)
            } else {
                Err(refused())
            }
        }
        Err(Errno::ENOENT) => {
            tree.find_or_make(path, Kind::Directory)?;
            tree.find_without_links(path).map_err(|_| refused())
        }
        Err(Errno::ELOOP | Errno::ENOTDIR) => Err(refused()),
        Err(errno) => Err(errno).context(|| format!("open {}", path.display())),
    }
}

/// Refuses a mount over the root, one over /proc that is none of proc, and what could forge files inside of that.
fn guard(tree: &Tree, target: &OwnedFd, mount: BorrowedFd, kind: &str) -> Result<()> {
    let target = tree.path_of(target.as_fd())?;
    if target == Path::new("/") {
        return Err(Failure::kernel("the container's root cannot be mounted over"));
    }
    if !target.starts_with("/proc") {
        return Ok(());
    }
    if target != Path::new("/proc") {
        // Empty ones only hide; runc knows no better.
        if HIDING.contains(&kind) {
            return Ok(());
        }
        return match target.to_str() {
            Some(path) if REPLACEABLE_IN_PROC.contains(&path) => Ok(()),
            _ => Err(Failure::kernel(format!(
                "{target:?} cannot be mounted because it is inside /proc"
            ))),
        };
    }
    let filesystem = fstatfs(mount).context(|| "statfs of the source".into())?;
    if filesystem.filesystem_type() != PROC_SUPER_MAGIC {
        return Err(Failure::kernel(format!(
            "{target:?} cannot be mounted because it is not of type proc"
        )));
    }
    Ok(())
}

/// Attaches a mount. That a directory only goes onto a directory is checked first for the better errno.
fn attach(mount: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let [source, point] = [mount, target].map(|fd| fstat(fd).context(|| "stat a mount point".into()));
    if is_directory(&source?) != is_directory(&point?) {
        return Err(Errno::ENOTDIR).context(|| "mount".into());
    }
    mount_api::attach(mount.as_fd(), target.as_fd()).context(|| "mount".into())
}

/// Sets attributes and propagation. Read-only comes later where something has still to be made: devices in /dev, mount
/// points in a tmpfs.
fn configure(made: OwnedFd, mount: &Mount, options: &MountOptions, deferred: &mut Deferred) -> Result<()> {
    let later = options.read_only() && is_filled_later(mount);
    let mut attributes = options.attributes;
    if later {
        attributes.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    mount_api::set_attributes(made.as_fd(), attributes, Depth::One).context(|| "set the mount's attributes".into())?;
    mount_api::set_attributes(made.as_fd(), options.recursive, Depth::Recursive)
        .context(|| "set the mounts' attributes".into())?;
    set_propagation(made.as_fd(), options)?;
    if later {
        deferred.0.push(made);
    }
    Ok(())
}

fn set_propagation(mount: BorrowedFd, options: &MountOptions) -> Result<()> {
    options.propagations.iter().try_for_each(|(propagation, depth)| {
        mount_api::set_propagation(mount, *propagation, *depth).context(|| "set the mount's propagation".into())
    })
}

fn is_filled_later(mount: &Mount) -> bool {
    mount.destination() == Path::new("/dev") || kind_of(mount) == "tmpfs"
}

/// Hides paths from the container: files by the null device, directories by an empty, read-only tmpfs. What does not
/// exist need not be hidden.
pub fn mask(tree: &Tree, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(target) = existing(tree, path).context(|| format!("can't mask path {path:?}"))? else {
            continue;
        };
        mask_one(tree, &target).context(|| format!("can't mask path {path:?}"))?;
    }
    Ok(())
}

fn mask_one(tree: &Tree, target: &OwnedFd) -> Result<()> {
    let status = fstat(target).context(|| "stat".into())?;
    let cover = if is_directory(&status) {
        let empty = MountOptions::default();
        let tmpfs = new_filesystem("tmpfs", Some(Path::new("tmpfs")), &empty, &[], true)?;
        mount_api::set_attributes(tmpfs.as_fd(), READ_ONLY, Depth::One).context(|| "make read-only".into())?;
        tmpfs
    } else {
        let null = null_device(tree)?;
        mount_api::clone_tree_at(null.as_fd(), Depth::One).context(|| "bind /dev/null".into())?
    };
    attach(&cover, target)
}

/// Makes paths read-only. What does not exist need not be protected.
pub fn make_read_only(tree: &Tree, paths: &[String]) -> Result<()> {
    for path in paths {
        let Some(target) = existing(tree, path).context(|| format!("can't make {path:?} read-only"))? else {
            continue;
        };
        rebind_read_only(&target).context(|| format!("can't make {path:?} read-only"))?;
    }
    Ok(())
}

fn rebind_read_only(target: &OwnedFd) -> Result<()> {
    let clone = mount_api::clone_tree_at(target.as_fd(), Depth::Recursive).context(|| "bind".into())?;
    mount_api::set_attributes(clone.as_fd(), READ_ONLY, Depth::Recursive).context(|| "make read-only".into())?;
    attach(&clone, target)
}

fn existing(tree: &Tree, path: &str) -> Result<Option<OwnedFd>> {
    match tree.find(Path::new(path)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno).context(|| "open".into()),
    }
}
