//! The startContainer hooks, compared with runc's where it shows their failures.

use serde_json::{Value, json};

use crate::support::protocol::{Failure, Reason};
use crate::support::{Bundle, create, output, run};

fn with_hooks(hooks: Value) -> Bundle {
    let mut bundle = Bundle::new();
    bundle.config["hooks"] = json!({"startContainer": hooks});
    bundle
}

fn script(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

fn failure(hook: Value) -> String {
    let Failure { reason, message } = run(&with_hooks(json!([hook])).script("echo ran")).unwrap_err();
    assert_eq!(reason, Reason::Process);
    message
}

#[test]
fn they_run_in_the_container_in_their_order_before_the_program() {
    let hooks = json!([
        script("echo first $(pwd) $(hostname) >> /tmp/log"),
        script("echo second >> /tmp/log")
    ]);
    assert_eq!(
        output(&with_hooks(hooks).script("cat /tmp/log")),
        "first / container\nsecond\n"
    );
}

#[test]
fn a_hook_is_told_the_state_with_the_pid_in_the_container() {
    let bundle = with_hooks(json!([script("cat > /tmp/state")])).script("cat /tmp/state");
    let state: Value = serde_json::from_str(&output(&bundle)).unwrap();
    assert_eq!(state, json!({"id": "container", "status": "created", "pid": 1}));
}

#[test]
fn its_environment_is_its_own_or_the_programs() {
    let env =
        |names: Value| json!({"path": "/bin/sh", "args": ["sh", "-c", "echo $OWN $TERM >> /tmp/log"], "env": names});
    let hooks = json!([env(json!(["OWN=mine"])), script("echo $OWN $TERM >> /tmp/log")]);
    assert_eq!(output(&with_hooks(hooks).script("cat /tmp/log")), "mine\nxterm\n");
}

#[test]
fn it_has_the_programs_user_and_no_more_rights() {
    let bundle = with_hooks(json!([script(
        "id -u > /tmp/id; grep NoNewPrivs /proc/self/status >> /tmp/id"
    )]))
    .set("/process/user", json!({"uid": 1000, "gid": 1000}))
    .script("cat /tmp/id");
    assert_eq!(output(&bundle), "1000\nNoNewPrivs:\t1\n");
}

#[test]
fn it_leads_a_session_and_has_its_own_streams_alone() {
    let bundle = with_hooks(json!([script(
        "ls /proc/self/fd > /tmp/fds; busybox cut -d' ' -f1,6 /proc/$$/stat > /tmp/ids"
    )]))
    .script("cat /tmp/fds; read -r pid session < /tmp/ids; [ $pid = $session ] && echo leads");
    assert_eq!(output(&bundle), "0\n1\n2\n3\nleads\n");
}

#[test]
fn failures_read_as_runcs() {
    for (hook, message) in [
        (
            script("echo out; echo err >&2; exit 3"),
            "error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n",
        ),
        (
            script("kill -9 $$"),
            "error running hook #0: error running hook: signal: killed, stdout: , stderr: ",
        ),
        (
            json!({"path": "/nonexistent"}),
            "error running hook #0: fork/exec /nonexistent: no such file or directory",
        ),
        (
            json!({"path": "/etc/passwd"}),
            "error running hook #0: fork/exec /etc/passwd: permission denied",
        ),
        (
            json!({"path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1}),
            "error running hook #0: hook ran past specified timeout of 1.0s",
        ),
    ] {
        let bundle = with_hooks(json!([hook.clone()])).script("echo ran");
        if let Some(theirs) = bundle.run_by_runc() {
            assert_eq!((theirs.code, theirs.output.trim_end()), (1, message.trim_end()));
        }
        assert_eq!(failure(hook), message);
    }
}

#[test]
fn those_after_one_that_fails_do_not_run() {
    let bundle = with_hooks(json!([script("false"), script("touch /tmp/ran")]));
    run(&bundle).unwrap_err();
    assert!(!bundle.root().join("tmp/ran").exists());
}

#[test]
fn one_that_leaves_a_child_with_its_streams_has_ended() {
    let bundle =
        with_hooks(json!([script("sleep 1000 & echo $! > /tmp/child")])).script("kill $(cat /tmp/child) && echo lives");
    assert_eq!(output(&bundle), "lives\n");
}

#[test]
fn a_session_that_hangs_is_killed_with_its_children() {
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", "sleep 1000 & sleep 1000"], "timeout": 1});
    let mut container = create(&with_hooks(json!([hook]))).unwrap();
    container.start().unwrap_err();
    assert_eq!(container.finish().code, 1);
}

#[test]
fn endless_output_is_bounded_and_its_end_is_kept() {
    let message = failure(script(
        "cat /dev/zero | head -c 100000000 >&2; echo the end >&2; exit 1",
    ));
    assert!(
        message.len() < 2048 && message.ends_with("the end\n"),
        "{} bytes",
        message.len()
    );
}

#[test]
fn one_that_reads_nothing_of_a_long_state_does_not_hang() {
    output(&with_hooks(json!([script("exec <&-; true")])));
}

#[test]
fn signals_are_fresh_for_hook_and_program() {
    let look = "grep -E '^Sig(Blk|Ign)' /proc/self/status";
    let plain = output(&Bundle::new().script(&format!("{look}; true")));
    assert!(plain.starts_with("SigBlk:\t0000000000000000\n"), "{plain}");
    let bundle = with_hooks(json!([script(&format!("{look} > /tmp/signals; true"))]))
        .script(&format!("cat /tmp/signals; {look}; true"));
    assert_eq!(output(&bundle), plain.repeat(2));
}

#[test]
fn it_is_under_the_programs_filter() {
    let rules = json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]);
    for confined in [true, false] {
        let bundle = with_hooks(json!([script("mkdir /tmp/made 2> /tmp/said; true")]))
            .set("/process/noNewPrivileges", json!(confined))
            .set(
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}),
            )
            .script("cat /tmp/said");
        assert_eq!(
            output(&bundle),
            "mkdir: can't create directory '/tmp/made': Operation not permitted\n"
        );
    }
}
