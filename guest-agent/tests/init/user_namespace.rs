//! Containers with a user namespace of their own.

use std::os::unix::fs::{MetadataExt, chown};

use serde_json::{Value, json};

use crate::support::{Bundle, create, exec, output, run};

const FIRST: u32 = 100_000;

/// A bundle with a user and a network namespace, whose root file system belongs to its root.
fn mapped() -> Bundle {
    let range = json!([{"containerID": 0, "hostID": FIRST, "size": 65536}]);
    let namespaces = ["user", "network", "pid", "ipc", "uts", "mount", "cgroup"]
        .map(|kind| json!({"type": kind}))
        .to_vec();
    let bundle = Bundle::new()
        .set("/linux/namespaces", Value::Array(namespaces))
        .set("/linux/uidMappings", range.clone())
        .set("/linux/gidMappings", range)
        .set("/process/capabilities", all_capabilities());
    give_tree(&bundle.root(), FIRST);
    bundle
}

fn all_capabilities() -> Value {
    let all = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_ADMIN",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_ADMIN"
    ]);
    json!({"bounding": all, "effective": all, "permitted": all})
}

fn give_tree(path: &std::path::Path, owner: u32) {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner)).unwrap();
    if path.symlink_metadata().unwrap().is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            give_tree(&entry.unwrap().path(), owner);
        }
    }
}

#[test]
fn ids_are_mapped_and_all_of_the_containers_is_its_roots() {
    let bundle = mapped().script(
        "cat /proc/self/uid_map; id -u; id -G; touch /f; stat -c %u /f /proc/1 /sys /dev/null /dev/pts/ptmx /dev/shm; \
         hostname other && hostname; mount -t tmpfs none /tmp && echo mounted",
    );
    let written = output(&bundle);
    let lines: Vec<String> = written
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        lines,
        [
            "0 100000 65536",
            "0",
            "0",
            "0",
            "0",
            "65534",
            "65534",
            "0",
            "0",
            "other",
            "mounted"
        ]
    );
    assert_eq!(bundle.root().join("f").metadata().unwrap().uid(), FIRST);
}

#[test]
fn root_has_no_power_over_the_guest() {
    let bundle = mapped().script(
        "mkdir /m; for i in 'mount -t ext4 /dev/vda /m' 'mknod /tmp/n c 1 3' 'echo 1 >/proc/sys/kernel/printk' \
         'chmod 666 /dev/null'; do sh -c \"$i\" 2>/dev/null && echo \"$i\"; done; echo x >/dev/null && echo end",
    );
    assert_eq!(output(&bundle), "end\n");
}

#[test]
fn the_network_is_its_own_with_lo_up_and_parameters() {
    let bundle = mapped()
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "4097", "fs.mqueue.msg_max": "11"}))
        .script("cat /sys/class/net/lo/flags /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/fs/mqueue/msg_max; ls /sys/class/net");
    assert_eq!(output(&bundle), "0x9\n1\n4097\n11\nlo\n");
}

#[test]
fn another_user_of_the_container_writes_to_its_streams() {
    let bundle = mapped()
        .set(
            "/process/user",
            json!({"uid": 1000, "gid": 1000, "additionalGids": [5]}),
        )
        .script("id -u; id -G; echo again >/dev/stdout");
    assert_eq!(output(&bundle), "1000\n1000 5\nagain\n");
}

#[test]
fn an_exec_joins_it() {
    let bundle = mapped().script("while :; do sleep 0.1; done");
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    let process = |script: &str, user: u32| json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": user, "gid": 0}});
    let compare =
        "for ns in user net time; do [ $(readlink /proc/self/ns/$ns) = $(readlink /proc/1/ns/$ns) ] && echo $ns; done";
    let outcome = exec(&bundle, &container, process(compare, 0)).unwrap().finish();
    assert_eq!(outcome.output, "user\nnet\ntime\n");
    let look = "id -u; grep -c . /proc/self/uid_map; echo x >/dev/stdout; cat </dev/stdin";
    let outcome = exec(&bundle, &container, process(look, 7)).unwrap().finish();
    assert_eq!(outcome.output, "7\n1\nx\n");
}

#[test]
fn time_offsets_work_along() {
    let mut bundle = mapped().set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000_000}}));
    bundle.config["linux"]["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "time"}));
    let uptime: f64 = output(&bundle.script("cat /proc/uptime"))
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(uptime > 1e9, "{uptime}");
}

#[test]
fn what_belongs_to_others_is_out_of_reach() {
    let bundle = mapped().script("cat /secret; cat /shared; chmod 777 /shared");
    for (name, mode) in [("secret", 0o600), ("shared", 0o644)] {
        let path = bundle.root().join(name);
        std::fs::write(&path, name).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        chown(&path, Some(0), Some(0)).unwrap();
    }
    let outcome = run(&bundle).unwrap();
    assert!(
        outcome
            .output
            .starts_with("cat: can't open '/secret': Permission denied\nshared"),
        "{outcome:?}"
    );
    assert_eq!(outcome.code, 1);
}
