//! The namespaces of a container (runtime-spec: config-linux.md, "Namespaces").
//!
//! Listed user namespaces are refused. A listed network namespace is the guest's own: the virtual machine is what
//! isolates the network, and its interfaces are already those of the container. Each container has a mount and a cgroup
//! namespace, listed or not: what it would share without is the agent's mounts and its division of the guest, which are
//! nothing of the host's and no business of a container.

use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::sethostname;
use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxTimeOffset, Spec};

use super::failure::{Context, Result};
use super::procfs::Procfs;
use super::protocol::Failure;

const NEW_TIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// The namespaces of every container.
const ALWAYS: CloneFlags = CloneFlags::CLONE_NEWNS.union(CloneFlags::CLONE_NEWCGROUP);

/// Enters the namespaces of a new container: joins those with a path, makes the others. A pid and a time namespace are
/// those of the children only.
pub fn enter(linux: Option<&Linux>, procfs: &Procfs) -> Result<()> {
    let mut made = ALWAYS;
    for namespace in listed(linux) {
        let Some(flag) = flag(namespace.typ())? else { continue };
        match namespace.path() {
            Some(path) => {
                join_path(flag, path)?;
                made.remove(flag);
            }
            None => made |= flag,
        }
    }
    unshare(made).context(|| format!("unshare {}", names(made)))?;
    if made.contains(NEW_TIME) {
        set_time_offsets(linux, procfs)?;
    }
    Ok(())
}

/// Joins the namespaces of a running container, by the pidfd of its init.
pub fn join(linux: Option<&Linux>, container: impl AsFd) -> Result<()> {
    let mut flags = ALWAYS;
    for namespace in listed(linux) {
        flags |= flag(namespace.typ())?.unwrap_or(CloneFlags::empty());
    }
    setns(container, flags).context(|| format!("setns {} of the container's init", names(flags)))
}

/// Sets the container's host and domain name, which needs an own uts namespace to leave the guest's alone.
pub fn set_names(spec: &Spec) -> Result<()> {
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

/// The kernel's flag of a type of namespace, none for those that are not the container's own.
fn flag(kind: LinuxNamespaceType) -> Result<Option<CloneFlags>> {
    Ok(Some(match kind {
        LinuxNamespaceType::Mount => CloneFlags::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CloneFlags::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CloneFlags::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CloneFlags::CLONE_NEWIPC,
        LinuxNamespaceType::Pid => CloneFlags::CLONE_NEWPID,
        LinuxNamespaceType::Time => NEW_TIME,
        LinuxNamespaceType::Network => return Ok(None),
        LinuxNamespaceType::User => {
            return Err(Failure::invalid("linux.namespaces: user namespaces are not supported"));
        }
    }))
}

fn join_path(flag: CloneFlags, path: &Path) -> Result<()> {
    if flag == CloneFlags::CLONE_NEWNS {
        return Err(Failure::invalid(
            "linux.namespaces: joining a mount namespace by its path is not supported",
        ));
    }
    let namespace = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .context(|| format!("open the namespace {}", path.display()))?;
    // The kernel checks that it is a namespace of this type.
    setns(namespace, flag).context(|| format!("setns {} to {}", names(flag), path.display()))
}

fn set_time_offsets(linux: Option<&Linux>, procfs: &Procfs) -> Result<()> {
    let offsets = linux
        .and_then(|linux| linux.time_offsets().as_ref())
        .into_iter()
        .flatten();
    let lines: String = offsets.map(|(clock, offset)| time_offset(clock, offset)).collect();
    if lines.is_empty() {
        Ok(())
    } else {
        procfs.write(&format!("{}/timens_offsets", std::process::id()), &lines)
    }
}

fn time_offset(clock: &str, offset: &LinuxTimeOffset) -> String {
    format!(
        "{clock} {} {}\n",
        offset.secs().unwrap_or(0),
        offset.nanosecs().unwrap_or(0)
    )
}

fn names(flags: CloneFlags) -> String {
    let names = [
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWCGROUP, "cgroup"),
        (CloneFlags::CLONE_NEWUTS, "uts"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWPID, "pid"),
        (NEW_TIME, "time"),
    ];
    let names: Vec<&str> = names
        .iter()
        .filter(|(flag, _)| flags.contains(*flag))
        .map(|(_, name)| *name)
        .collect();
    format!("{} namespace", names.join(","))
}
