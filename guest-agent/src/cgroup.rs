//! The cgroup v2 of a container: made, limited, frozen, killed, removed.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use oci_spec::runtime::{LinuxResources, Mount, Spec};
use tokio::io::Interest;

use crate::device_filter;
use crate::error::{Error, Result};
use crate::fd;
use crate::init::user_namespace;
use crate::reaper::send_signal;
use crate::resources::{self, Setting};

/// Where the containers' cgroups are, below the root of the hierarchy.
const CONTAINERS: &str = "containers";

/// Names the files that come with a cgroup to whom it is given.
const DELEGATED: &str = "/sys/kernel/cgroup/delegate";

/// How long the processes of a cgroup may take to end once killed, or to stop.
const DEADLINE: Duration = Duration::from_secs(10);

/// How often the list of processes is read again to signal those that were forked meanwhile.
const SIGNAL_ROUNDS: usize = 8;

/// Makes the place for containers, and gives them every controller of the hierarchy.
pub fn prepare_root(root: &Path) -> io::Result<()> {
    let containers = root.join(CONTAINERS);
    fs::create_dir_all(&containers)?;
    let available = fs::read_to_string(root.join("cgroup.controllers"))?;
    let enabled: Vec<String> = available.split_whitespace().map(|name| format!("+{name}")).collect();
    for directory in [root, &containers] {
        fs::write(directory.join("cgroup.subtree_control"), enabled.join(" "))?;
    }
    Ok(())
}

/// A container's cgroup, and all below it.
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes the cgroup of a container, with its limits and its device rules, and gives it to who is to manage it.
    pub fn create(root: &Path, id: &str, spec: &Spec) -> Result<Self> {
        let limits = spec.linux().as_ref().and_then(|linux| linux.resources().clone());
        let limits = limits.unwrap_or_default();
        let settings = resources::settings(&limits).map_err(|why| invalid("linux.resources.", why))?;
        let devices = limits.devices().as_deref().unwrap_or_default();
        let rules = device_filter::rules(devices).map_err(|why| invalid("linux.resources.", why))?;

        let path = root.join(CONTAINERS).join(id);
        fs::create_dir(&path).map_err(|error| Error::kernel(format!("make the cgroup {}", path.display()), error))?;
        let cgroup = Self { path };
        let set_up = || {
            cgroup.limit(&settings, &rules)?;
            owner(spec).map_or(Ok(()), |owner| cgroup.give_to(owner))
        };
        match set_up() {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.remove()?;
                Err(error)
            }
        }
    }

    /// Gives a user what the kernel says may be given.
    fn give_to(&self, owner: u32) -> Result<()> {
        let give = || -> io::Result<()> {
            let files = fs::read_to_string(DELEGATED)?;
            chown(&self.path, Some(owner), None)?;
            for file in files
                .lines()
                .map(|name| self.path.join(name))
                .filter(|file| file.exists())
            {
                chown(file, Some(owner), None)?;
            }
            Ok(())
        };
        give().map_err(|error| Error::kernel(format!("give {} to user {owner}", self.path.display()), error))
    }

    /// Changes the limits. Those before one that the kernel refuses are changed.
    pub fn update(&self, limits: &LinuxResources) -> Result<()> {
        let settings = resources::settings(limits).map_err(|why| invalid("resources.", why))?;
        settings.iter().try_for_each(|setting| self.apply(setting))
    }

    fn limit(&self, settings: &[Setting], rules: &[device_filter::Rule]) -> Result<()> {
        for setting in settings {
            self.apply(setting)?;
        }
        let attach = || device_filter::attach(rules, File::open(&self.path)?.as_fd());
        attach().map_err(|error| Error::kernel(format!("restrict the devices of {}", self.path.display()), error))
    }

    fn apply(&self, setting: &Setting) -> Result<()> {
        match setting.optional && !self.path.join(&setting.file).exists() {
            true => Ok(()),
            false => self.write(&setting.file, &setting.value),
        }
    }

    /// Moves a process in: beside the container's init, which may have made groups of its own and moved to one of them.
    /// A process at their top would then keep the controllers from them, or be refused there: a cgroup has either
    /// processes or controllers for those below it.
    pub fn add(&self, process: Pid, init: Option<Pid>) -> Result<()> {
        let join = |directory: &Path| fs::write(directory.join("cgroup.procs"), process.to_string());
        let beside = |init| self.directory_of(init).and_then(|directory| join(&directory));
        init.map_or_else(|| join(&self.path), |init| beside(init).or_else(|_| join(&self.path)))
            .map_err(|error| Error::kernel(format!("move a process to {}", self.path.display()), error))
    }

    /// The cgroup of a process of this container.
    fn directory_of(&self, process: Pid) -> io::Result<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
        let inside = text
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let name = self.path.file_name().unwrap_or_default();
        let below: PathBuf = Path::new(inside)
            .iter()
            .skip_while(|part| *part != name)
            .skip(1)
            .collect();
        Ok(self.path.join(below))
    }

    /// All processes, of the groups below as well.
    pub fn processes(&self) -> Vec<Pid> {
        let mut list = Vec::new();
        for directory in self.directories() {
            // A group may vanish while it is read: then its processes are gone.
            let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            list.extend(text.lines().filter_map(|line| line.parse().ok().map(Pid::from_raw)));
        }
        list
    }

    /// This directory and those below it, a parent always before its children.
    fn directories(&self) -> Vec<PathBuf> {
        let mut found = vec![self.path.clone()];
        let mut next = 0;
        while let Some(directory) = found.get(next) {
            next += 1;
            let Ok(entries) = fs::read_dir(directory) else { continue };
            let below = entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            found.extend(below.map(|entry| entry.path()).collect::<Vec<_>>());
        }
        found
    }

    /// Sends a signal to every process but one. A process forked meanwhile gets it in the next round.
    pub fn signal_others(&self, number: i32, but: Pid) -> Result<()> {
        let mut reached = vec![but];
        for _ in 0..SIGNAL_ROUNDS {
            let new: Vec<Pid> = self
                .processes()
                .into_iter()
                .filter(|pid| !reached.contains(pid))
                .collect();
            if new.is_empty() {
                break;
            }
            for pid in &new {
                match send_signal(*pid, number) {
                    Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                    Err(error) => return Err(Error::kernel(format!("signal process {pid}"), error)),
                }
            }
            reached.extend(new);
        }
        Ok(())
    }

    /// Sends SIGKILL to every process, at once.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(|error| Error::kernel(format!("write {value:?} to {}", path.display()), error))
    }

    /// Kills every process, waits until they have ended, and removes the cgroup.
    pub async fn destroy(&self) -> Result<()> {
        self.empty().await?;
        self.remove()
    }

    /// Kills every process, and waits until they have ended.
    pub async fn empty(&self) -> Result<()> {
        self.kill()?;
        self.reach("populated 0", "killed processes have not ended").await
    }

    /// Stops every process, or lets them go on; waits until it is so.
    pub async fn freeze(&self, frozen: bool) -> Result<()> {
        let value = if frozen { "1" } else { "0" };
        self.write("cgroup.freeze", value)?;
        let state = format!("frozen {value}");
        let result = self.reach(&state, "processes cannot be stopped").await;
        if result.is_err() && frozen {
            self.write("cgroup.freeze", "0")?;
        }
        result
    }

    /// Whether its processes are stopped, or are about to be.
    pub fn is_frozen(&self) -> bool {
        fs::read(self.path.join("cgroup.freeze")).is_ok_and(|value| value.starts_with(b"1"))
    }

    /// Waits until the kernel reports a state in cgroup.events, which it tells by an exceptional condition on the file.
    async fn reach(&self, state: &str, failure: &str) -> Result<()> {
        let path = self.path.join("cgroup.events");
        let reached = || -> io::Result<bool> { Ok(fs::read_to_string(&path)?.lines().any(|line| line == state)) };
        let reaching = async {
            if reached()? {
                return Ok(());
            }
            let events = fd::watch(File::open(&path)?, Interest::PRIORITY)?;
            while !reached()? {
                events.ready(Interest::PRIORITY).await?.clear_ready();
            }
            Ok::<_, io::Error>(())
        };
        match tokio::time::timeout(DEADLINE, reaching).await {
            Ok(result) => result.map_err(|error| Error::kernel(format!("watch {}", path.display()), error)),
            Err(_) => {
                let seconds = DEADLINE.as_secs();
                let message = format!("{}: {failure} within {seconds} s", self.path.display());
                Err(Error::Internal(message))
            }
        }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn remove(&self) -> Result<()> {
        for directory in self.directories().iter().rev() {
            fs::remove_dir(directory)
                .map_err(|error| Error::kernel(format!("remove the cgroup {}", directory.display()), error))?;
        }
        Ok(())
    }
}

/// Who is to own the container's cgroup, as with runc: the user of its process, if it may write to a mount of it.
fn owner(spec: &Spec) -> Option<u32> {
    let writable = |mount: &Mount| {
        let kind = mount.typ().as_deref().unwrap_or_default();
        let options = mount.options().iter().flatten();
        matches!(kind, "cgroup" | "cgroup2")
            && mount.destination() == Path::new("/sys/fs/cgroup")
            && options.fold(true, |writable, option| option != "ro" && (writable || option == "rw"))
    };
    if !spec.mounts().iter().flatten().any(writable) {
        return None;
    }
    let user = spec.process().as_ref()?.user().uid();
    user_namespace::guest_uid(spec.linux().as_ref(), user).filter(|owner| *owner != 0)
}

fn invalid(prefix: &str, why: String) -> Error {
    Error::InvalidArgument(format!("{prefix}{why}"))
}
