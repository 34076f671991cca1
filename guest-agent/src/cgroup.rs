//! The cgroup v2 of a container: made, limited, measured, killed, removed.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;
use tokio::io::Interest;

use crate::device_filter;
use crate::error::{Error, Result};
use crate::fd;
use crate::reaper::send_signal;
use crate::resources::{self, Setting};

/// Where the containers' cgroups are, below the root of the hierarchy.
const CONTAINERS: &str = "containers";

/// How long the processes of a killed cgroup may take to end.
const END_DEADLINE: Duration = Duration::from_secs(10);

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

/// What a cgroup has used; a controller that the kernel lacks counts nothing.
#[derive(Default)]
pub struct Stats {
    pub memory_usage: u64,
    pub memory_peak: u64,
    pub memory_limit: u64,
    pub memory_swap: u64,
    pub memory_details: HashMap<String, u64>,
    pub oom_kills: u64,
    pub cpu: HashMap<String, u64>,
    pub pids: u64,
    pub pids_limit: u64,
}

impl Cgroup {
    /// Makes the cgroup, with its limits and its device rules.
    pub fn create(root: &Path, id: &str, limits: &LinuxResources) -> Result<Self> {
        let settings = resources::settings(limits).map_err(|why| invalid("linux.resources.", why))?;
        let devices = limits.devices().as_deref().unwrap_or_default();
        let rules = device_filter::rules(devices).map_err(|why| invalid("linux.resources.", why))?;

        let path = root.join(CONTAINERS).join(id);
        fs::create_dir(&path).map_err(|error| Error::kernel(format!("make the cgroup {}", path.display()), error))?;
        let cgroup = Self { path };
        match cgroup.limit(&settings, &rules) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                cgroup.remove()?;
                Err(error)
            }
        }
    }

    fn limit(&self, settings: &[Setting], rules: &[device_filter::Rule]) -> Result<()> {
        for setting in settings {
            self.apply(setting)?;
        }
        let attach = || device_filter::attach(rules, File::open(&self.path)?.as_fd());
        attach().map_err(|error| Error::kernel(format!("restrict the devices of {}", self.path.display()), error))
    }

    fn apply(&self, setting: &Setting) -> Result<()> {
        let path = self.path.join(&setting.file);
        match fs::write(&path, &setting.value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && setting.optional => Ok(()),
            Err(error) => Err(Error::kernel(
                format!("write {:?} to {}", setting.value, path.display()),
                error,
            )),
            Ok(()) => Ok(()),
        }
    }

    /// Moves a process in. A container that manages cgroups itself may have left none for processes at its top: then to
    /// where its init is.
    pub fn add(&self, process: Pid, init: Option<Pid>) -> Result<()> {
        let join = |directory: &Path| fs::write(directory.join("cgroup.procs"), process.to_string());
        let result = match (join(&self.path), init) {
            (Err(error), Some(init)) if error.kind() == io::ErrorKind::ResourceBusy => {
                self.directory_of(init).and_then(|directory| join(&directory))
            }
            (result, _) => result,
        };
        result.map_err(|error| Error::kernel(format!("move a process to {}", self.path.display()), error))
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
        let path = self.path.join("cgroup.kill");
        fs::write(&path, "1").map_err(|error| Error::kernel(format!("write 1 to {}", path.display()), error))
    }

    /// Kills every process, waits until they have ended, and removes the cgroup.
    pub async fn destroy(&self) -> Result<()> {
        self.empty().await?;
        self.remove()
    }

    /// Kills every process, and waits until they have ended.
    pub async fn empty(&self) -> Result<()> {
        self.kill()?;
        match tokio::time::timeout(END_DEADLINE, self.emptied()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Error::kernel(format!("watch {}", self.path.display()), error)),
            Err(_) => Err(Error::Internal(format!(
                "killed processes of {} have not ended within {} s",
                self.path.display(),
                END_DEADLINE.as_secs()
            ))),
        }
    }

    /// Waits until no process is left; the kernel tells by an exceptional condition on the file.
    async fn emptied(&self) -> io::Result<()> {
        let path = self.path.join("cgroup.events");
        let is_empty = || -> io::Result<bool> { Ok(fs::read_to_string(&path)?.contains("populated 0")) };
        if is_empty()? {
            return Ok(());
        }
        let events = fd::watch(File::open(&path)?, Interest::PRIORITY)?;
        while !is_empty()? {
            events.ready(Interest::PRIORITY).await?.clear_ready();
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        for directory in self.directories().iter().rev() {
            fs::remove_dir(directory)
                .map_err(|error| Error::kernel(format!("remove the cgroup {}", directory.display()), error))?;
        }
        Ok(())
    }

    /// Whether the kernel's OOM killer has ended a process.
    pub fn oom_killed(&self) -> bool {
        self.pairs("memory.events")
            .get("oom_kill")
            .is_some_and(|count| *count > 0)
    }

    pub fn stats(&self) -> Stats {
        Stats {
            memory_usage: self.number("memory.current"),
            memory_peak: self.number("memory.peak"),
            memory_limit: self.number("memory.max"),
            memory_swap: self.number("memory.swap.current"),
            memory_details: self.pairs("memory.stat"),
            oom_kills: self.pairs("memory.events").get("oom_kill").copied().unwrap_or_default(),
            cpu: self.pairs("cpu.stat"),
            pids: self.number("pids.current"),
            pids_limit: self.number("pids.max"),
        }
    }

    fn pairs(&self, file: impl AsRef<OsStr>) -> HashMap<String, u64> {
        parsed_pairs(&self.text(file.as_ref()))
    }

    /// A file that holds one number; "max" is 0, no limit.
    fn number(&self, file: impl AsRef<OsStr>) -> u64 {
        self.text(file.as_ref()).trim_end().parse().unwrap_or_default()
    }

    /// Empty if the kernel lacks the controller.
    fn text(&self, file: &OsStr) -> String {
        fs::read_to_string(self.path.join(file)).unwrap_or_default()
    }
}

/// Lines of a name and a number.
fn parsed_pairs(text: &str) -> HashMap<String, u64> {
    let pair = |line: &str| {
        line.split_once(' ')
            .and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
    };
    text.lines().filter_map(pair).collect()
}

fn invalid(prefix: &str, why: String) -> Error {
    Error::InvalidArgument(format!("{prefix}{why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_other_lines_ignored() {
        let pairs = parsed_pairs("populated 1\nfrozen 0\nsome avg10=0.00\n\nx\n");
        assert_eq!(
            pairs,
            HashMap::from([("populated".to_owned(), 1), ("frozen".to_owned(), 0)])
        );
    }
}
