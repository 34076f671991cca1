//! Who the process is (runtime-spec: config.md, "User"): ids, groups, capabilities.

use nix::errno::Errno;
use nix::libc::{self, c_ulong};
use nix::sys::prctl::set_keepcaps;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, User};

use super::failure::{Context, Result};

/// The capabilities by their numbers (linux/capability.h), as oci-spec names them.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The version of capget(2) and capset(2) that knows 64 capabilities.
const VERSION_3: u32 = 0x2008_0522;

/// The five capability sets, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    bounding: u64,
    effective: u64,
    inheritable: u64,
    permitted: u64,
    ambient: u64,
}

impl From<&LinuxCapabilities> for CapabilitySets {
    fn from(capabilities: &LinuxCapabilities) -> Self {
        let bits =
            |set: &Option<Capabilities>| set.iter().flatten().filter_map(number).fold(0, |bits, n| bits | 1 << n);
        Self {
            bounding: bits(capabilities.bounding()),
            effective: bits(capabilities.effective()),
            inheritable: bits(capabilities.inheritable()),
            permitted: bits(capabilities.permitted()),
            ambient: bits(capabilities.ambient()),
        }
    }
}

fn number(capability: &oci_spec::runtime::Capability) -> Option<usize> {
    let name = capability.to_string();
    NAMES.iter().position(|known| *known == name)
}

impl CapabilitySets {
    /// Takes from the bounding set what is not in it, which needs `CAP_SETPCAP` and so comes before [`Self::apply`].
    pub fn limit(&self) -> Result<()> {
        for number in 0..u64::BITS {
            if self.bounding & 1 << number != 0 {
                continue;
            }
            match capability_control(libc::PR_CAPBSET_DROP, number.into(), 0) {
                Ok(()) => {}
                // The kernel knows no more of them.
                Err(Errno::EINVAL) => break,
                failed => failed.context(|| "unable to apply bounding set".into())?,
            }
        }
        Ok(())
    }

    /// Sets the other four.
    pub fn apply(&self) -> Result<()> {
        self.set_process().context(|| "unable to apply caps".into())?;
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
        capability_control(libc::PR_CAP_AMBIENT, clear, 0).context(|| "unable to clear ambient caps".into())?;
        for number in (0..u64::BITS).filter(|number| self.ambient & 1 << number != 0) {
            let raise = libc::PR_CAP_AMBIENT_RAISE as c_ulong;
            match capability_control(libc::PR_CAP_AMBIENT, raise, number.into()) {
                // One that is not both permitted and inheritable cannot be ambient, which runc passes over as well.
                Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => {}
                failed => failed.context(|| "unable to raise ambient caps".into())?,
            }
        }
        Ok(())
    }

    fn set_process(&self) -> nix::Result<()> {
        #[repr(C)]
        struct Header {
            version: u32,
            pid: i32,
        }
        #[repr(C)]
        struct Data {
            effective: u32,
            permitted: u32,
            inheritable: u32,
        }
        let word = |shift: u32| Data {
            effective: (self.effective >> shift) as u32,
            permitted: (self.permitted >> shift) as u32,
            inheritable: (self.inheritable >> shift) as u32,
        };
        let (header, data) = (
            Header {
                version: VERSION_3,
                pid: 0,
            },
            [word(0), word(32)],
        );
        // SAFETY: header and data are laid out as the kernel's, of this version, and outlive the call.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const data) }).map(drop)
    }
}

fn capability_control(option: libc::c_int, first: c_ulong, second: c_ulong) -> nix::Result<()> {
    let unused: c_ulong = 0;
    // SAFETY: these options take numbers only.
    Errno::result(unsafe { libc::prctl(option, first, second, unused, unused) }).map(drop)
}

/// Becomes the user, but keeps the permitted capabilities.
pub fn become_user(user: &User) -> Result<()> {
    set_keepcaps(true).context(|| "unable to set keep caps".into())?;
    let groups: Vec<Gid> = user
        .additional_gids()
        .iter()
        .flatten()
        .copied()
        .map(Gid::from_raw)
        .collect();
    setgroups(&groups).context(|| "setgroups".into())?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    setresgid(gid, gid, gid).context(|| format!("setgid {gid}"))?;
    setresuid(uid, uid, uid).context(|| format!("setuid {uid}"))?;
    set_keepcaps(false).context(|| "unable to clear keep caps".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Capability;

    #[test]
    fn each_capability_has_its_number() {
        assert_eq!(number(&Capability::Chown), Some(0));
        assert_eq!(number(&Capability::SysAdmin), Some(21));
        assert_eq!(number(&Capability::Bpf), Some(39));
        assert_eq!(number(&Capability::CheckpointRestore), Some(40));
    }

    #[test]
    fn sets_are_bits() {
        let json = r#"{"bounding": ["CAP_CHOWN", "CAP_KILL"], "ambient": ["CAP_BPF"]}"#;
        let capabilities: LinuxCapabilities = serde_json::from_str(json).unwrap();
        let sets = CapabilitySets::from(&capabilities);
        assert_eq!(
            sets,
            CapabilitySets {
                bounding: 0b10_0001,
                ambient: 1 << 39,
                ..Default::default()
            }
        );
    }
}
