//! The file tree: mounts, devices, what is hidden and what is read-only.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::support::protocol::Reason;
use crate::support::{Bundle, create, output, run};

/// Mount point, type, and options of the mount and of the file system, of each mount.
const MOUNTS: &str = "while read -r id parent dev root point options rest; do
    tail=${rest#*- }; echo \"$point ${tail%% *} $options ${tail##* }\"; done < /proc/self/mountinfo";

#[test]
fn mounts_are_as_runc_makes_them() {
    let bundle = Bundle::new().script(MOUNTS);
    let shared = bundle.beside("volume");
    fs::create_dir(&shared).unwrap();
    let source = shared.to_str().unwrap();
    let bundle = bundle
        .mount("/tmp", "tmpfs", "tmpfs", &["nosuid", "nodev", "noatime", "size=1m"])
        .mount("/mnt/ro", "bind", source, &["rbind", "ro", "nosuid", "nodev", "noexec"])
        .mount("/mnt/rw", "none", source, &["bind", "relatime", "rprivate"])
        .mount("/run", "tmpfs", "tmpfs", &["ro", "mode=700"])
        .mount("/run/below", "tmpfs", "tmpfs", &["mode=711"])
        .set("/root/readonly", json!(true));
    let ours = output(&bundle);
    for expected in ["/mnt/ro ", "/run tmpfs ro,", "/proc/sys proc ro,", "/proc/keys tmpfs "] {
        assert!(
            ours.lines().any(|line| line.starts_with(expected)),
            "{expected} is not in\n{ours}"
        );
    }
    let Some(runc) = bundle.run_by_runc() else { return };
    assert_eq!(ours, runc.output);
}

#[test]
fn devices_and_links_are_as_runc_makes_them() {
    let bundle = Bundle::new().script("cd /dev; stat -c '%n %F %t:%T %a %u:%g %N' * pts/ptmx");
    let bundle = bundle.set(
        "/linux/devices",
        json!([
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o660, "uid": 5, "gid": 6},
            {"path": "/dev/sub/loop", "type": "b", "major": 7, "minor": 1},
            {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        ]),
    );
    let ours = output(&bundle);
    assert!(ours.contains("fuse character special file a:e5 660 5:6"), "{ours}");
    let Some(runc) = bundle.run_by_runc() else { return };
    assert_eq!(ours, runc.output);
}

#[test]
fn a_configured_device_takes_the_place_of_a_default_one() {
    let null = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 7}]);
    let bundle = Bundle::new()
        .set("/linux/devices", null)
        .script("stat -c '%t:%T %a %u' /dev/null");
    assert_eq!(output(&bundle), "1:3 600 7\n");
}

#[test]
fn masked_paths_hide_and_read_only_paths_keep() {
    let bundle = Bundle::new()
        .set("/linux/maskedPaths", json!(["/secret", "/secrets", "/missing"]))
        .set("/linux/readonlyPaths", json!(["/kept", "/missing"]))
        .script("cat /secret; ls /secrets; touch /secrets/x; touch /kept/x; stat -c %t:%T /secret; echo > /secret");
    let root = bundle.root();
    fs::write(root.join("secret"), "secret").unwrap();
    fs::create_dir_all(root.join("secrets/below")).unwrap();
    fs::create_dir(root.join("kept")).unwrap();
    assert_eq!(
        output(&bundle),
        "touch: /secrets/x: Read-only file system\ntouch: /kept/x: Read-only file system\n1:3\n"
    );
}

#[test]
fn a_read_only_root_cannot_be_written() {
    let bundle = Bundle::new()
        .set("/root/readonly", json!(true))
        .script("touch /x; touch /dev/shm/y && echo z > /dev/null");
    assert_eq!(output(&bundle), "touch: /x: Read-only file system\n");
}

#[test]
fn files_are_bound_and_their_mount_points_made() {
    let bundle = Bundle::new().script("cat /etc/hosts /deep/new/file");
    let hosts = bundle.beside("hosts");
    fs::write(&hosts, "bound\n").unwrap();
    let bundle = bundle
        .mount("/etc/hosts", "bind", hosts.to_str().unwrap(), &["rbind", "rprivate"])
        .mount("/deep/new/file", "bind", hosts.to_str().unwrap(), &["bind", "ro"]);
    assert_eq!(output(&bundle), "bound\nbound\n");
}

#[test]
fn recursive_options_reach_the_mounts_below() {
    let bundle = Bundle::new().script("touch /v/a; touch /v/below/b");
    let volume = bundle.beside("volume");
    fs::create_dir_all(volume.join("below")).unwrap();
    let below = volume.join("below");
    let bundle = bundle
        .mount("/v", "bind", volume.to_str().unwrap(), &["rbind", "rro"])
        .mount("/v/below", "bind", below.to_str().unwrap(), &["rbind", "rro"]);
    let written = run(&bundle).unwrap().output;
    assert_eq!(
        written,
        "touch: /v/a: Read-only file system\ntouch: /v/below/b: Read-only file system\n"
    );
}

#[test]
fn tmpfs_takes_the_mode_of_what_it_covers() {
    let bundle = Bundle::new()
        .mount("/private", "tmpfs", "tmpfs", &["size=64k"])
        .mount("/explicit", "tmpfs", "tmpfs", &["mode=0711"])
        .mount("/new", "tmpfs", "tmpfs", &[])
        .script("stat -c %a /private /explicit /new");
    for directory in ["private", "explicit"] {
        fs::create_dir(bundle.root().join(directory)).unwrap();
        fs::set_permissions(bundle.root().join(directory), fs::Permissions::from_mode(0o750)).unwrap();
    }
    assert_eq!(output(&bundle), "750\n711\n1777\n");
}

#[test]
fn tmpcopyup_copies_everything() {
    let bundle = Bundle::new()
        .mount("/data", "tmpfs", "tmpfs", &["tmpcopyup"])
        .script("cd /data; cat a/b/file; readlink link; stat -c '%n %F %a %u:%g %Y' a a/b/file; echo new > a/b/file");
    let data = bundle.root().join("data");
    fs::create_dir_all(data.join("a/b")).unwrap();
    fs::write(data.join("a/b/file"), "content\n").unwrap();
    fs::set_permissions(data.join("a/b/file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(data.join("a"), Some(12), Some(34)).unwrap();
    symlink("/nonexistent", data.join("link")).unwrap();
    let modified = fs::metadata(data.join("a/b/file")).unwrap().modified().unwrap();
    let seconds = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let written = output(&bundle);
    assert!(
        written.starts_with("content\n/nonexistent\na directory 755 12:34 "),
        "{written}"
    );
    assert!(
        written.ends_with(&format!("a/b/file regular file 4751 0:0 {seconds}\n")),
        "{written}"
    );
    assert_eq!(fs::read_to_string(data.join("a/b/file")).unwrap(), "content\n");
}

#[test]
fn cgroup_is_the_second_version_and_the_containers_own() {
    let bundle = Bundle::new()
        .mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        )
        .script("grep /sys/fs/cgroup /proc/mounts; grep ^0: /proc/self/cgroup");
    assert_eq!(
        output(&bundle),
        "cgroup /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec,relatime 0 0\n0::/\n"
    );
}

#[test]
fn nothing_of_the_host_is_left() {
    let bundle = Bundle::new().script("ls /; ls /proc/1/root; readlink /proc/self/root; cat /proc/self/mountinfo");
    let written = output(&bundle);
    assert!(
        written.starts_with("bin\ndev\netc\nproc\nroot\nsys\ntmp\nbin\n"),
        "{written}"
    );
    let roots = written.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    assert_eq!(roots.count(), 1, "{written}");
}

#[test]
fn overlays_are_mounted() {
    let bundle = Bundle::new().script("cat /o/file; echo changed > /o/file");
    for name in ["lower", "upper", "work"] {
        fs::create_dir(bundle.beside(name)).unwrap();
    }
    fs::write(bundle.beside("lower/file"), "lower\n").unwrap();
    let option = |name: &str| format!("{name}dir={}", bundle.beside(name).display());
    let options = [option("lower"), option("upper"), option("work")];
    // An overlay cannot have another one as its upper directory, and the host's temporary directory may be one.
    let bundle = bundle.mount("/o", "overlay", "overlay", &options.each_ref().map(String::as_str));
    match run(&bundle) {
        Ok(outcome) => assert_eq!(outcome.output, "lower\n"),
        Err(failure) => assert!(failure.message.contains("overlay"), "{failure:?}"),
    }
}

#[test]
fn failing_mounts_are_told_as_by_runc() {
    for (mount, message) in [
        (
            ("/m", "bind", "/nonexistent", &["bind"][..]),
            r#"error during container init: error mounting "/nonexistent" to rootfs at "/m": stat /nonexistent: no such file or directory"#,
        ),
        (
            ("/etc/passwd", "bind", "/tmp", &["bind"][..]),
            r#"error during container init: error mounting "/tmp" to rootfs at "/etc/passwd": mount"#,
        ),
        (
            ("/m", "tmpfs", "x", &["blah"][..]),
            r#"error during container init: error mounting "x" to rootfs at "/m": mount"#,
        ),
        (
            ("/m", "nofs", "x", &[][..]),
            r#"error during container init: error mounting "x" to rootfs at "/m": "#,
        ),
    ] {
        let bundle = Bundle::new().mount(mount.0, mount.1, mount.2, mount.3);
        let failure = create(&bundle).err().expect("a failure");
        assert_eq!(failure.reason, Reason::Kernel);
        assert!(failure.message.starts_with(message), "{failure:?}");
        let Some(runc) = bundle.run_by_runc() else { continue };
        let (said, cause) = (
            runc.output.replace("\\\"", "\""),
            failure.message.rsplit(": ").next().unwrap(),
        );
        assert!(
            said.contains(message) && said.contains(cause),
            "runc says {said:?}, not {failure:?}"
        );
    }
}
