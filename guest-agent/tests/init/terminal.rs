//! Processes with a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::support::{Bundle, create, exec, run};

fn on_a_terminal(script: &str) -> Bundle {
    Bundle::new().set("/process/terminal", json!(true)).script(script)
}

#[test]
fn the_terminal_is_the_containers_own_and_controls_it() {
    let bundle = on_a_terminal("tty; stat -c %t:%T /dev/console; echo > /dev/tty; stty size; ls /dev/pts");
    let outcome = run(&bundle).unwrap();
    assert_eq!(
        outcome.output.replace('\r', ""),
        "/dev/pts/0\n88:0\n\n40 100\n0  ptmx\n".replace("  ", "     ")
    );
}

#[test]
fn the_configured_size_prevails() {
    let bundle = on_a_terminal("stty size").set("/process/consoleSize", json!({"height": 33, "width": 77}));
    assert_eq!(run(&bundle).unwrap().output, "33 77\r\n");
}

#[test]
fn ctrl_c_interrupts() {
    let bundle = on_a_terminal("trap 'echo got it; exit 3' INT; echo ready; while :; do sleep 0.1; done");
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    let mut master = File::from(container.console.as_ref().unwrap().try_clone().unwrap());
    let mut ready = [0; 7];
    master.read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"ready\r\n");
    master.write_all(b"\x03").unwrap();
    let outcome = container.finish();
    assert_eq!((outcome.code, outcome.output.as_str()), (3, "^Cgot it\r\n"));
}

#[test]
fn a_user_owns_the_terminal() {
    let bundle = on_a_terminal("stat -c %u:%g /dev/pts/0; echo x > /dev/pts/0")
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(run(&bundle).unwrap().output, "1000:5\r\nx\r\n");
}

#[test]
fn a_process_that_joins_has_its_own() {
    let bundle = on_a_terminal("sleep 100");
    let mut container = create(&bundle).unwrap();
    container.start().unwrap();
    let process = json!({"terminal": true, "consoleSize": {"height": 11, "width": 22}, "args": ["sh", "-c", "tty; stty size"],
        "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}});
    let outcome = exec(&bundle, &container, process).unwrap().finish();
    assert_eq!(outcome.output, "/dev/pts/1\r\n11 22\r\n");
}

#[test]
fn a_forged_multiplexer_is_refused() {
    for forge in [
        |root: &std::path::Path| drop(File::create(root.join("dev/pts/ptmx")).unwrap()),
        |root: &std::path::Path| symlink("/dev/ptmx", root.join("dev/pts/ptmx")).unwrap(),
    ] {
        let bundle = on_a_terminal("true");
        let forged = bundle.beside("forged");
        std::fs::create_dir_all(forged.join("dev/pts")).unwrap();
        forge(&forged);
        let source = forged.join("dev/pts");
        let bundle = bundle
            .without_mount("/dev/pts")
            .mount("/dev/pts", "bind", source.to_str().unwrap(), &["bind"]);
        let failure = run(&bundle).expect_err("a failure");
        assert!(failure.message.contains("multiplexer"), "{failure:?}");
    }
}

#[test]
fn a_console_that_is_a_link_is_not_followed() {
    let bundle = on_a_terminal("true");
    let dev = bundle.beside("dev");
    std::fs::create_dir_all(dev.join("pts")).unwrap();
    symlink("/etc/passwd", dev.join("console")).unwrap();
    let bundle = bundle
        .without_mount("/dev/pts")
        .without_mount("/dev/shm")
        .without_mount("/dev/mqueue")
        .without_mount("/dev")
        .mount("/dev", "bind", dev.to_str().unwrap(), &["bind"])
        .mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666"]);
    let failure = run(&bundle).expect_err("a failure");
    assert!(failure.message.contains("open /dev/console"), "{failure:?}");
}
