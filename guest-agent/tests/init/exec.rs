//! Processes that join a running container.

use std::os::unix::fs::MetadataExt;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::protocol::Reason;
use crate::support::{Bundle, Started, create, exec};

fn running() -> (Bundle, Started) {
    let bundle = Bundle::new()
        .script("trap 'exit 0' TERM; while :; do sleep 0.1; done")
        .set("/process/oomScoreAdj", json!(50));
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    (bundle, container)
}

fn process(script: &str) -> Value {
    json!({"args": ["sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

#[test]
fn it_shares_all_namespaces_and_the_root() {
    let (bundle, container) = running();
    let script = "for ns in ipc uts mnt pid cgroup; do readlink /proc/self/ns/$ns; readlink /proc/1/ns/$ns; done; hostname; readlink /proc/1/root; ls /";
    let outcome = exec(&bundle, &container, process(script)).unwrap().finish();
    let lines: Vec<&str> = outcome.output.lines().collect();
    // Where init may not be looked into, the same links cannot be read: then both lines would be missing.
    for pair in lines[..10].chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    assert_eq!(
        lines[10..],
        ["container", "/", "bin", "dev", "etc", "proc", "root", "sys", "tmp"]
    );
    container.signal(Signal::SIGTERM);
    let mut container = container;
    assert_eq!(container.wait(), 0);
}

#[test]
fn what_it_leaves_open_is_the_containers() {
    let (bundle, container) = running();
    let script = "grep -E '^(CapEff|NoNewPrivs|Seccomp:)' /proc/self/status; ulimit -n; cat /proc/self/oom_score_adj; pwd; echo $HOME";
    let outcome = exec(&bundle, &container, process(script)).unwrap().finish();
    assert_eq!(
        outcome.output,
        "CapEff:\t0000000020000420\nNoNewPrivs:\t1\nSeccomp:\t0\n1024\n50\n/\n/root\n"
    );
}

#[test]
fn its_own_properties_prevail() {
    let (bundle, container) = running();
    let mut process = process("grep ^CapEff /proc/self/status; id; pwd; ulimit -n; grep NoNew /proc/self/status");
    process["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7]});
    process["capabilities"] = json!({});
    process["cwd"] = json!("/tmp");
    process["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}]);
    process["noNewPrivileges"] = json!(false);
    let outcome = exec(&bundle, &container, process).unwrap().finish();
    assert_eq!(
        outcome.output,
        "CapEff:\t0000000000000000\nuid=1000(user) gid=1000 groups=7\n/tmp\n64\nNoNewPrivs:\t0\n"
    );
}

#[test]
fn seccomp_applies_to_it() {
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]);
    let bundle = Bundle::new()
        .set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}),
        )
        .run(&["sleep", "100"]);
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    let outcome = exec(&bundle, &container, process("mkdir /tmp/x")).unwrap().finish();
    assert!(outcome.output.contains("Operation not permitted"), "{outcome:?}");
}

#[test]
fn it_joins_a_container_that_is_not_started_yet() {
    let bundle = Bundle::new();
    let container = create(&bundle).unwrap();
    let outcome = exec(&bundle, &container, process("echo $$")).unwrap().finish();
    assert_eq!(outcome.output, "2\n");
}

#[test]
fn what_cannot_be_executed_is_told() {
    let (bundle, container) = running();
    let failed = |change: &dyn Fn(&mut Value)| {
        let mut process = process("true");
        change(&mut process);
        exec(&bundle, &container, process).err().expect("a failure")
    };
    let missing = failed(&|process| process["args"] = json!(["foo"]));
    assert_eq!(missing.reason, Reason::NotFound);
    assert_eq!(missing.message, r#"exec: "foo": executable file not found in $PATH"#);
    let directory = failed(&|process| process["cwd"] = json!("/nope"));
    assert_eq!(directory.reason, Reason::WorkingDirectory);
    assert_eq!(
        directory.message,
        r#"chdir to cwd ("/nope") set in config.json failed: no such file or directory"#
    );
}

#[test]
fn a_removed_null_device_does_not_keep_it_out() {
    let bundle = Bundle::new().script("rm /dev/null; ln -s /proc/kcore /dev/null; sleep 100");
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/rm")).unwrap();
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/ln")).unwrap();
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    let script = "while ! [ -L /dev/null ]; do sleep 0.1; done; cat; stat -L -c '%t:%T %d %i' /proc/self/fd/0";
    let outcome = exec(&bundle, &container, process(script)).unwrap().finish();
    assert!(outcome.output.starts_with("1:3 "), "{outcome:?}");
    // What the container does to it reaches nobody else.
    let host = std::fs::metadata("/dev/null").unwrap();
    assert_ne!(outcome.output, format!("1:3 {} {}\n", host.dev(), host.ino()));
}
