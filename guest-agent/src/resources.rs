//! The OCI `linux.resources` as writes to the files of a cgroup v2, converted as runc does it.
//!
//! Pure: the result is a list of settings, in the order in which they must be written.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

/// One write to a file of a cgroup.
#[derive(Debug, PartialEq, Eq)]
pub struct Setting {
    pub file: String,
    pub value: String,
    /// Whether it asks for what holds anyway where the kernel lacks the file.
    pub optional: bool,
}

/// The period of a CPU quota for which none is given, in microseconds.
const DEFAULT_CPU_PERIOD: u64 = 100_000;

/// All settings of a container. An error says which value cannot be converted, and why.
pub fn settings(resources: &LinuxResources) -> Result<Vec<Setting>, String> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        list.extend(memory_settings(memory)?);
    }
    if let Some(cpu) = resources.cpu() {
        list.extend(cpu_settings(cpu));
    }
    if let Some(pids) = resources.pids() {
        list.extend(limit("pids.max", Some(pids.limit())));
    }
    if let Some(block_io) = resources.block_io() {
        list.extend(io_settings(block_io));
    }
    for page in resources.hugepage_limits().iter().flatten() {
        let size = plain_name(page.page_size())?;
        list.push(setting(&format!("hugetlb.{size}.max"), page.limit()));
        // Reservations too, where the kernel counts them apart.
        list.push(Setting {
            optional: true,
            ..setting(&format!("hugetlb.{size}.rsvd.max"), page.limit())
        });
    }
    // Last: it may overrule what is above.
    let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
    unified.sort();
    for (file, value) in unified {
        list.push(setting(plain_name(file)?, value));
    }
    Ok(list)
}

fn memory_settings(memory: &LinuxMemory) -> Result<Vec<Setting>, String> {
    let mut list = Vec::new();
    list.extend(swap_limit(memory.limit().unwrap_or(0), memory.swap().unwrap_or(0))?);
    list.extend(limit("memory.max", memory.limit()));
    list.extend(limit("memory.low", memory.reservation()));
    Ok(list)
}

/// OCI's swap is memory and swap together, as in cgroup v1; v2 counts swap alone. 0 is unset, -1 unlimited.
fn swap_limit(memory: i64, swap: i64) -> Result<Option<Setting>, String> {
    let value = match (memory, swap) {
        (-1, 0) | (_, -1) => "max".to_owned(),
        (_, 0) => return Ok(None),
        (0 | -1, _) => return Err("memory.swap: unable to set swap limit without memory limit".to_owned()),
        (memory, swap) if memory < 0 || swap < 0 => return Err("memory: a limit is negative".to_owned()),
        (memory, swap) if swap < memory => {
            return Err("memory.swap: memory+swap limit should be >= memory limit".to_owned());
        }
        (memory, swap) => (swap - memory).to_string(),
    };
    // Without swap in the kernel, no swap and any amount of it are the same.
    let optional = value == "max" || value == "0";
    Ok(Some(Setting {
        file: "memory.swap.max".to_owned(),
        value,
        optional,
    }))
}

fn cpu_settings(cpu: &LinuxCpu) -> Vec<Setting> {
    let mut list = Vec::new();
    if let Some(weight) = cpu.shares().and_then(weight_of_shares) {
        list.push(setting("cpu.weight", weight));
    }
    if let Some(idle) = cpu.idle() {
        list.push(setting("cpu.idle", idle));
    }
    // The kernel demands burst <= quota at any time: it is raised after the quota.
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { DEFAULT_CPU_PERIOD } else { period };
        list.push(setting("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        list.push(setting("cpu.max.burst", burst));
    }
    for (file, set) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        list.extend(set.iter().filter(|set| !set.is_empty()).map(|set| setting(file, set)));
    }
    list
}

/// From 2..262144 to 1..10000; 0 is unset.
fn weight_of_shares(shares: u64) -> Option<u64> {
    (shares != 0).then(|| 1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142)
}

fn io_settings(block_io: &LinuxBlockIo) -> Vec<Setting> {
    let mut list = Vec::new();
    if let Some(weight) = block_io.weight().and_then(io_weight) {
        list.push(setting("io.weight", format!("default {weight}")));
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().and_then(io_weight) {
            list.push(setting(
                "io.weight",
                format!("{}:{} {weight}", device.major(), device.minor()),
            ));
        }
    }
    list.extend(throttles("rbps", block_io.throttle_read_bps_device()));
    list.extend(throttles("wbps", block_io.throttle_write_bps_device()));
    list.extend(throttles("riops", block_io.throttle_read_iops_device()));
    list.extend(throttles("wiops", block_io.throttle_write_iops_device()));
    list
}

/// From 10..1000 to 1..10000; 0 is unset.
fn io_weight(weight: u16) -> Option<u32> {
    (weight != 0).then(|| 1 + (u32::from(weight).clamp(10, 1_000) - 10) * 9_999 / 990)
}

fn throttles(key: &str, devices: &Option<Vec<LinuxThrottleDevice>>) -> impl Iterator<Item = Setting> {
    devices.iter().flatten().map(move |device| {
        setting(
            "io.max",
            format!("{}:{} {key}={}", device.major(), device.minor(), device.rate()),
        )
    })
}

/// 0 is unset, -1 unlimited.
fn limit(file: &str, value: Option<i64>) -> Option<Setting> {
    match value {
        None | Some(0) => None,
        Some(-1) => Some(setting(file, "max")),
        Some(value) => Some(setting(file, value)),
    }
}

fn setting(file: &str, value: impl ToString) -> Setting {
    Setting {
        file: file.to_owned(),
        value: value.to_string(),
        optional: false,
    }
}

/// A name that stays inside the cgroup's directory.
fn plain_name(name: &str) -> Result<&str, String> {
    let plain = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c));
    match plain && name.contains(|c| c != '.') {
        true => Ok(name),
        false => Err(format!("{name:?} is no name of a cgroup's file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(json: &str) -> Result<Vec<String>, String> {
        let resources: LinuxResources = serde_json::from_str(json).expect("valid resources");
        Ok(settings(&resources)?
            .into_iter()
            .map(|s| format!("{}={}", s.file, s.value))
            .collect())
    }

    #[test]
    fn resources_become_writes() {
        let table: &[(&str, &[&str])] = &[
            (r#"{}"#, &[]),
            (r#"{"memory":{"limit":4096}}"#, &["memory.max=4096"]),
            (r#"{"memory":{"limit":-1}}"#, &["memory.swap.max=max", "memory.max=max"]),
            (
                r#"{"memory":{"limit":10,"swap":30}}"#,
                &["memory.swap.max=20", "memory.max=10"],
            ),
            (
                r#"{"memory":{"limit":10,"swap":10}}"#,
                &["memory.swap.max=0", "memory.max=10"],
            ),
            (
                r#"{"memory":{"limit":10,"swap":-1}}"#,
                &["memory.swap.max=max", "memory.max=10"],
            ),
            (r#"{"memory":{"reservation":5}}"#, &["memory.low=5"]),
            (r#"{"cpu":{"shares":1024}}"#, &["cpu.weight=39"]),
            (r#"{"cpu":{"shares":2}}"#, &["cpu.weight=1"]),
            (r#"{"cpu":{"shares":262144}}"#, &["cpu.weight=10000"]),
            (r#"{"cpu":{"quota":50000}}"#, &["cpu.max=50000 100000"]),
            (r#"{"cpu":{"quota":-1,"period":5000}}"#, &["cpu.max=max 5000"]),
            (
                r#"{"cpu":{"quota":5,"burst":3}}"#,
                &["cpu.max=5 100000", "cpu.max.burst=3"],
            ),
            (r#"{"cpu":{"cpus":"0-1","mems":""}}"#, &["cpuset.cpus=0-1"]),
            (r#"{"pids":{"limit":7}}"#, &["pids.max=7"]),
            (r#"{"pids":{"limit":-1}}"#, &["pids.max=max"]),
            (r#"{"pids":{"limit":0}}"#, &[]),
            (r#"{"blockIO":{"weight":1000}}"#, &["io.weight=default 10000"]),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":9}]}}"#,
                &["io.max=8:0 rbps=9"],
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#,
                &["hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0"],
            ),
            (
                r#"{"unified":{"memory.high":"5","cpu.weight":"7"}}"#,
                &["cpu.weight=7", "memory.high=5"],
            ),
        ];
        for (json, expected) in table {
            assert_eq!(converted(json).as_deref(), Ok(&expected.map_strings()[..]), "{json}");
        }
    }

    trait MapStrings {
        fn map_strings(&self) -> Vec<String>;
    }

    impl MapStrings for &[&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }

    #[test]
    fn what_cannot_be_converted_is_refused() {
        for json in [
            r#"{"memory":{"swap":10}}"#,
            r#"{"memory":{"limit":-1,"swap":10}}"#,
            r#"{"memory":{"limit":10,"swap":9}}"#,
            r#"{"unified":{"../cgroup.procs":"1"}}"#,
            r#"{"unified":{"..":"1"}}"#,
            r#"{"unified":{"":"1"}}"#,
            r#"{"hugepageLimits":[{"pageSize":"a/b","limit":0}]}"#,
        ] {
            assert!(converted(json).is_err(), "{json}");
        }
    }
}
