//! Root file systems and configurations made to lead the set-up out of the container.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde_json::json;

use crate::support::{Bundle, create, output, run};

/// A name that must not appear on the host.
fn canary(bundle: &Bundle) -> String {
    format!(
        "vruntime-canary-{}",
        bundle.root().parent().unwrap().file_name().unwrap().to_str().unwrap()
    )
}

#[test]
fn destinations_stay_in_the_root() {
    let bundle = Bundle::new().script("cat /proc/mounts");
    let name = canary(&bundle);
    symlink("/", bundle.root().join("absolute")).unwrap();
    symlink("../../../../../..", bundle.root().join("relative")).unwrap();
    symlink("/proc/self/root", bundle.root().join("magic")).unwrap();
    let destinations = [
        format!("/absolute/tmp/{name}-a"),
        format!("/relative/tmp/{name}-r"),
        format!("../../../tmp/{name}-d"),
    ];
    let bundle = destinations.iter().fold(bundle, |bundle, destination| {
        bundle.mount(destination, "tmpfs", "canary", &[])
    });
    let mounts = output(&bundle);
    for suffix in ["a", "r", "d"] {
        assert!(
            mounts.contains(&format!("canary /tmp/{name}-{suffix} tmpfs ")),
            "{mounts}"
        );
        assert!(!Path::new("/tmp").join(format!("{name}-{suffix}")).exists());
    }
}

#[test]
fn magic_links_are_not_followed() {
    let bundle = Bundle::new().mount("/proc/1/root/tmp/x", "tmpfs", "canary", &[]);
    assert!(create(&bundle).is_err());
}

#[test]
fn a_dangling_destination_is_made_in_the_root() {
    let bundle = Bundle::new().script("cat /etc/resolv.conf; ls /run/resolved");
    let name = canary(&bundle);
    symlink(format!("/run/resolved/{name}"), bundle.root().join("etc/resolv.conf")).unwrap();
    let source = bundle.beside("source");
    fs::write(&source, "bound\n").unwrap();
    let bundle = bundle.mount("/etc/resolv.conf", "bind", source.to_str().unwrap(), &["bind"]);
    assert_eq!(output(&bundle), format!("bound\n{name}\n"));
    assert!(!Path::new("/run/resolved").join(name).exists());
}

#[test]
fn proc_and_sys_must_be_directories() {
    for (name, kind) in [("proc", "proc"), ("sys", "sysfs")] {
        for target in ["/etc", "/", "etc", "../../../../proc"] {
            let bundle = Bundle::new();
            fs::remove_dir(bundle.root().join(name)).unwrap();
            symlink(target, bundle.root().join(name)).unwrap();
            let failure = create(&bundle).err().expect("a failure");
            let message = format!("filesystem {kind:?} must be mounted on ordinary directory");
            assert!(failure.message.contains(&message), "{failure:?}");
            let Some(runc) = bundle.run_by_runc() else { continue };
            assert!(runc.output.replace("\\\"", "\"").contains(&message), "{runc:?}");
        }
    }
}

#[test]
fn dev_as_a_link_leads_to_a_place_in_the_root() {
    let bundle = Bundle::new().script("cat /proc/mounts; ls /elsewhere/null");
    fs::remove_dir(bundle.root().join("dev")).unwrap();
    symlink("/elsewhere", bundle.root().join("dev")).unwrap();
    let written = output(&bundle);
    assert!(written.contains("tmpfs /elsewhere tmpfs"), "{written}");
    assert!(!Path::new("/elsewhere").exists());
}

#[test]
fn proc_cannot_be_replaced() {
    for (destination, message) in [
        ("/proc", r#""/proc" cannot be mounted because it is not of type proc"#),
        (
            "/proc/sys/kernel",
            r#""/proc/sys/kernel" cannot be mounted because it is inside /proc"#,
        ),
        (
            "/link/sys",
            r#""/proc/sys" cannot be mounted because it is inside /proc"#,
        ),
    ] {
        let bundle = Bundle::new().mount(destination, "bind", "/tmp", &["bind"]);
        symlink("/proc", bundle.root().join("link")).unwrap();
        let failure = create(&bundle).err().expect("a failure");
        assert!(failure.message.contains(message), "{failure:?}");
    }
}

#[test]
fn lxcfs_may_replace_files_of_proc() {
    let bundle = Bundle::new().script("cat /proc/meminfo");
    let source = bundle.beside("meminfo");
    fs::write(&source, "little\n").unwrap();
    let bundle = bundle.mount("/proc/meminfo", "bind", source.to_str().unwrap(), &["bind"]);
    assert_eq!(output(&bundle), "little\n");
}

#[test]
fn a_forged_null_device_masks_nothing() {
    // Bound from outside, since /dev is otherwise the container's own.
    let bundle = Bundle::new();
    let dev = bundle.beside("dev");
    fs::create_dir(&dev).unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).unwrap();
    let bundle = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev"]
        .into_iter()
        .fold(bundle, |bundle, destination| bundle.without_mount(destination))
        .mount("/dev", "bind", dev.to_str().unwrap(), &["bind"]);
    let failure = create(&bundle).err().expect("a failure");
    assert!(failure.message.contains("can't mask path"), "{failure:?}");
}

#[test]
fn sysctls_stay_in_proc_sys() {
    for key in ["../oom", "..", "kernel/../../1/oom_score_adj", ""] {
        let bundle = Bundle::new().set("/linux/sysctl", json!({key: "0"}));
        assert!(create(&bundle).is_err(), "{key}");
    }
}

#[test]
fn the_working_directory_cannot_leave_the_root() {
    for number in 0..20 {
        let bundle = Bundle::new()
            .set("/process/cwd", json!(format!("/proc/self/fd/{number}")))
            .script("pwd; ls /proc/self/cwd/..");
        // An error, or a directory of the container.
        if let Ok(outcome) = run(&bundle) {
            assert!(
                outcome.output.starts_with('/') && !outcome.output.contains("unreachable"),
                "{outcome:?}"
            );
        }
    }
}

#[test]
fn the_root_must_be_a_directory_and_no_link() {
    for target in ["/", "/etc/passwd"] {
        let bundle = Bundle::new();
        let link = bundle.beside("link");
        symlink(target, &link).unwrap();
        let bundle = bundle.set("/root/path", json!(link));
        assert!(
            create(&bundle)
                .err()
                .expect("a failure")
                .message
                .contains("open the root filesystem")
        );
    }
}

#[test]
fn strange_requests_are_answered() {
    for (pointer, value) in [
        ("/process/args", json!([])),
        ("/process/args", json!(["nul\u{0}"])),
        ("/process/cwd", json!("/nul\u{0}")),
        ("/root/path", json!("")),
        ("/hostname", json!("x".repeat(1000))),
        ("/linux/namespaces", json!([{"type": "user"}, {"type": "mount"}])),
        (
            "/linux/namespaces",
            json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
        ),
        (
            "/linux/namespaces",
            json!([{"type": "ipc", "path": "/proc/self/ns/uts"}]),
        ),
        ("/linux/namespaces", json!([{"type": "pid"}])),
        ("/linux/devices", json!([{"path": "/", "type": "c"}])),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "a"}])),
        ("/linux/rootfsPropagation", json!("sideways")),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
    ] {
        let bundle = Bundle::new().set(pointer, value.clone());
        let failure = create(&bundle)
            .err()
            .unwrap_or_else(|| panic!("{pointer} {value} is accepted"));
        assert!(
            !failure.message.contains('\n') && !failure.message.is_empty(),
            "{failure:?}"
        );
    }
}

#[test]
fn a_mount_point_swapped_for_a_link_does_not_lead_out() {
    let bundle = Bundle::new().mount("/swapped/below", "tmpfs", "canary", &[]);
    let (outside, link) = (bundle.beside("outside"), bundle.root().join("link"));
    fs::create_dir(&outside).unwrap();
    fs::create_dir(bundle.root().join("swapped")).unwrap();
    symlink(&outside, &link).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                renameat2(
                    AT_FDCWD,
                    &link,
                    AT_FDCWD,
                    &bundle.root().join("swapped"),
                    RenameFlags::RENAME_EXCHANGE,
                )
                .unwrap();
            }
        });
        for _ in 0..100 {
            // Either way may win, and a refusal is fine too.
            let _ = create(&bundle);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}
