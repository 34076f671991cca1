//! The program, its user, rights, environment and working directory.

use nix::libc;
use serde_json::{Value, json};

use crate::support::protocol::{Failure, Reason};
use crate::support::{Bundle, create, output, run};

#[test]
fn a_program_runs_and_its_exit_code_comes_back() {
    let outcome = run(&Bundle::new().script("echo hello; echo err >&2; exit 7")).unwrap();
    assert_eq!((outcome.code, outcome.output.as_str()), (7, "hello\nerr\n"));
}

#[test]
fn it_is_process_1_of_its_namespaces() {
    let bundle = Bundle::new().script("echo $$; hostname; for ns in ipc uts mnt; do readlink /proc/self/ns/$ns; done");
    let written = output(&bundle);
    let lines: Vec<&str> = written.lines().collect();
    assert_eq!(lines[..2], ["1", "container"]);
    for (name, own) in ["ipc", "uts", "mnt"].into_iter().zip(&lines[2..]) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(host.to_str().unwrap(), *own);
    }
}

#[test]
fn a_namespace_with_a_path_is_joined() {
    let first = create(&Bundle::new()).unwrap();
    let path = |name: &str| format!("/proc/{}/ns/{name}", first.pid);
    let namespaces = json!([
        {"type": "mount"}, {"type": "pid", "path": path("pid")}, {"type": "ipc", "path": path("ipc")}, {"type": "uts"}
    ]);
    let bundle = Bundle::new()
        .set("/linux/namespaces", namespaces)
        .script("readlink /proc/self/ns/ipc; echo $$");
    let ipc = std::fs::read_link(path("ipc")).unwrap();
    let written = output(&bundle);
    let (joined, pid) = written.trim().split_once('\n').unwrap();
    assert_eq!(joined, ipc.to_str().unwrap());
    assert_ne!(pid, "1");
}

#[test]
fn the_time_namespace_has_its_offsets() {
    let namespaces = json!([{"type": "mount"}, {"type": "pid"}, {"type": "uts"}, {"type": "time"}]);
    let bundle = Bundle::new()
        .set("/linux/namespaces", namespaces)
        .set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000_000}}))
        .script("cat /proc/uptime");
    let uptime: f64 = output(&bundle).split(' ').next().unwrap().parse().unwrap();
    assert!(uptime > 1e9, "{uptime}");
}

#[test]
fn user_groups_umask_and_home_are_the_configured() {
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 6], "umask": 0o27});
    let bundle = Bundle::new()
        .set("/process/user", user)
        .script("id; umask; echo $HOME; touch /tmp/f; stat -c %a:%u /tmp/f");
    assert_eq!(
        output(&bundle),
        "uid=1000(user) gid=1000 groups=5,6\n0027\n/home/user\n640:1000\n"
    );
}

#[test]
fn without_an_entry_in_passwd_the_root_is_home() {
    for passwd in [None, Some("1000:broken\n")] {
        let bundle = Bundle::new()
            .set("/process/user", json!({"uid": 1234, "gid": 0}))
            .script("echo $HOME");
        let path = bundle.root().join("etc/passwd");
        std::fs::remove_file(&path).unwrap();
        passwd.map_or(Ok(()), |passwd| std::fs::write(&path, passwd)).unwrap();
        assert_eq!(output(&bundle), "/\n");
    }
}

#[test]
fn a_fifo_as_passwd_does_not_block() {
    let bundle = Bundle::new().script("echo $HOME");
    let path = bundle.root().join("etc/passwd");
    std::fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(output(&bundle), "/\n");
}

#[test]
fn streams_belong_to_the_user() {
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .script("echo again > /dev/stdout");
    assert_eq!(output(&bundle), "again\n");
}

#[test]
fn capabilities_are_the_configured() {
    let bundle = Bundle::new().script("grep ^Cap /proc/self/status");
    let expected = [
        "Inh:\t0000000000000000",
        "Prm:\t0000000020000420",
        "Eff:\t0000000020000420",
        "Bnd:\t0000000020000420",
        "Amb:\t0000000000000000",
    ];
    assert_eq!(output(&bundle), expected.map(|line| format!("Cap{line}\n")).concat());
}

#[test]
fn a_user_keeps_ambient_capabilities() {
    let set = json!(["CAP_NET_BIND_SERVICE"]);
    let capabilities = json!({"bounding": set, "permitted": set, "effective": set, "inheritable": set, "ambient": set});
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/capabilities", capabilities)
        .script("grep ^CapEff /proc/self/status");
    assert_eq!(output(&bundle), "CapEff:\t0000000000000400\n");
}

#[test]
fn without_capabilities_in_the_configuration_there_are_none() {
    let bundle = Bundle::new()
        .set("/process/capabilities", Value::Null)
        .script("grep ^Cap /proc/self/status");
    assert_eq!(output(&bundle).matches("0000000000000000").count(), 5);
}

#[test]
fn limits_scheduling_and_oom_score_are_the_configured() {
    let rlimits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}
    ]);
    let bundle = Bundle::new()
        .set("/process/rlimits", rlimits)
        .set("/process/oomScoreAdj", json!(321))
        .set("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 5}))
        .set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}))
        .set("/linux/personality", json!({"domain": "LINUX32"}))
        .script("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj /proc/self/personality; cut -d' ' -f19,41 /proc/self/stat");
    std::os::unix::fs::symlink("busybox", bundle.root().join("bin/cut")).unwrap();
    assert_eq!(output(&bundle), "100\n200\n0\n321\n00000008\n5 3\n");
}

#[test]
fn signals_and_descriptors_are_fresh() {
    let bundle = Bundle::new().script("grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status; ls /proc/self/fd");
    let written = output(&bundle);
    assert_eq!(
        written,
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\nNoNewPrivs:\t1\n0\n1\n2\n3\n"
    );
}

#[test]
fn the_working_directory_is_made() {
    let bundle = Bundle::new()
        .set("/process/cwd", json!("/a/b/../c"))
        .script("pwd; stat -c %a /a");
    std::fs::create_dir_all(bundle.root().join("a/b")).unwrap();
    assert_eq!(output(&bundle), "/a/c\n755\n");
}

#[test]
fn a_directory_closed_to_root_is_entered_as_the_user() {
    let bundle = Bundle::new()
        .set("/process/user", json!({"uid": 1000, "gid": 1000}))
        .set("/process/cwd", json!("/private"))
        .script("pwd");
    let private = bundle.root().join("private");
    std::fs::create_dir(&private).unwrap();
    std::os::unix::fs::chown(&private, Some(1000), Some(1000)).unwrap();
    assert_eq!(output(&bundle), "/private\n");
}

#[test]
fn sysctls_are_set_in_the_namespaces() {
    let bundle = Bundle::new()
        .set("/linux/sysctl", json!({"kernel.msgmax": "4242"}))
        .script("cat /proc/sys/kernel/msgmax");
    assert_eq!(output(&bundle), "4242\n");
    assert_ne!(std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), "4242\n");
}

const MKDIR_REFUSED: &str = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [{"names": ["mkdir", "mkdirat", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;

#[test]
fn seccomp_filters_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new()
            .set("/process/noNewPrivileges", json!(no_new_privileges))
            .set("/linux/seccomp", serde_json::from_str(MKDIR_REFUSED).unwrap())
            .script("grep Seccomp: /proc/self/status; mkdir /tmp/x");
        let outcome = run(&bundle).unwrap();
        assert_eq!(
            outcome.output,
            "Seccomp:\t2\nmkdir: can't create directory '/tmp/x': No space left on device\n"
        );
    }
}

#[test]
fn seccomp_compares_arguments() {
    let condition = |value: i32| {
        json!({"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EBUSY,
        "args": [{"index": 1, "value": value, "op": "SCMP_CMP_EQ"}]})
    };
    let seccomp = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [condition(libc::SIGUSR1)]});
    let bundle = Bundle::new()
        .set("/linux/seccomp", seccomp)
        .script("kill -0 1 && kill -USR1 1");
    let outcome = run(&bundle).unwrap();
    assert!(outcome.output.contains("busy"), "{outcome:?}");
}

#[test]
fn a_strict_filter_lets_the_program_start() {
    // Not even what the set-up needs after it could load it without noNewPrivileges.
    let names = [
        "execve",
        "exit_group",
        "arch_prctl",
        "write",
        "set_tid_address",
        "prlimit64",
        "brk",
        "mmap",
        "mprotect",
        "readlink",
        "getrandom",
        "set_robust_list",
        "rseq",
        "getuid",
        "setuid",
        "setgid",
        "dup2",
        "sigaltstack",
        "rt_sigaction",
        "rt_sigprocmask",
        "read",
        "prctl",
    ];
    let seccomp =
        json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    let bundle = Bundle::new().set("/linux/seccomp", seccomp).run(&["echo", "started"]);
    assert_eq!(output(&bundle), "started\n");
}

fn failure_of(bundle: &Bundle) -> Failure {
    match run(bundle) {
        Err(failure) => failure,
        Ok(outcome) => panic!("{outcome:?}"),
    }
}

#[test]
fn what_cannot_be_executed_is_told_by_create_in_runcs_words() {
    let bundle = Bundle::new();
    std::fs::write(bundle.root().join("bin/data"), "x").unwrap();
    let mut bundle = bundle;
    for (program, reason, message) in [
        (
            "foo",
            Reason::NotFound,
            r#"exec: "foo": executable file not found in $PATH"#,
        ),
        (
            "data",
            Reason::NotFound,
            r#"exec: "data": executable file not found in $PATH"#,
        ),
        (
            "/x",
            Reason::NotFound,
            r#"exec: "/x": stat /x: no such file or directory"#,
        ),
        (
            "/bin/data",
            Reason::NotExecutable,
            r#"exec: "/bin/data": permission denied"#,
        ),
        ("/etc", Reason::NotExecutable, r#"exec: "/etc": permission denied"#),
    ] {
        bundle = bundle.run(&[program]);
        let failure = create(&bundle).err().expect("no container");
        assert_eq!(
            failure,
            Failure {
                reason,
                message: message.into()
            }
        );
        expect_runc_to_say(&bundle, &failure.message);
    }
}

/// runc logs the message in quotes.
fn expect_runc_to_say(bundle: &Bundle, message: &str) {
    if let Some(outcome) = bundle.run_by_runc() {
        let said = outcome.output.replace("\\\"", "\"");
        assert!(said.contains(message), "runc says {said:?}, not {message:?}");
    }
}

#[test]
fn what_execve_refuses_is_told_by_start() {
    for (content, message) in [
        ("#!/nonexistent\n", "exec /bin/data: no such file or directory"),
        ("garbage", "exec /bin/data: exec format error"),
    ] {
        let bundle = Bundle::new().run(&["/bin/data"]);
        let path = bundle.root().join("bin/data");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let failure = create(&bundle).unwrap().start().unwrap_err();
        assert_eq!(
            failure,
            Failure {
                reason: Reason::NotExecutable,
                message: message.into()
            }
        );
        expect_runc_to_say(&bundle, message);
    }
}

#[test]
fn what_is_wrong_with_the_process_is_told_in_runcs_words() {
    for (pointer, value, reason, message) in [
        (
            "/process/env",
            json!(["novalue"]),
            Reason::Process,
            r#"invalid environment variable: "novalue""#,
        ),
        (
            "/process/env",
            json!(["=x"]),
            Reason::Process,
            r#"environment variable name can't be empty: "=x""#,
        ),
        (
            "/process/cwd",
            json!("/etc/passwd"),
            Reason::WorkingDirectory,
            "error during container init: mkdir /etc/passwd: not a directory",
        ),
        (
            "/process/capabilities",
            json!({"effective": ["CAP_CHOWN"]}),
            Reason::Process,
            "unable to apply caps: operation not permitted",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.msgmax": "x"}),
            Reason::Kernel,
            "error during container init: write /proc/sys/kernel/msgmax: invalid argument",
        ),
        (
            "/linux/sysctl",
            json!({"kernel.shm_nonesuch": "1"}),
            Reason::Kernel,
            "error during container init: open /proc/sys/kernel/shm_nonesuch: no such file or directory",
        ),
    ] {
        let bundle = Bundle::new().set(pointer, value);
        let failure = failure_of(&bundle);
        assert_eq!(failure.reason, reason, "{failure:?}");
        assert!(failure.message.contains(message), "{failure:?}");
        if !message.contains("nonesuch") {
            expect_runc_to_say(&bundle, message);
        }
    }
}

#[test]
fn labels_of_security_modules_are_refused() {
    for name in ["apparmorProfile", "selinuxLabel"] {
        let bundle = Bundle::new().set(&format!("/process/{name}"), json!("some"));
        assert_eq!(failure_of(&bundle).reason, Reason::Invalid);
    }
}

#[test]
fn a_container_that_is_never_started_ends_with_its_socket() {
    let mut container = create(&Bundle::new()).unwrap();
    container.hang_up();
    assert_eq!(container.wait(), 1);
}
