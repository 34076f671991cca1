//! The devices and links of the container's /dev (runtime-spec: config-linux.md, "Default Devices" and "Devices").

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, ResolveFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstat, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, symlinkat, unlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::failure::{Context, Result};
use super::mount_api::{self, Depth, Filesystem};
use super::protocol::Failure;
use super::tree::{Kind, Tree, file_type, is_character_device, open_in};

/// Name, major and minor number of the devices that each container has.
const DEFAULT_DEVICES: &[(&str, u64, u64)] = &[
    ("null", 1, 3),
    ("random", 1, 8),
    ("full", 1, 7),
    ("tty", 5, 0),
    ("zero", 1, 5),
    ("urandom", 1, 9),
];

/// Links of /dev.
const LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
];

/// The container's null device, which is certain to be it: something else in its place would be shown to the container
/// at every path that is to be hidden from it (CVE-2025-31133).
pub fn null_device(tree: &Tree) -> Result<OwnedFd> {
    let dev = tree.find(Path::new("/dev")).context(|| "open /dev".into())?;
    // Not to block, nor to take a terminal, before it is known to be the right one.
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let null = open_in(dev.as_fd(), Path::new("null"), flags, ResolveFlag::RESOLVE_NO_SYMLINKS)
        .context(|| "open /dev/null".into())?;
    let status = fstat(&null).context(|| "stat /dev/null".into())?;
    if is_character_device(&status, 1, 3) {
        Ok(null)
    } else {
        Err(Failure::kernel("/dev/null is not the null device"))
    }
}

/// A null device that nothing else shares, for a process that joins a container whose own is gone: its root may do with
/// its /dev as it likes.
pub fn unshared_null_device() -> Result<OwnedFd> {
    let make = || {
        let directory = Filesystem::open("tmpfs")?.mount(0)?;
        mknodat(
            &directory,
            "null",
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(1, 3),
        )?;
        openat(&directory, "null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
    };
    make().context(|| "make a null device".into())
}

/// A device node to be made.
struct Node {
    path: PathBuf,
    kind: SFlag,
    number: u64,
    mode: Mode,
    owner: Uid,
    group: Gid,
}

/// Fills the container's /dev.
pub fn populate(tree: &Tree, devices: &[LinuxDevice]) -> Result<()> {
    for node in nodes(devices)? {
        make_node(tree, &node).context(|| format!("error creating device nodes: mknod {}", node.path.display()))?;
    }
    let dev = tree.find_or_make(Path::new("/dev"), Kind::Directory)?;
    link_ptmx(dev.as_fd()).context(|| "error setting up ptmx".into())?;
    make_links(dev.as_fd()).context(|| "error setting up /dev symlinks".into())
}

/// The default devices, but for those that the configuration describes itself.
fn nodes(devices: &[LinuxDevice]) -> Result<Vec<Node>> {
    let described: Vec<Node> = devices.iter().map(Node::try_from).collect::<Result<_>>()?;
    let defaults = DEFAULT_DEVICES.iter().map(Node::from_default);
    let mut nodes: Vec<Node> = defaults
        .filter(|node| described.iter().all(|other| other.path != node.path))
        .collect();
    // It is always the link to the container's own devpts, see `link_ptmx`.
    nodes.extend(described.into_iter().filter(|node| node.path != Path::new("/dev/ptmx")));
    Ok(nodes)
}

impl Node {
    fn from_default(&(name, major, minor): &(&str, u64, u64)) -> Self {
        Self {
            path: Path::new("/dev").join(name),
            kind: SFlag::S_IFCHR,
            number: makedev(major, minor),
            mode: Mode::from_bits_truncate(0o666),
            owner: Uid::from_raw(0),
            group: Gid::from_raw(0),
        }
    }
}

impl TryFrom<&LinuxDevice> for Node {
    type Error = Failure;

    fn try_from(device: &LinuxDevice) -> Result<Self> {
        let kind = match device.typ() {
            LinuxDeviceType::B => SFlag::S_IFBLK,
            LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
            LinuxDeviceType::P => SFlag::S_IFIFO,
            LinuxDeviceType::A => {
                let path = device.path().display();
                return Err(Failure::invalid(format!(
                    "linux.devices: the type of {path} must be one of b, c, u and p"
                )));
            }
        };
        let number = |number: i64| u64::try_from(number).unwrap_or_default();
        Ok(Self {
            path: device.path().clone(),
            kind,
            number: makedev(number(device.major()), number(device.minor())),
            mode: Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & 0o7777),
            owner: Uid::from_raw(device.uid().unwrap_or(0)),
            group: Gid::from_raw(device.gid().unwrap_or(0)),
        })
    }
}

fn make_node(tree: &Tree, node: &Node) -> Result<()> {
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Err(Failure::invalid("a device needs a path with a name"));
    };
    let directory = tree.find_or_make(parent, Kind::Directory)?;
    match mknodat(&directory, name, node.kind, node.mode, node.number) {
        // As it was in the image, or in what is mounted there.
        Err(Errno::EEXIST) => return Ok(()),
        // The root file system may forbid device nodes, where /dev is no tmpfs.
        Err(Errno::EPERM) => return bind_node(tree, node),
        result => result.context(|| "mknod".into())?,
    }
    // mknod(2) heeds the umask.
    fchmodat(&directory, name, node.mode, FchmodatFlags::FollowSymlink).context(|| "chmod".into())?;
    fchownat(
        &directory,
        name,
        Some(node.owner),
        Some(node.group),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )
    .context(|| "chown".into())
}

/// Binds the guest's node of the same device.
fn bind_node(tree: &Tree, node: &Node) -> Result<()> {
    let path = guest_path(node).ok_or(Errno::EPERM).context(|| "mknod".into())?;
    let guest = mount_api::clone_tree(&path, Depth::One).context(|| "bind the guest's device".into())?;
    let status = fstat(&guest).context(|| "stat the guest's device".into())?;
    if file_type(&status) != node.kind || status.st_rdev != node.number {
        return Err(Errno::EPERM).context(|| "mknod".into());
    }
    let target = tree.find_or_make(&node.path, Kind::File)?;
    mount_api::attach(guest.as_fd(), target.as_fd()).context(|| "bind the guest's device".into())
}

/// Where the guest has a device, as its kernel names it.
fn guest_path(node: &Node) -> Option<PathBuf> {
    let kind = if node.kind == SFlag::S_IFBLK { "block" } else { "char" };
    let (major, minor) = (major(node.number), minor(node.number));
    let described = fs::read_to_string(format!("/sys/dev/{kind}/{major}:{minor}/uevent")).ok()?;
    let name = described.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(Path::new("/dev").join(name))
}

fn link_ptmx(dev: BorrowedFd) -> Result<()> {
    match unlinkat(dev, "ptmx", UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        failed => failed.context(|| "unlink /dev/ptmx".into())?,
    }
    symlinkat("pts/ptmx", dev, "ptmx").context(|| "symlink /dev/ptmx".into())
}

fn make_links(dev: BorrowedFd) -> Result<()> {
    // Only where the guest's kernel offers it.
    let core = Path::new("/proc/kcore").exists().then_some(("/proc/kcore", "core"));
    for (target, name) in LINKS.iter().copied().chain(core) {
        match symlinkat(target, dev, name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            failed => failed.context(|| format!("symlink /dev/{name}"))?,
        }
    }
    Ok(())
}
