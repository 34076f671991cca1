//! The namespaces of a container (runtime-spec: config-linux.md, "Namespaces").
//!
//! A network namespace begins with the loopback interface up; the agent adds the others. Each container has a mount and
//! a cgroup namespace, listed or not: what it would share without is the agent's mounts and its division of the guest,
//! which are nothing of the host's and no business of a container.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, sethostname};
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::failure::{Context, Result};
use super::outside::Outside;
use super::procfs::Procfs;
use super::protocol::Failure;
use super::user_namespace;
use crate::loopback;

const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The namespaces of every container.
const ALWAYS: CloneFlags = CloneFlags::CLONE_NEWNS.union(CloneFlags::CLONE_NEWCGROUP);

/// Has a new container share a namespace of this process, in place of one of its own.
pub fn share(spec: &mut Spec, kind: LinuxNamespaceType, process: Pid) -> Result<()> {
    let file = PathBuf::from(format!("/proc/{process}/ns/{}", file_name(kind)));
    let namespaces = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.namespaces_mut().as_mut());
    let mut listed = namespaces.into_iter().flatten();
    match listed.find(|namespace| namespace.typ() == kind) {
        Some(namespace) => {
            namespace.set_path(Some(file));
            Ok(())
        }
        None => Err(Failure::invalid(format!(
            "linux.namespaces: no {kind} namespace is listed, which is to be shared"
        ))),
    }
}

/// Enters the namespaces of a new container: joins those with a path, makes the others, and sets what belongs to them. A
/// pid and a time namespace are those of the children only. Returns those that were made.
pub fn enter(spec: &Spec, procfs: &Procfs) -> Result<CloneFlags> {
    let linux = spec.linux().as_ref();
    let mut made = own(linux);
    let mut joined = open_joined(linux)?;
    // The user namespace first: the right to enter the others may come with it.
    joined.sort_by_key(|(flag, _)| *flag != CloneFlags::CLONE_NEWUSER);
    for (flag, namespace) in joined {
        // The kernel checks that it is a namespace of this type.
        setns(namespace, flag).context(|| format!("setns {}", names(flag)))?;
        made.remove(flag);
        if flag == CloneFlags::CLONE_NEWUSER {
            user_namespace::become_root()?;
        }
    }
    match linux.filter(|_| made.contains(CloneFlags::CLONE_NEWUSER)) {
        Some(linux) => {
            // In a user namespace nobody may set the clocks, nor write to files of this process.
            let pid = std::process::id();
            let prepare = || Outside::prepare(|| set_time_offsets(Some(linux), pid, procfs));
            let offsets = made.contains(NEW_TIME).then(prepare).transpose()?;
            user_namespace::enter(linux, procfs)?;
            make(made - CloneFlags::CLONE_NEWUSER)?;
            offsets.map_or(Ok(()), Outside::finish)?;
        }
        None => {
            make(made)?;
            if made.contains(NEW_TIME) {
                set_time_offsets(linux, std::process::id(), procfs)?;
            }
        }
    }
    set_names(spec)?;
    Ok(made)
}

fn make(made: CloneFlags) -> Result<()> {
    unshare(made).context(|| format!("unshare {}", names(made)))?;
    if made.contains(CloneFlags::CLONE_NEWNET) {
        loopback::bring_up().context(|| "bring up lo".into())?;
    }
    Ok(())
}

/// Joins the namespaces of a running container, by the pidfd of its init.
pub fn join_container(linux: Option<&Linux>, container: impl AsFd) -> Result<()> {
    let namespaces = own(linux);
    setns(container, namespaces).context(|| format!("setns {} of the container's init", names(namespaces)))?;
    if namespaces.contains(CloneFlags::CLONE_NEWUSER) {
        user_namespace::become_root()?;
    }
    Ok(())
}

/// Sets the container's host and domain name, which needs an own uts namespace to leave the guest's alone.
fn set_names(spec: &Spec) -> Result<()> {
    let own = listed(spec.linux().as_ref()).any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
    if let Some(name) = spec.hostname().as_deref().filter(|name| !name.is_empty()) {
        require(own, "hostname")?;
        sethostname(name).context(|| format!("sethostname {name:?}"))?;
    }
    if let Some(name) = spec.domainname().as_deref().filter(|name| !name.is_empty()) {
        require(own, "domain name")?;
        set_domain_name(name).context(|| format!("setdomainname {name:?}"))?;
    }
    Ok(())
}

fn require(own: bool, what: &str) -> Result<()> {
    if own {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "unable to set {what} without a private UTS namespace"
        )))
    }
}

fn set_domain_name(name: &str) -> nix::Result<()> {
    // SAFETY: the pointer and the length are those of the same string, which outlives the call.
    nix::errno::Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

fn listed(linux: Option<&Linux>) -> impl Iterator<Item = &LinuxNamespace> {
    linux
        .and_then(|linux| linux.namespaces().as_ref())
        .into_iter()
        .flatten()
}

/// The namespaces that a container has of its own.
fn own(linux: Option<&Linux>) -> CloneFlags {
    listed(linux).fold(ALWAYS, |flags, namespace| flags | flag(namespace.typ()))
}

/// The kernel's flag of a type of namespace.
fn flag(kind: LinuxNamespaceType) -> CloneFlags {
    match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Time => NEW_TIME,
        LinuxNamespaceType::Network => CloneFlags::CLONE_NEWNET,
        LinuxNamespaceType::User => CloneFlags::CLONE_NEWUSER,
    }
}

fn open_joined(linux: Option<&Linux>) -> Result<Vec<(CloneFlags, OwnedFd)>> {
    let with_path = |namespace: &LinuxNamespace| Some((flag(namespace.typ()), namespace.path().clone()?));
    listed(linux)
        .filter_map(with_path)
        .map(|(flag, path)| {
            if flag == CloneFlags::CLONE_NEWNS {
                return Err(Failure::invalid(
                    "linux.namespaces: joining a mount namespace by its path is not supported",
                ));
            }
            let namespace = open(&path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
                .context(|| format!("open the namespace {}", path.display()))?;
            Ok((flag, namespace))
        })
        .collect()
}

fn set_time_offsets(linux: Option<&Linux>, pid: u32, procfs: &Procfs) -> Result<()> {
    let offsets = linux
        .and_then(|linux| linux.time_offsets().as_ref())
        .into_iter()
        .flatten();
    let lines: String = offsets.map(|(clock, offset)| time_offset(clock, offset)).collect();
    if lines.is_empty() {
        Ok(())
    } else {
        procfs.write(&format!("{pid}/timens_offsets"), &lines)
    }
}

fn time_offset(clock: &str, offset: &LinuxTimeOffset) -> String {
    format!(
        "{clock} {} {}\n",
        offset.secs().unwrap_or(0),
        offset.nanosecs().unwrap_or(0)
    )
}

/// As /proc/PID/ns has it.
fn file_name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Time => "time",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::User => "user",
    }
}

fn names(flags: CloneFlags) -> String {
    let names = [
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWPID, "pid"),
        (CloneFlags::CLONE_NEWNET, "network"),
        (CloneFlags::CLONE_NEWUSER, "user"),
        (NEW_TIME, "time"),
    ];
    let names: Vec<&str> = names
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, name)| *name)
        .collect();
    format!("{} namespace", names.join(","))
}
