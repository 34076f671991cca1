//! The container's user namespace (runtime-spec: config-linux.md, "User namespace mappings").
//!
//! All that follows its making is done with the rights of the container's root, as in runc: the container's namespaces,
//! mounts and devices belong to it, and nothing of the guest does.

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};

use super::failure::{Context, Result};
use super::outside::Outside;
use super::procfs::Procfs;

type Mappings = Option<Vec<LinuxIdMapping>>;

/// Whether the container has one of its own.
pub fn is_listed(linux: Option<&Linux>) -> bool {
    let namespaces = linux.and_then(|linux| linux.namespaces().as_ref());
    namespaces
        .into_iter()
        .flatten()
        .any(|namespace| namespace.typ() == LinuxNamespaceType::User)
}

/// The guest's id of a user of the container; none if the container's user namespace lacks it.
pub fn guest_uid(linux: Option<&Linux>, uid: u32) -> Option<u32> {
    guest_id(linux, uid, Linux::uid_mappings)
}

/// The guest's ids of the container's root and its group.
pub fn guest_root(linux: Option<&Linux>) -> Option<(Uid, Gid)> {
    let uid = guest_id(linux, 0, Linux::uid_mappings)?;
    let gid = guest_id(linux, 0, Linux::gid_mappings)?;
    Some((Uid::from_raw(uid), Gid::from_raw(gid)))
}

fn guest_id(linux: Option<&Linux>, id: u32, mappings: fn(&Linux) -> &Mappings) -> Option<u32> {
    if !is_listed(linux) {
        return Some(id);
    }
    linux
        .and_then(|linux| mappings(linux).as_ref())?
        .iter()
        .find_map(|range| {
            let offset = id.checked_sub(range.container_id())?;
            (offset < range.size()).then(|| range.host_id().checked_add(offset))?
        })
}

/// Makes it, and becomes its root. The ids are mapped from outside: inside nobody has the right to.
pub fn enter(linux: &Linux, procfs: &Procfs) -> Result<()> {
    let pid = std::process::id();
    let mapping = Outside::prepare(|| {
        // The groups first: root's own rights map them, and setgroups(2) stays allowed.
        procfs.write(&format!("{pid}/gid_map"), &lines(linux.gid_mappings()))?;
        procfs.write(&format!("{pid}/uid_map"), &lines(linux.uid_mappings()))
    })?;
    unshare(CloneFlags::CLONE_NEWUSER).context(|| "unshare user namespace".into())?;
    mapping.finish()?;
    become_root()
}

/// Becomes the root of the user namespace that this process is in.
pub fn become_root() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid).context(|| "become root's group in the user namespace".into())?;
    setresuid(uid, uid, uid).context(|| "become root in the user namespace".into())?;
    setgroups(&[]).context(|| "drop the groups in the user namespace".into())
}

fn lines(mappings: &Mappings) -> String {
    mappings
        .iter()
        .flatten()
        .map(|range| format!("{} {} {}\n", range.container_id(), range.host_id(), range.size()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_looked_up_in_the_mappings_of_a_listed_namespace() {
        let parse = |namespaces: &str| -> Linux {
            let mappings =
                r#"[{"containerID": 0, "hostID": 1000, "size": 2}, {"containerID": 5, "hostID": 9, "size": 1}]"#;
            serde_json::from_str(&format!(
                r#"{{"namespaces": {namespaces}, "uidMappings": {mappings}, "gidMappings": {mappings}}}"#
            ))
            .unwrap()
        };
        let mapped = parse(r#"[{"type": "user"}]"#);
        let found: Vec<_> = [0, 1, 2, 5, 6].map(|id| guest_uid(Some(&mapped), id)).into();
        assert_eq!(found, [Some(1000), Some(1001), None, Some(9), None]);
        assert_eq!(guest_uid(Some(&parse("[]")), 7), Some(7));
        assert_eq!(
            guest_root(Some(&mapped)),
            Some((Uid::from_raw(1000), Gid::from_raw(1000)))
        );
    }
}
