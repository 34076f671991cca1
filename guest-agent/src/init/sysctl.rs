//! Kernel parameters of the container (runtime-spec: config-linux.md, "Sysctl").

use std::collections::BTreeMap;

use oci_spec::runtime::Linux;

use super::failure::Result;
use super::procfs::Procfs;

/// Sets them, in the namespaces of this process. A key has dots where its path below /proc/sys has slashes.
pub fn set(linux: Option<&Linux>, procfs: &Procfs) -> Result<()> {
    let parameters = linux.and_then(|linux| linux.sysctl().as_ref()).into_iter().flatten();
    let sorted: BTreeMap<_, _> = parameters.collect();
    sorted
        .iter()
        .try_for_each(|(key, value)| procfs.write(&format!("sys/{}", key.replace('.', "/")), value))
}
