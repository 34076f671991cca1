//! The options of a mount: which of them are attributes, which go to the file system.

use nix::libc::{self, c_ulong};
use nix::mount::MsFlags;

use super::mount_api::{Attributes, Depth};

/// What the options of one mount say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// For a bind mount: how deep.
    pub bind: Option<Depth>,
    /// Attributes of the mount itself.
    pub attributes: Attributes,
    /// Attributes of the mount and of all below it.
    pub recursive: Attributes,
    /// Propagations, in the order in which they are set.
    pub propagations: Vec<(c_ulong, Depth)>,
    /// Flags that any file system knows, by the kernel's names.
    pub flags: Vec<&'static str>,
    /// What only this type of file system knows.
    pub data: Vec<String>,
    /// Fill a tmpfs with what it covers.
    pub copy_up: bool,
    /// Change a mount that is there already.
    pub remount: bool,
}

/// Flags that any file system knows: the kernel's names, and the flags of mount(2).
const FILESYSTEM_FLAGS: &[(&str, c_ulong)] = &[
    ("sync", libc::MS_SYNCHRONOUS),
    ("async", 0),
    ("dirsync", libc::MS_DIRSYNC),
    ("mand", libc::MS_MANDLOCK),
    ("nomand", 0),
    ("lazytime", libc::MS_LAZYTIME),
    ("nolazytime", 0),
];

/// The attributes that mount(2) has flags for.
const ATTRIBUTE_FLAGS: &[(u64, c_ulong)] = &[
    (libc::MOUNT_ATTR_RDONLY, libc::MS_RDONLY),
    (libc::MOUNT_ATTR_NOSUID, libc::MS_NOSUID),
    (libc::MOUNT_ATTR_NODEV, libc::MS_NODEV),
    (libc::MOUNT_ATTR_NOEXEC, libc::MS_NOEXEC),
    (libc::MOUNT_ATTR_NODIRATIME, libc::MS_NODIRATIME),
    (libc::MOUNT_ATTR_NOSYMFOLLOW, libc::MS_NOSYMFOLLOW),
    (libc::MOUNT_ATTR_NOATIME, libc::MS_NOATIME),
    (libc::MOUNT_ATTR_STRICTATIME, libc::MS_STRICTATIME),
];

/// Options without a meaning here: they are the default, or only loosen a default that cannot be loosened.
const WITHOUT_EFFECT: &[&str] = &["defaults", "silent", "loud", "acl", "noacl", "iversion", "noiversion"];

impl MountOptions {
    /// Sorts the options, of which later ones prevail.
    pub fn parse<'a>(options: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parsed = Self::default();
        options.into_iter().for_each(|option| parsed.add(option));
        parsed
    }

    /// Whether the mount is to be read-only.
    pub fn read_only(&self) -> bool {
        self.attributes.set & libc::MOUNT_ATTR_RDONLY != 0
    }

    /// The options as flags of mount(2), for a remount.
    pub fn remount_flags(&self) -> MsFlags {
        let attributes = ATTRIBUTE_FLAGS
            .iter()
            .filter(|(attribute, _)| self.attributes.set & attribute != 0)
            .map(|(_, flag)| *flag);
        let filesystem = FILESYSTEM_FLAGS
            .iter()
            .filter(|(name, _)| self.flags.contains(name))
            .map(|(_, flag)| *flag);
        let bind = self.bind.map(|_| libc::MS_BIND);
        MsFlags::from_bits_retain(attributes.chain(filesystem).chain(bind).fold(0, |all, flag| all | flag))
    }

    /// The value of an option of the file system.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.data
            .iter()
            .filter_map(|option| option.split_once('='))
            .rev()
            .find(|(name, _)| *name == key)
            .map(|(_, v)| v)
    }

    fn add(&mut self, option: &str) {
        match option {
            "bind" => self.bind = self.bind.or(Some(Depth::One)),
            "rbind" => self.bind = Some(Depth::Recursive),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            _ if WITHOUT_EFFECT.contains(&option) => {}
            _ => {
                if let Some(flag) = filesystem_flag(option) {
                    self.flags.push(flag);
                } else if let Some(propagation) = propagation(option) {
                    self.propagations.push(propagation);
                } else if let Some(change) = attribute(option) {
                    self.attributes.add(change);
                } else if let Some(change) = option.strip_prefix('r').and_then(attribute) {
                    self.recursive.add(change);
                } else {
                    self.data.push(option.to_owned());
                }
            }
        }
    }
}

impl Attributes {
    fn add(&mut self, change: Self) {
        // A mode of access time takes the place of the one before.
        if (change.set | change.clear) & libc::MOUNT_ATTR__ATIME != 0 {
            self.set &= !libc::MOUNT_ATTR__ATIME;
        }
        self.set = self.set & !change.clear | change.set;
        self.clear = self.clear & !change.set | change.clear;
    }
}

fn attribute(option: &str) -> Option<Attributes> {
    let set = |set| Some(Attributes { set, clear: 0 });
    let clear = |clear| Some(Attributes { set: 0, clear });
    match option {
        "ro" => set(libc::MOUNT_ATTR_RDONLY),
        "rw" => clear(libc::MOUNT_ATTR_RDONLY),
        "nosuid" => set(libc::MOUNT_ATTR_NOSUID),
        "suid" => clear(libc::MOUNT_ATTR_NOSUID),
        "nodev" => set(libc::MOUNT_ATTR_NODEV),
        "dev" => clear(libc::MOUNT_ATTR_NODEV),
        "noexec" => set(libc::MOUNT_ATTR_NOEXEC),
        "exec" => clear(libc::MOUNT_ATTR_NOEXEC),
        "nodiratime" => set(libc::MOUNT_ATTR_NODIRATIME),
        "diratime" => clear(libc::MOUNT_ATTR_NODIRATIME),
        "nosymfollow" => set(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "symfollow" => clear(libc::MOUNT_ATTR_NOSYMFOLLOW),
        "noatime" => set(libc::MOUNT_ATTR_NOATIME),
        "strictatime" => set(libc::MOUNT_ATTR_STRICTATIME),
        // The kernel's default, which is the field's value 0.
        "relatime" | "norelatime" | "atime" | "nostrictatime" => clear(libc::MOUNT_ATTR__ATIME),
        _ => None,
    }
}

fn propagation(option: &str) -> Option<(c_ulong, Depth)> {
    Some(match option {
        "shared" => (libc::MS_SHARED, Depth::One),
        "rshared" => (libc::MS_SHARED, Depth::Recursive),
        "slave" => (libc::MS_SLAVE, Depth::One),
        "rslave" => (libc::MS_SLAVE, Depth::Recursive),
        "private" => (libc::MS_PRIVATE, Depth::One),
        "rprivate" => (libc::MS_PRIVATE, Depth::Recursive),
        "unbindable" => (libc::MS_UNBINDABLE, Depth::One),
        "runbindable" => (libc::MS_UNBINDABLE, Depth::Recursive),
        _ => return None,
    })
}

/// The propagation of the root, as linux.rootfsPropagation names it.
pub fn root_propagation(name: &str) -> Option<(c_ulong, Depth)> {
    propagation(name)
}

fn filesystem_flag(option: &str) -> Option<&'static str> {
    FILESYSTEM_FLAGS
        .iter()
        .map(|(name, _)| *name)
        .find(|name| *name == option)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_sorted_by_meaning() {
        let options = MountOptions::parse(["nosuid", "noexec", "mode=0755", "rprivate", "sync", "mode=1777", "ro"]);
        let expected = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC | libc::MOUNT_ATTR_RDONLY;
        assert_eq!(
            options.attributes,
            Attributes {
                set: expected,
                clear: 0
            }
        );
        assert_eq!(options.propagations, [(libc::MS_PRIVATE, Depth::Recursive)]);
        assert_eq!(options.flags, ["sync"]);
        assert_eq!(options.value("mode"), Some("1777"));
        assert!(options.read_only());
    }

    #[test]
    fn later_options_prevail() {
        let options = MountOptions::parse(["ro", "rw", "strictatime", "noatime", "suid", "nosuid"]);
        assert!(!options.read_only());
        assert_eq!(
            options.attributes.set,
            libc::MOUNT_ATTR_NOATIME | libc::MOUNT_ATTR_NOSUID
        );
        assert_eq!(options.attributes.clear, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn recursive_options_stand_apart() {
        let options = MountOptions::parse(["rbind", "rro", "rnosuid"]);
        assert_eq!(options.bind, Some(Depth::Recursive));
        assert!(!options.read_only());
        assert_eq!(options.recursive.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID);
    }

    #[test]
    fn a_remount_has_the_flags_of_mount() {
        let options = MountOptions::parse(["remount", "bind", "ro", "sync", "noatime", "suid"]);
        let expected = libc::MS_BIND | libc::MS_RDONLY | libc::MS_SYNCHRONOUS | libc::MS_NOATIME;
        assert!(options.remount);
        assert_eq!(options.remount_flags().bits(), expected);
    }

    #[test]
    fn what_is_unknown_goes_to_the_file_system() {
        assert_eq!(
            MountOptions::parse(["rsize=4096", "newinstance"]).data,
            ["rsize=4096", "newinstance"]
        );
    }
}
