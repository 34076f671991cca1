//! What the agent holds of a container until it is deleted, so that the kernel does not take it apart before.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;

/// Where the shared directory of the host appears.
pub const SHARE: &str = "/run/vruntime/share";

/// Opens the root and the sources of bind mounts that lie in the share.
///
/// Each of them is a mount that the kernel makes when it is first entered. Entered by the container alone it would end
/// with the container's mount namespace, and virtiofs does not wait for requests in flight then: the kernel crashes.
pub fn shared(spec: &Spec) -> Vec<OwnedFd> {
    let root = spec.root().iter().map(|root| root.path().clone());
    let sources = spec
        .mounts()
        .iter()
        .flatten()
        .filter_map(|mount| mount.source().clone());
    root.chain(sources)
        .filter(|path| path.starts_with(SHARE))
        .filter_map(|path| {
            // What is no directory is no mount of its own; what is missing, init will say.
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open(&path, flags, Mode::empty()).ok()
        })
        .collect()
}

/// Opens the namespaces that are costly to take apart. Held by nobody else they would be taken apart, with all mounts of
/// the container, while its init ends, and its end would show only after that.
pub fn namespaces(init: Pid) -> Vec<File> {
    ["ipc", "mnt", "net", "uts"]
        .iter()
        // Without, nothing but the time is lost.
        .filter_map(|name| File::open(format!("/proc/{init}/ns/{name}")).ok())
        .collect()
}
