//! What a container has used, read from the files of its cgroup. A controller that the kernel lacks counts nothing.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Most devices and page sizes that are told.
const MAX_DEVICES: usize = 256;
const MAX_PAGE_SIZES: usize = 16;

/// What a cgroup has used.
#[derive(Default)]
pub struct Stats {
    pub memory_usage: u64,
    pub memory_peak: u64,
    pub memory_limit: u64,
    pub memory_details: HashMap<String, u64>,
    pub memory_events: HashMap<String, u64>,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub swap_events: HashMap<String, u64>,
    pub cpu: HashMap<String, u64>,
    pub pids: u64,
    pub pids_limit: u64,
    pub io: Vec<Io>,
    pub huge_pages: Vec<HugePages>,
}

/// What was read from and written to one block device.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub major: u64,
    pub minor: u64,
    pub counters: HashMap<String, u64>,
}

/// Huge pages of one size.
pub struct HugePages {
    pub size: String,
    pub usage: u64,
    pub limit_hits: u64,
}

impl Stats {
    /// Reads them.
    pub fn of(cgroup: &Path) -> Self {
        Self {
            memory_usage: number(cgroup, "memory.current"),
            memory_peak: number(cgroup, "memory.peak"),
            memory_limit: number(cgroup, "memory.max"),
            memory_details: pairs(&text(cgroup, "memory.stat")),
            memory_events: pairs(&text(cgroup, "memory.events")),
            swap_usage: number(cgroup, "memory.swap.current"),
            swap_limit: number(cgroup, "memory.swap.max"),
            swap_events: pairs(&text(cgroup, "memory.swap.events")),
            cpu: pairs(&text(cgroup, "cpu.stat")),
            pids: number(cgroup, "pids.current"),
            pids_limit: number(cgroup, "pids.max"),
            io: io(&text(cgroup, "io.stat")),
            huge_pages: huge_pages(cgroup),
        }
    }
}

/// How many processes of a cgroup the kernel's OOM killer has ended.
pub fn oom_kills(cgroup: &Path) -> u64 {
    pairs(&text(cgroup, "memory.events"))
        .get("oom_kill")
        .copied()
        .unwrap_or_default()
}

fn huge_pages(cgroup: &Path) -> Vec<HugePages> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let sizes = names.filter_map(|name| Some(name.strip_prefix("hugetlb.")?.strip_suffix(".current")?.to_owned()));
    sizes
        // Of each there is a file for reservations, too.
        .filter(|size| !size.contains('.'))
        .take(MAX_PAGE_SIZES)
        .map(|size| HugePages {
            usage: number(cgroup, &format!("hugetlb.{size}.current")),
            limit_hits: pairs(&text(cgroup, &format!("hugetlb.{size}.events")))
                .get("max")
                .copied()
                .unwrap_or_default(),
            size,
        })
        .collect()
}

/// Lines such as `8:0 rbytes=1 wbytes=2 rios=3 wios=4`.
fn io(text: &str) -> Vec<Io> {
    let device = |line: &str| {
        let (device, counters) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let counter = |word: &str| {
            word.split_once('=')
                .and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        };
        Some(Io {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            counters: counters.split(' ').filter_map(counter).collect(),
        })
    };
    text.lines().filter_map(device).take(MAX_DEVICES).collect()
}

/// Lines of a name and a number.
fn pairs(text: &str) -> HashMap<String, u64> {
    let pair = |line: &str| {
        line.split_once(' ')
            .and_then(|(name, number)| Some((name.to_owned(), number.parse().ok()?)))
    };
    text.lines().filter_map(pair).collect()
}

/// A file that holds one number; "max" is 0, no limit.
fn number(cgroup: &Path, file: &str) -> u64 {
    text(cgroup, file).trim_end().parse().unwrap_or_default()
}

/// Empty if the kernel lacks the controller.
fn text(cgroup: &Path, file: &str) -> String {
    fs::read_to_string(cgroup.join(file)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_and_other_lines_ignored() {
        let pairs = pairs("populated 1\nfrozen 0\nsome avg10=0.00\n\nx\n");
        assert_eq!(
            pairs,
            HashMap::from([("populated".to_owned(), 1), ("frozen".to_owned(), 0)])
        );
    }

    #[test]
    fn devices_are_read_and_other_lines_ignored() {
        let found = io("8:0 rbytes=1 wbytes=2 x\n8 rbytes=3\nx:1 rbytes=4\n7:1 \n");
        let counters = HashMap::from([("rbytes".to_owned(), 1), ("wbytes".to_owned(), 2)]);
        let disk = Io {
            major: 8,
            minor: 0,
            counters,
        };
        let idle = Io {
            major: 7,
            minor: 1,
            counters: HashMap::new(),
        };
        assert_eq!(found, [disk, idle]);
    }
}
