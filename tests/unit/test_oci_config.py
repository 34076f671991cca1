"""config.json: what is accepted, every fault with its path, and what host and guest get of it."""

import json
import os
import stat
import subprocess
import sys

import pytest

from vruntime.errors import ConfigError
from vruntime.idmap import IdMapping
from vruntime.oci import checks
from vruntime.oci.config import BoundSocket, Mount, load_config


def faults(bundle) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(bundle.write())
    assert "\n" not in str(caught.value)
    return caught.value.faults


def test_the_default_config_is_accepted(bundle):
    config = load_config(bundle.write())
    assert config.oci_version == "1.2.0"
    assert config.bundle == bundle.path
    assert config.rootfs == bundle.path / "rootfs"
    assert config.readonly is True
    assert config.terminal is True
    assert config.process.args == ("sh",)
    assert config.hostname == "runc"
    assert config.annotations == {}
    assert config.cgroups_path == ""
    assert (config.cpu_quota, config.cpu_period, config.memory_limit) == (None, 100_000, None)
    assert config.warnings == ()
    assert [mount.type for mount in config.mounts][:3] == ["proc", "tmpfs", "devpts"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("ociVersion", "1.0.0"),
        ("ociVersion", "1.0.2-dev"),
        ("ociVersion", "1.3.0+build.1"),
        ("process.user", {}),
        ("process.user", {"uid": 2**32 - 1, "gid": 0, "umask": 0o22, "additionalGids": [1, 2]}),
        ("process.env", ["A=", "B=x=y"]),
        ("process.env", []),
        ("process.capabilities", {}),
        ("process.oomScoreAdj", -1000),
        ("process.consoleSize", {"height": 24, "width": 80}),
        ("linux.cgroupsPath", "system.slice:docker:1234"),
        ("linux.resources.memory", {"limit": -1, "swap": -1, "swappiness": 60}),
        ("linux.resources.pids", {"limit": -1}),
        ("linux.resources.unified", {"memory.high": "1G"}),
        ("linux.rootfsPropagation", "rslave"),
        ("linux.sysctl", {"net.ipv4.ip_unprivileged_port_start": "0"}),
        ("linux.sysctl", {"net/ipv4/conf/eno2.100/rp_filter": "1", "kernel.shmmax": "1"}),
        ("linux.sysctl", {"kernel.domainname": "x"}),
        ("linux.uidMappings", []),
        ("linux.devices", [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229}]),
        ("linux.devices", [{"type": "p", "path": "/run/fifo"}]),
        ("hooks", {"prestart": [], "poststop": None}),
        ("hooks", {"createRuntime": [{"path": "/x", "args": [], "env": ["A=", "B=1"], "timeout": 1}]}),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW"}),
        ("unknown", {"a": [1.5]}),
        ("linux.unknown", "x"),
        ("process.commandLine", "for Windows"),
    ],
)
def test_accepts(bundle, path, value):
    bundle.set(path, value)
    load_config(bundle.write())


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("ociVersion", 1, "ociVersion: must be a string, not 1"),
        ("ociVersion", "2.0.0", 'ociVersion: must be a version 1.x.y, not "2.0.0"'),
        ("ociVersion", "1.0.0\n", 'ociVersion: must be a version 1.x.y, not "1.0.0\\n"'),
        ("root", [], "root: must be an object, not []"),
        ("root.readonly", 1, "root.readonly: must be true or false, not 1"),
        ("process.args", [], "process.args: must not be empty"),
        ("process.args", "sh", 'process.args: must be an array, not "sh"'),
        ("process.args.0", 5, "process.args[0]: must be a string, not 5"),
        ("process.args", ["a", None], "process.args[1]: must be a string, not null"),
        ("process.args", ["a\0b"], "process.args[0]: contains a NUL character"),
        ("process.args", ["x" * 131072], "process.args[0]: has 131072 bytes; execve(2) takes"),
        ("process.args", ["x" * 130_000] * 17, "process.args: args and env have 2210"),
        ("process.env", ["A"], 'process.env[0]: "A" does not have the form NAME=VALUE'),
        ("process.env", ["=A"], 'process.env[0]: "=A" does not have the form'),
        ("process.env", ["A=\0"], "process.env[0]: contains a NUL character"),
        ("process.env", ["A=1"] * 10_001, "process.env: has 10001 entries; at most 10000"),
        ("process.cwd", "tmp", 'process.cwd: "tmp" is not an absolute path'),
        ("process.cwd", "/a\0b", "process.cwd: contains a NUL character"),
        ("process.cwd", "", "process.cwd: must not be empty"),
        ("process.cwd", "/" + "x" * 4095, "process.cwd: has 4096 bytes; at most 4095"),
        ("process.user.uid", -1, "process.user.uid: -1 is less than 0"),
        ("process.user.uid", 2**32, "process.user.uid: 4294967296 is more than 4294967295"),
        ("process.user.gid", 1.0, "process.user.gid: must be an integer, not 1.0"),
        ("process.user.gid", True, "process.user.gid: must be an integer, not true"),
        ("process.oomScoreAdj", 1001, "process.oomScoreAdj: 1001 is more than 1000"),
        (
            "process.rlimits.0.type",
            "RLIMIT_FOO",
            'process.rlimits[0].type: "RLIMIT_FOO" is none of RLIMIT_AS',
        ),
        (
            "process.rlimits.0.soft",
            2000,
            "process.rlimits[0].soft: 2000 is more than the hard limit 1024",
        ),
        (
            "process.rlimits.-",
            {"type": "RLIMIT_NOFILE", "hard": 1, "soft": 1},
            'process.rlimits[1]: "RLIMIT_NOFILE" occurs twice',
        ),
        ("hostname", "x" * 65, "hostname: has 65 bytes; at most 64"),
        ("hostname", "a\0", "hostname: contains a NUL character"),
        ("annotations", {"a": 1}, "annotations.a: must be a string, not 1"),
        ("annotations", {"a.b": 1}, 'annotations["a.b"]: must be a string, not 1'),
        ("mounts.0.source", "a\0", "mounts[0].source: contains a NUL character"),
        ("mounts.0.type", "nfs", 'mounts[0].type: "nfs" is not supported'),
        ("mounts.0.type", "", "mounts[0].type: is required without the option bind"),
        ("mounts.0.options", ["ridmap"], "mounts[0]: only a bind mount can be id-mapped"),
        ("mounts.0.uidMappings", [{}], "mounts[0]: only a bind mount can be id-mapped"),
        (
            "mounts.-",
            {"destination": "/x", "source": "/etc", "options": ["rbind", "idmap"]},
            "mounts[7].options: the option idmap needs mappings",
        ),
        (
            "mounts",
            [{"destination": "/x", "type": "tmpfs"}] * 10_000,
            "mounts: has 10000 entries; at most 1024",
        ),
        (
            "mounts.-",
            {"destination": "/x", "source": "/nonexistent", "options": ["rbind"]},
            'mounts[7].source: stat "/nonexistent": No such file or directory',
        ),
        (
            "mounts.-",
            {"destination": "/x", "options": ["bind"]},
            "mounts[7].source: is required for a bind mount",
        ),
        ("vm", {"kernel": {"path": "/x"}}, "vm: hypervisor, kernel and image are the adm"),
        ("linux.namespaces.-", {"type": "x"}, 'linux.namespaces[5].type: "x" is none of cgroup'),
        ("linux.namespaces.-", {"type": "pid"}, 'linux.namespaces[5]: "pid" is listed twice'),
        (
            "linux.namespaces.4.path",
            "/proc/1/ns/mnt",
            "linux.namespaces[4].path: joining an existing mount namespace is not supported",
        ),
        ("linux.intelRdt", {"closID": "x"}, "linux.intelRdt: Intel RDT is not supported"),
        ("linux.rootfsPropagation", "x", 'linux.rootfsPropagation: "x" is none of private'),
        ("linux.maskedPaths", ["x"], 'linux.maskedPaths[0]: "x" is not an absolute path'),
        ("linux.readonlyPaths", ["/\0"], "linux.readonlyPaths[0]: contains a NUL"),
        ("linux.sysctl", {"vm.swappiness": "1"}, 'linux.sysctl["vm.swappiness"]: is not in a'),
        ("linux.sysctl", {"net.//.kernel": "1"}, 'linux.sysctl["net.//.kernel"]: is not the name'),
        ("linux.sysctl", {"kernel.hostname": "x"}, "conflicts with the property hostname"),
        (
            "linux.devices",
            [{"type": "b", "path": "/dev/sda", "major": 8, "minor": 0}],
            'linux.devices[0]: "/dev/sda" is a device of the host, which cannot be given',
        ),
        (
            "linux.devices",
            [{"type": "c", "path": "/dev/a", "major": {"a": 1}, "minor": 3}],
            "linux.devices[0].major: must be an integer",
        ),
        ("linux.resources.pids", {}, "linux.resources.pids.limit: is required"),
        ("linux.resources.cpu", {"quota": 2**63}, "linux.resources.cpu.quota: 9223372036854775808"),
        (
            "linux.resources.devices",
            [{"allow": True, "access": "x"}],
            'linux.resources.devices[0].access: must be of the letters r, w and m, not "x"',
        ),
        ("linux.seccomp", {}, "linux.seccomp.defaultAction: is required"),
        (
            "linux.seccomp",
            {"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/s"},
            "linux.seccomp.listenerPath: a process of the host cannot supervise",
        ),
        (
            "linux.seccomp",
            {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["x"], "action": "SCMP_ACT_NOTIFY"}],
            },
            "linux.seccomp.syscalls[0].action: SCMP_ACT_NOTIFY is not supported",
        ),
        ("root.path", "missing", "root.path: invalid rootfs: stat"),
        ("root.path", "../../etc", 'root.path: "../../etc" leaves the bundle'),
        ("root.path", "..", 'root.path: ".." leaves the bundle'),
        ("root.path", ".", 'root.path: "." leaves the bundle'),
        ("root.path", "/", "root.path: invalid rootfs: the host's root directory"),
        ("root.path", "/proc/self/root", "is, or is reached through, a symlink"),
        ("root.path", "/etc/passwd", 'invalid rootfs: "/etc/passwd" is not a directory'),
        ("root.path", "a\0b", "root.path: contains a NUL character"),
    ],
)
def test_refuses(bundle, path, value, fault):
    bundle.set(path, value)
    found = faults(bundle)
    assert any(fault in one for one in found), found


@pytest.mark.parametrize("key", ["ociVersion", "root", "process", "linux"])
def test_parts_that_are_required(bundle, key):
    bundle.remove(key)
    assert f"{key}: is required" in faults(bundle)


@pytest.mark.parametrize("index", [0, 1, 2, 4])
def test_a_namespace_that_would_be_the_hosts_is_refused(bundle, index):
    kind = bundle.document["linux"]["namespaces"][index]["type"]
    bundle.remove(f"linux.namespaces.{index}")
    assert faults(bundle) == (f"linux.namespaces: no {kind} namespace is listed, and the host's cannot be shared",)


def test_a_hostname_needs_a_uts_namespace(bundle):
    bundle.remove("linux.namespaces.3")
    assert faults(bundle) == ("hostname: cannot be set without a uts namespace",)
    bundle.remove("hostname")
    load_config(bundle.write())


def test_a_rootfs_that_is_a_symlink_is_refused(bundle):
    (bundle.path / "rootfs").rmdir()
    (bundle.path / "rootfs").symlink_to("/")
    assert "is, or is reached through, a symlink" in faults(bundle)[0]


def test_a_bundle_reached_through_a_symlink_is_accepted(bundle, tmp_path):
    bundle.write()
    (tmp_path / "link").symlink_to(bundle.path)
    assert load_config(tmp_path / "link" / "config.json").rootfs == bundle.path / "rootfs"


def test_all_faults_are_reported_at_once(bundle):
    bundle.set("process.args", [])
    bundle.set("process.cwd", "x")
    bundle.set("root.path", "missing")
    bundle.set("linux.intelRdt", {"closID": "x"})
    bundle.set("hostname", 1)
    assert {fault.split(":")[0] for fault in faults(bundle)} == {
        "process.args",
        "process.cwd",
        "root.path",
        "linux.intelRdt",
        "hostname",
    }


def test_the_message_names_the_first_faults_and_counts_the_rest(bundle):
    bundle.set("process.args", [1] * 50)
    with pytest.raises(ConfigError) as caught:
        load_config(bundle.write())
    message = str(caught.value)
    assert message.count("must be a string") == 20
    assert message.endswith("; and 30 more faults")
    assert len(caught.value.faults) == 50


@pytest.mark.parametrize("document", [[], "x", 1, {}, {"process": 1, "linux": [], "mounts": {}}])
def test_documents_of_any_shape_are_refused_cleanly(bundle, document):
    bundle.document = document
    assert faults(bundle)


def test_no_document_of_wrong_types_escapes_as_another_error(bundle):
    """Every value of the default config, replaced in turn by each type of JSON."""
    original = json.dumps(bundle.document)
    for path in list(_paths(bundle.document)):
        for value in (None, True, -1, 1.5, "\0", [], [[]], {}, {"x": {}}):
            bundle.document = json.loads(original)
            bundle.set(path, value)
            try:
                load_config(bundle.write()).for_guest("/rootfs", {})
            except ConfigError:
                continue


def _paths(value, prefix=""):
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, entry in entries:
        yield f"{prefix}{key}"
        if isinstance(entry, dict | list):
            yield from _paths(entry, f"{prefix}{key}.")


MAPPING = {"containerID": 0, "hostID": 1000, "size": 10}


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("hooks", {"poststop": [{}]}, "hooks.poststop[0].path: is required"),
        ("hooks", {"prestart": [{"path": "x"}]}, 'hooks.prestart[0].path: "x" is not an absolute path'),
        ("hooks", {"prestart": [{"path": "/x", "timeout": 0}]}, "hooks.prestart[0].timeout: 0 is less than 1"),
        ("hooks", {"createRuntime": [{"path": "/x\0"}]}, "hooks.createRuntime[0].path: contains a NUL"),
        ("hooks", {"poststart": [{"path": "/" + "x" * 4095}]}, "hooks.poststart[0].path: has 4096 bytes"),
        ("hooks", {"poststop": [{"path": "/x", "env": ["A"]}]}, 'hooks.poststop[0].env[0]: "A" does not have the form'),
        ("hooks", {"poststop": [{"path": "/x", "args": ["x" * 131072]}]}, "hooks.poststop[0].args[0]: has 131072"),
        ("linux.uidMappings", [MAPPING], "linux.uidMappings: needs a user namespace"),
        ("linux.namespaces.-", {"type": "user"}, "linux.gidMappings: is required for a user namespace"),
        ("linux.gidMappings", [MAPPING, MAPPING], "linux.gidMappings: ranges of hostID overlap"),
        ("linux.gidMappings", [MAPPING | {"size": 0}], "linux.gidMappings[0].size: 0 is less than 1"),
        ("linux.uidMappings", [MAPPING | {"size": 2**32 - 1}], "a range of hostID goes beyond 4294967295"),
        ("linux.uidMappings", [MAPPING | {"containerID": 1}], "linux.uidMappings: the container's root, id 0, is not"),
        ("linux.uidMappings", [MAPPING] * 341, "linux.uidMappings: has 341 entries; at most 340"),
        ("mounts.0.uidMappings", [MAPPING], "mounts[0].gidMappings: is required, as the other kind"),
        ("linux.timeOffsets", {"boottime": {"secs": 1}}, "linux.timeOffsets: needs a time namespace"),
        ("linux.timeOffsets", {"realtime": {}}, "linux.timeOffsets.realtime: is none of boottime, monotonic"),
        ("linux.timeOffsets", {"boottime": {"nanosecs": 10**9}}, "boottime.nanosecs: 1000000000 is more than"),
        (
            "linux.devices",
            [{"path": "/dev/a", "type": "c", "major": 1, "minor": minor} for minor in (3, 5)],
            'linux.devices[1]: another device has the path "/dev/a"',
        ),
        ("linux.devices", [{"path": "a", "type": "p"}], 'linux.devices[0].path: "a" is not an absolute path'),
        ("linux.resources.cpu", {"cpus": "3-1"}, 'linux.resources.cpu.cpus: "3-1" is not a list'),
        ("linux.resources.cpu", {"mems": "0,"}, 'linux.resources.cpu.mems: "0," is not a list'),
        ("linux.resources.cpu", {"idle": 2}, "linux.resources.cpu.idle: 2 is more than 1"),
        ("linux.resources.memory", {"swappiness": 101}, "linux.resources.memory.swappiness: 101 is more"),
        ("linux.resources.blockIO", {"weight": 5}, "linux.resources.blockIO.weight: 5 is not 0 (unset) or from 10"),
        (
            "linux.resources.blockIO",
            {"weightDevice": [{"major": 8, "minor": 0, "weight": 9}]},
            "linux.resources.blockIO.weightDevice[0].weight: 9 is not 0",
        ),
        ("linux.resources.unified", {"a/b": "1"}, 'linux.resources.unified["a/b"]: is not the name of a file'),
        ("linux.resources.hugepageLimits", [{"pageSize": "2M", "limit": 1}], "must be a size such as 2MB"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "s"}, "is not an absolute path"),
        ("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "s"}, "needs a listenerPath"),
        ("linux.personality", {"domain": "X"}, 'linux.personality.domain: "X" is none of LINUX, LINUX32'),
        ("process.capabilities", {"effective": ["CAP_KILL"]}, "effective[0]: CAP_KILL is not permitted"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "nice": 20}, "process.scheduler.nice: 20 is not from"),
        ("process.scheduler", {"policy": "SCHED_OTHER", "priority": 1}, "process.scheduler.priority: can only"),
        ("process.scheduler", {"policy": "SCHED_FIFO", "runtime": 1}, "process.scheduler.runtime: can only"),
        ("process.scheduler", {}, "process.scheduler.policy: is required"),
        ("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}, "priority: 8 is more than 7"),
        ("process.execCPUAffinity", {"initial": "x"}, 'process.execCPUAffinity.initial: "x" is not a list'),
        ("process.execCPUAffinity", {"final": "0-7:1/2"}, 'process.execCPUAffinity.final: "0-7:1/2" is not a list'),
        ("process.consoleSize", {"height": 65536, "width": 1}, "consoleSize.height: 65536 is more than 65535"),
    ],
)
def test_rules_beyond_the_shape(bundle, path, value, fault):
    bundle.set(path, value)
    found = faults(bundle)
    assert any(fault in one for one in found), found


@pytest.mark.parametrize("cpus", ["0", "0-3,7", "0-7:1/2", "0, 1", ""])
def test_lists_of_cpus(bundle, cpus):
    bundle.set("linux.resources.cpu", {"cpus": cpus})
    load_config(bundle.write())


def test_the_same_device_may_be_listed_twice(bundle):
    bundle.set("linux.devices", [{"path": "/dev/a", "type": "c", "major": 1, "minor": 3}] * 2)
    load_config(bundle.write())


def test_a_relative_destination_starts_at_the_root_with_a_warning(bundle):
    bundle.set("mounts.0.destination", "proc")
    config = load_config(bundle.write())
    assert config.mounts[0].destination == "/proc"
    assert config.warnings == ('mounts[0].destination: "proc" is not absolute: it is taken as relative to /',)


def test_the_guest_gets_the_architectures_that_its_kernel_has(bundle):
    architectures = ["SCMP_ARCH_X86_64", "SCMP_ARCH_M68K", "SCMP_ARCH_X86"]
    bundle.set("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures})
    guest = json.loads(load_config(bundle.write()).for_guest("/rootfs", {}))
    assert guest["linux"]["seccomp"]["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]


def test_a_missing_file_is_reported_as_runc_does(bundle):
    with pytest.raises(ConfigError, match=r"^JSON specification file config\.json not found \("):
        load_config(bundle.file)


def test_what_is_ignored_is_warned_of(bundle):
    bundle.set("process.apparmorProfile", "docker-default")
    bundle.set("process.selinuxLabel", "x")
    bundle.set("linux.mountLabel", "x")
    bundle.set("linux.personality", {"domain": "LINUX32", "flags": ["x"]})
    bundle.set("process.capabilities.bounding", ["CAP_KILL", "CAP_FOO", "kill"])
    bundle.set("mounts.0.options", ["rshared"])
    config = load_config(bundle.write())
    assert config.warnings == (
        "linux.mountLabel: ignored: the guest has no SELinux",
        "linux.personality.flags: ignored: none is defined",
        "process.apparmorProfile: ignored: the guest has no AppArmor",
        "process.selinuxLabel: ignored: the guest has no SELinux",
        'process.capabilities: ignoring unknown or unavailable capabilities: ["CAP_FOO", "kill"]',
        "mounts[0].options: mounts made in the guest do not appear on the host",
    )
    guest = json.loads(config.for_guest("/rootfs", {}))
    assert guest["process"]["capabilities"]["bounding"] == ["CAP_KILL"]
    assert "apparmorProfile" not in guest["process"]
    assert "mountLabel" not in guest["linux"]
    assert guest["linux"]["personality"] == {"domain": "LINUX32"}


def test_id_mapped_mounts_are_mapped_on_the_host(bundle):
    """By mappings of their own, or with the option alone by those of the container."""
    for key, host in (("uidMappings", 1000), ("gidMappings", 2000)):
        bundle.set(f"linux.{key}", [{"containerID": 0, "hostID": host, "size": 10}])
    bundle.set("linux.namespaces.-", {"type": "user"})
    own = {key: [{"containerID": 5, "hostID": 6, "size": 7}] for key in ("uidMappings", "gidMappings")}
    bundle.document["mounts"] = [
        {"destination": "/a", "source": "/etc", "options": ["rbind", "ridmap", "ro"]},
        {"destination": "/b", "source": "/etc", "options": ["bind", "idmap"], **own},
        {"destination": "/c", "source": "/etc", "options": ["bind"], **own},
        {"destination": "/d", "source": "/etc", "options": ["bind"]},
    ]
    config = load_config(bundle.write())
    assert [mount.id_mapping for mount in config.mounts] == [
        IdMapping(((0, 1000, 10),), ((0, 2000, 10),), recursive=True),
        IdMapping(((5, 6, 7),), ((5, 6, 7),), recursive=False),
        IdMapping(((5, 6, 7),), ((5, 6, 7),), recursive=False),
        None,
    ]
    guest = json.loads(config.for_guest("/rootfs", {index: f"/g/{index}" for index in range(4)}))
    assert [mount["options"] for mount in guest["mounts"]] == [["rbind", "ro"], ["bind"], ["bind"], ["bind"]]
    assert set(guest["mounts"][1]) == {"destination", "type", "source", "options"}


def test_limits(bundle):
    bundle.set("linux.resources.cpu", {"quota": 150_000, "period": 50_000})
    bundle.set("linux.resources.memory", {"limit": 2**28})
    config = load_config(bundle.write())
    assert (config.cpu_quota, config.cpu_period, config.memory_limit) == (150_000, 50_000, 2**28)


@pytest.mark.parametrize(
    ("options", "follows_host", "is_readonly_below"),
    [
        ([], True, False),
        (["ro"], True, False),
        (["rprivate", "rro"], False, True),
        (["rslave", "rro", "rrw"], True, False),
        (["private", "shared"], True, False),
        (["rshared", "unbindable"], False, False),
    ],
)
def test_what_comes_along_below_a_bind_mount(options, follows_host, is_readonly_below):
    mount = Mount(0, "/a", "bind", "/b", ("rbind", *options))
    assert (mount.follows_host, mount.is_readonly_below) == (follows_host, is_readonly_below)


def test_bind_mounts(bundle):
    (bundle.path / "data").mkdir()
    bundle.document["mounts"] = [
        {"destination": "/a", "source": "data", "options": ["rbind", "ro"], "type": "none"},
        {"destination": "/b", "source": str(bundle.path / "data"), "type": "bind"},
        {"destination": "/b", "source": "/etc/passwd", "options": ["bind", "ro", "rw"]},
        {"destination": "/c", "type": "tmpfs", "source": "data"},
    ]
    config = load_config(bundle.write())
    described = [
        (mount.type, mount.source, mount.is_bind, mount.is_recursive, mount.is_readonly) for mount in config.mounts
    ]
    data = str(bundle.path / "data")
    assert described == [
        ("bind", data, True, True, True),
        ("bind", data, True, False, False),
        ("bind", "/etc/passwd", True, False, False),
        ("tmpfs", "data", False, False, False),
    ]
    guest = json.loads(config.for_guest("/rootfs", {0: "/g/0", 1: "/g/1", 2: "/g/2"}))
    assert guest["mounts"] == [
        {"destination": "/a", "type": "bind", "source": "/g/0", "options": ["rbind", "ro"]},
        {"destination": "/b", "type": "bind", "source": "/g/1", "options": ["bind"]},
        {"destination": "/b", "type": "bind", "source": "/g/2", "options": ["bind", "ro", "rw"]},
        {"destination": "/c", "type": "tmpfs", "source": "data", "options": []},
    ]


def test_a_device_of_the_host_is_refused(bundle):
    os.mknod(bundle.path / "device", stat.S_IFCHR, os.makedev(1, 11))
    bundle.set("mounts.-", {"destination": "/x", "source": "device", "type": "bind"})
    assert faults(bundle) == ('mounts[7].source: "device" is a device of the host, which a guest cannot use',)


ALL = {"allow": True, "access": "rwm"}
NONE = {"allow": False, "access": "rwm"}
ONE = {"allow": True, "access": "rwm", "type": "c", "major": 1, "minor": 5}


@pytest.mark.parametrize("rules", [[ALL], [NONE, ONE, ALL], [NONE, {**ALL, "type": "a", "major": -1}, ONE]])
def test_who_may_use_all_devices_gets_those_of_the_guest(bundle, rules):
    """Engines list all of the host for a privileged container."""
    disk = {"type": "b", "path": "/dev/sda", "major": 8, "minor": 0}
    zero = {"type": "c", "path": "/dev/nought", "major": 1, "minor": 5}
    bundle.set("linux.devices", [disk, zero])
    bundle.set("linux.resources.devices", rules)
    config = load_config(bundle.write())
    assert config.warnings == ("linux.devices: ignored: 1 devices of the host, which the guest has not",)
    assert json.loads(config.for_guest("/rootfs", {}))["linux"]["devices"] == [zero]


@pytest.mark.parametrize("rules", [[], [ALL, NONE], [NONE, ONE], [{"allow": True, "access": "r"}]])
def test_a_device_of_the_host_is_refused_to_others(bundle, rules):
    bundle.set("linux.devices", [{"type": "b", "path": "/dev/sda", "major": 8, "minor": 0}])
    bundle.set("linux.resources.devices", rules)
    assert ['"/dev/sda" is a device of the host' in fault for fault in faults(bundle)] == [True]


def test_a_device_that_the_guest_has_is_bound_there(bundle):
    bundle.document["mounts"] = [{"destination": "/dev/x", "type": "bind", "source": "/dev/zero"}]
    guest = json.loads(load_config(bundle.write()).for_guest("/rootfs", {}))
    assert guest["mounts"][0]["source"] == "/dev/zero"


def test_a_socket_can_be_bound_but_no_fifo_is_opened(bundle):
    os.mkfifo(bundle.path / "fifo")
    bundle.set("mounts.-", {"destination": "/f", "source": "fifo", "options": ["bind"]})
    load_config(bundle.write())


def test_the_guest_gets_nothing_that_concerns_the_host(bundle):
    bundle.set("annotations", {"io.katacontainers.config.hypervisor.path": "/evil"})
    bundle.set("linux.cgroupsPath", "/docker/1")
    bundle.set("hooks", {"prestart": [{"path": "/host/only"}]})
    bundle.set("unknown", "x")
    bundle.set("process.user", {"username": "x"})
    guest = json.loads(load_config(bundle.write()).for_guest("/share/1/rootfs", {}))
    assert set(guest) == {"ociVersion", "root", "process", "mounts", "linux", "hostname"}
    assert guest["root"] == {"path": "/share/1/rootfs", "readonly": True}
    assert guest["process"]["user"] == {"uid": 0, "gid": 0}
    assert "cgroupsPath" not in guest["linux"]
    assert guest["linux"]["namespaces"] == [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")]
    assert str(bundle.path) not in json.dumps(guest)


def test_the_guest_gets_the_hooks_that_it_runs(bundle):
    hooks = [{"path": "/x", "args": ["x"], "timeout": 3}]
    bundle.set("hooks", {"startContainer": hooks, "poststart": hooks})
    guest = json.loads(load_config(bundle.write()).for_guest("/share/1/rootfs", {}))
    assert guest["hooks"] == {"startContainer": hooks}


def test_the_guest_gets_the_notification_socket(bundle):
    guest = json.loads(load_config(bundle.write()).for_guest("/share/1/rootfs", {}, notify="/notify/1"))
    options = ["bind", "nosuid", "noexec", "nodev", "ro"]
    mount = {"destination": "/run/notify", "type": "bind", "source": "/notify/1", "options": options}
    assert guest["mounts"][-1] == mount
    assert guest["process"]["env"][-1] == "NOTIFY_SOCKET=/run/notify/notify.sock"


@pytest.mark.parametrize(
    ("destination", "kind", "place"),
    [
        ("/run/notify", "bind", BoundSocket("/run/notify/a.sock", "/dev", "a.sock")),
        ("/run", "bind", BoundSocket("/run/notify/a.sock", "/dev", "notify/a.sock")),
        ("/", "bind", BoundSocket("/run/notify/a.sock", "/dev", "run/notify/a.sock")),
        ("/run/notify/a.sock", "bind", BoundSocket("/run/notify/a.sock", "/dev", "")),
        ("/run/notif", "bind", None),
        ("/run/notify", "tmpfs", None),
    ],
)
def test_a_notification_socket_in_a_bind_mount(bundle, destination, kind, place):
    bundle.set("process.env", ["NOTIFY_SOCKET=elsewhere", "NOTIFY_SOCKET=/run/notify/a.sock"])
    options = ["bind"] if kind == "bind" else []
    bundle.set("mounts", [{"destination": destination, "type": kind, "source": "/dev", "options": options}])
    config = load_config(bundle.write())
    assert config.notify_socket == place
    guest = json.loads(config.for_guest("/rootfs", {0: "/shared"}, notify="/notify"))
    if place is not None:
        assert guest["process"]["env"] == bundle.document["process"]["env"]
        assert (guest["mounts"][-1]["source"], guest["mounts"][-1]["destination"]) == (
            "/notify/notify.sock",
            "/run/notify/a.sock",
        )


def test_arguments_are_measured_in_bytes(bundle):
    bundle.set("process.args", ["ä" * (checks.ARGUMENT_LIMIT // 2 + 1)])
    assert "process.args[0]: has 131072 bytes" in faults(bundle)[0]


def test_commands_that_read_no_config_do_not_import_the_validator():
    program = "import sys, vruntime.oci.config; print('jsonschema_rs' in sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.check_output([sys.executable, "-c", program], text=True, env=environment)
    assert output == "False\n"
