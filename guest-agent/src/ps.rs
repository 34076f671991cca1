//! The processes of a container, with the columns of `ps -ef` computed as procps does.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use nix::sys::sysinfo::sysinfo;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// The most processes that are listed, and how much of each is told.
const MAX_PROCESSES: usize = 32_768;
const MAX_COMMAND: usize = 4_096;
const MAX_USER: usize = 32;

/// The most of a container's /etc/passwd that is read.
const MAX_PASSWD: u64 = 1 << 20;

/// A line of `ps -ef`.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    pub pid: u32,
    pub parent: u32,
    pub uid: u32,
    pub user: String,
    pub cpu_percent: u32,
    pub start_time: i64,
    pub terminal: String,
    pub cpu_msec: u64,
    pub command: String,
}

/// What /proc/<pid>/stat tells.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: i32,
    /// User and system time, in ticks.
    cpu: u64,
    /// Since the kernel's start, in ticks.
    start: u64,
}

/// Times that are the same for all processes.
struct Clock {
    ticks_per_second: u64,
    /// Since the kernel's start.
    uptime_ticks: u64,
    /// Seconds since 1970.
    now: i64,
}

/// Describes processes; those that end meanwhile are left out. The users are those of the container's init.
pub fn list(processes: Vec<Pid>, init: Pid) -> io::Result<Vec<Line>> {
    let clock = Clock::read()?;
    let users = users(init);
    let describe = |pid: Pid| describe(pid, &clock, &users);
    Ok(processes.into_iter().take(MAX_PROCESSES).filter_map(describe).collect())
}

fn describe(pid: Pid, clock: &Clock, users: &HashMap<u32, String>) -> Option<Line> {
    let stat = Stat::parse(&lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))?;
    let uid = effective_uid(&lossy(&fs::read(format!("/proc/{pid}/status")).ok()?))?;
    Some(Line {
        pid: pid.as_raw() as u32,
        parent: stat.parent,
        uid,
        user: users.get(&uid).cloned().unwrap_or_default(),
        cpu_percent: clock.cpu_percent(&stat),
        start_time: clock.start_time(&stat),
        terminal: terminal_name(stat.terminal),
        cpu_msec: stat.cpu * 1_000 / clock.ticks_per_second,
        command: command(pid, &stat.name),
    })
}

impl Clock {
    fn read() -> io::Result<Self> {
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100) as u64;
        let uptime = sysinfo()?.uptime();
        let now = clock_gettime(ClockId::CLOCK_REALTIME)?.tv_sec();
        Ok(Self {
            ticks_per_second,
            uptime_ticks: uptime.as_secs() * ticks_per_second,
            now,
        })
    }

    /// Of one CPU over the process's life, at most 99 as ps shows it.
    fn cpu_percent(&self, stat: &Stat) -> u32 {
        let life = self.uptime_ticks.saturating_sub(stat.start);
        stat.cpu.saturating_mul(100).checked_div(life).unwrap_or(0).min(99) as u32
    }

    fn start_time(&self, stat: &Stat) -> i64 {
        let life = self.uptime_ticks.saturating_sub(stat.start);
        self.now - (life / self.ticks_per_second) as i64
    }
}

impl Stat {
    /// The name is in parentheses and may hold any character, so the fields after it are found from the end.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        // fields[0] is the third of proc(5): the state.
        let number = |index: usize| fields.get(index - 3)?.parse::<i64>().ok();
        Some(Self {
            name,
            parent: number(4)? as u32,
            terminal: number(7)? as i32,
            cpu: number(14)? as u64 + number(15)? as u64,
            start: number(22)? as u64,
        })
    }
}

/// The second of the numbers in the line of status that holds the real, effective, saved and file-system uid.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The name of a controlling terminal, from its device number as in proc(5).
fn terminal_name(device: i32) -> String {
    let device = device as u32;
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xfff00);
    match (major, minor) {
        (0, _) => String::new(),
        (4, 64..) => format!("ttyS{}", minor - 64),
        (4, _) => format!("tty{minor}"),
        (5, 1) => "console".to_owned(),
        (136..=143, _) => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

/// The arguments joined by spaces; the name in brackets for a process without any.
fn command(pid: Pid, name: &str) -> String {
    let mut arguments = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline"));
    let _ = file.map(|file| file.take(MAX_COMMAND as u64).read_to_end(&mut arguments));
    while arguments.last() == Some(&0) {
        arguments.pop();
    }
    for byte in &mut arguments {
        *byte = if *byte == 0 { b' ' } else { *byte };
    }
    let text = if arguments.is_empty() {
        format!("[{name}]")
    } else {
        lossy(&arguments)
    };
    cut(text, MAX_COMMAND)
}

/// The users of the container, by uid. Its files are the container's own: read within its root, and not far.
fn users(init: Pid) -> HashMap<u32, String> {
    let read = || -> io::Result<String> {
        let mut text = Vec::new();
        open_in_root(init, "etc/passwd")?
            .take(MAX_PASSWD)
            .read_to_end(&mut text)?;
        Ok(lossy(&text))
    };
    // A container without users has none to name.
    parsed_users(&read().unwrap_or_default())
}

fn open_in_root(init: Pid, path: &str) -> io::Result<File> {
    let root = File::open(format!("/proc/{init}/root"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .mode(Mode::empty())
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file: OwnedFd = openat2(&root, path, how)?;
    let file = File::from(file);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::from(io::ErrorKind::InvalidInput)),
    }
}

/// The first name of each uid, as getpwuid(3) finds it.
fn parsed_users(passwd: &str) -> HashMap<u32, String> {
    let mut users = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) {
            users.entry(uid).or_insert_with(|| cut(name.to_owned(), MAX_USER));
        }
    }
    users
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn cut(mut text: String, limit: usize) -> String {
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) R (b) S 7 42 42 34816 42 4194560 100 0 0 0 30 20 0 0 20 0 1 0 1000 1 2 3";

    #[test]
    fn a_name_may_hold_parentheses_and_spaces() {
        let expected = Stat {
            name: "a) R (b".to_owned(),
            parent: 7,
            terminal: 34816,
            cpu: 50,
            start: 1000,
        };
        assert_eq!(Stat::parse(STAT), Some(expected));
        assert_eq!(Stat::parse("42 (cut"), None);
        assert_eq!(Stat::parse("42 (cut) S 7"), None);
    }

    #[test]
    fn times_are_those_of_ps() {
        let stat = Stat::parse(STAT).expect("valid");
        let clock = Clock {
            ticks_per_second: 100,
            uptime_ticks: 1500,
            now: 1_000_000,
        };
        assert_eq!((clock.cpu_percent(&stat), clock.start_time(&stat)), (10, 999_995));
        let young = Clock {
            uptime_ticks: 1000,
            ..clock
        };
        assert_eq!((young.cpu_percent(&stat), young.start_time(&stat)), (0, 1_000_000));
    }

    #[test]
    fn terminals_have_their_names() {
        let table = [
            (0, ""),
            (34816, "pts/0"),
            (34817, "pts/1"),
            (0x0401, "tty1"),
            (0x0440, "ttyS0"),
            (0x0501, "console"),
        ];
        for (device, name) in table {
            assert_eq!(terminal_name(device), name);
        }
    }

    #[test]
    fn the_first_name_of_a_uid_counts() {
        let users = parsed_users("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\nbroken\nx:y:z\nbin:*:2:2::/:\n");
        assert_eq!(users, HashMap::from([(0, "root".to_owned()), (2, "bin".to_owned())]));
    }

    #[test]
    fn this_process_is_described() {
        let own = Pid::this();
        let lines = list(vec![own, Pid::from_raw(i32::MAX)], own).expect("/proc is there");
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0].pid, own.as_raw() as u32);
        assert!(lines[0].command.contains("vruntime_agent"), "{}", lines[0].command);
    }
}
