"""Bundles made to do harm or to confuse: one line of error and no machine, or harm to nobody but the guest.

That nothing is left is what the fixture `nothing_left_behind` asserts after every test. Hooks that hang, fail or fork
are in test_hooks.py, and verbs at the wrong time (delete of what runs, start of what has started) in test_lifecycle.py.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shlex
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runtimes import Bundles, Runtime

FOREVER = ("sleep", "1000")
SECOND = 1.0


def refused(runtime: Runtime, bundle: Path, *, within: float = 4.0) -> str:
    """What `create` says of a bundle that it refuses before it starts anything."""
    began = time.monotonic()
    result = runtime("create", "--bundle", str(bundle), runtime.new_id(), check=False)
    assert time.monotonic() - began < within
    assert result.returncode == 1
    assert not (runtime.root / "sandboxes").exists(), "a sandbox was begun"
    return message(result)


def written(bundles: Bundles, content: str | bytes) -> Path:
    """A bundle with this config.json."""
    bundle = bundles.busybox("true")
    (bundle / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    return bundle


def config_of(bundles: Bundles) -> str:
    return (bundles.busybox("true") / "config.json").read_text()


@contextmanager
def unchanged(*directories: Path) -> Iterator[None]:
    """What directories of the host hold is the same afterwards."""

    def listing() -> list[tuple[str, int, int]]:
        entries = [entry for directory in directories for entry in os.scandir(directory)]
        return sorted((entry.path, entry.inode(), entry.stat(follow_symlinks=False).st_mode) for entry in entries)

    before = listing()
    yield
    assert listing() == before


# -- ids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["../x", "/x", ".", "..", "a/b", "a\nb", "a b", "ä", "x" * 5000, "x,y=z"])
@pytest.mark.parametrize("verb", ["create", "state", "delete"])
def test_ids(vruntime: Runtime, bundles: Bundles, verb: str, bad: str) -> None:
    arguments = ["--bundle", str(bundles.busybox("true"))] if verb == "create" else []
    result = vruntime(verb, *arguments, bad, check=False)
    assert message(result).removeprefix("create failed: ") == "invalid container ID format"
    assert not vruntime.root.exists()


@pytest.mark.parametrize("verb", ["create", "state", "start", "kill", "delete"])
def test_an_empty_id(vruntime: Runtime, bundles: Bundles, verb: str) -> None:
    arguments = ["--bundle", str(bundles.busybox("true"))] if verb == "create" else []
    result = vruntime(verb, *arguments, "", check=False)
    assert message(result).removeprefix("create failed: ") == "container id cannot be empty"
    assert not vruntime.root.exists()


def test_racing_creates_of_one_id(vruntime: Runtime, bundles: Bundles) -> None:
    bundle, container = bundles.busybox(*FOREVER), vruntime.new_id()

    def create(number: int) -> tuple[int, str]:
        log = bundle / f"log{number}"
        with log.open("wb") as output:  # not a pipe: the container inherits it
            arguments = vruntime.command("create", "--bundle", str(bundle), container)
            result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=60)
        return result.returncode, log.read_text()

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(create, range(50)))
    assert sorted(code for code, _ in results) == [0] + [1] * 49
    assert all("container with given ID already exists" in said for code, said in results if code)
    assert vruntime.state(container)["status"] == "created"
    assert vruntime("exec", container, "echo", "alive").stdout == b"alive\n"


# -- the root filesystem ------------------------------------------------------------------------------------------


def test_a_root_that_is_a_symlink_to_the_host(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("true", edit=lambda config: config["root"].update(path="link"))
    (bundle / "link").symlink_to("/")
    assert "symlink" in refused(vruntime, bundle)


@pytest.mark.parametrize("path", ["../../etc", "none", "config.json", "/", "", "rootfs/../.."])
def test_a_root_that_cannot_be(vruntime: Runtime, bundles: Bundles, path: str) -> None:
    bundle = bundles.busybox("true", edit=lambda config: config["root"].update(path=path))
    assert "root.path" in refused(vruntime, bundle)


@pytest.mark.parametrize("readonly", [False, True])
def test_directories_of_the_root_that_are_symlinks_to_the_host(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path, *, readonly: bool
) -> None:
    """/dev, /proc, /sys and /etc lead to directories of the host, which are not touched."""
    bundle = bundles.busybox("true", edit=lambda config: config["root"].update(readonly=readonly))
    victim = tmp_path / "victim"
    victim.mkdir()
    for name in ("dev", "proc", "sys", "etc"):
        (victim / name).mkdir()
        original = bundle / "rootfs" / name
        if name == "etc":
            for file in original.iterdir():
                file.unlink()
        original.rmdir()
        original.symlink_to(victim / name)
    directories = [victim, *victim.iterdir(), Path("/dev"), Path("/etc")]
    with unchanged(*directories):
        result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
        if result.returncode:
            assert len(message(result)) < 2000


@pytest.mark.parametrize("readonly", [False, True])
def test_mount_destinations_stay_in_the_root(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path, *, readonly: bool
) -> None:
    """Upwards, or through an absolute symlink: it lands in the guest's root, and the host's /etc is not touched."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("mounted")
    destinations = ["/../../../etc/by-dots", "/link/by-link", "/deep/../../../../etc/by-both"]

    def edit(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = readonly
        config["mounts"] += [
            {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
            for destination in destinations
        ]

    bundle = bundles.busybox("cat", *(f"/etc/by-{name}/file" for name in ("dots", "link", "both")), edit=edit)
    (bundle / "rootfs/link").symlink_to("/etc")
    with unchanged(Path("/etc"), Path("/")):
        assert vruntime("run", "--bundle", str(bundle), vruntime.new_id()).stdout == b"mounted" * 3


def test_a_relative_destination_starts_at_the_root(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["mounts"].append({"destination": "../../../etc/cron.d", "type": "tmpfs", "source": "marked"})

    bundle = bundles.busybox("grep", "-o", "marked /etc/cron.d tmpfs", "/proc/mounts", edit=edit)
    with unchanged(Path("/etc"), Path("/")):
        result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    assert result.stdout == b"marked /etc/cron.d tmpfs\n"
    assert b"absolute" in result.stderr


@contextmanager
def exchanging(one: Path, other: Path) -> Iterator[None]:
    """Meanwhile two paths change places, again and again."""
    exchange, at_cwd, stop = 2, -100, threading.Event()
    libc = ctypes.CDLL(None)

    def swap() -> None:
        while not stop.is_set():
            libc.renameat2(at_cwd, bytes(one), at_cwd, bytes(other), exchange)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("readonly", [False, True])
def test_a_mount_point_that_is_swapped_with_a_symlink(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path, *, readonly: bool
) -> None:
    """While mount points are made, on the host where the root is read-only, their parent is swapped with a symlink."""

    def edit(config: dict[str, Any]) -> None:
        config["root"]["readonly"] = readonly
        config["mounts"] += [
            {"destination": f"/swapped/{number}", "type": "tmpfs", "source": "tmpfs"} for number in range(40)
        ]

    bundle = bundles.busybox("true", edit=edit)
    victim = tmp_path / "victim"
    victim.mkdir()
    directory, link = bundle / "rootfs/swapped", bundle / "rootfs/link"
    directory.mkdir()
    link.symlink_to(victim)
    with exchanging(directory, link):
        for _ in range(4):
            result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
            if result.returncode:
                message(result)
            assert list(victim.iterdir()) == []


def test_a_root_that_is_swapped_with_a_symlink_to_the_host(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    """A directory when it is checked, a symlink when it is shared: the container gets the directory, or is refused."""
    bundle = bundles.busybox("sh", "-c", "echo written > /file && ls /marker 2>/dev/null; echo ran")
    victim = tmp_path / "victim"
    shutil.copytree(bundle / "rootfs", victim, symlinks=True)
    (victim / "marker").touch()
    (bundle / "link").symlink_to(victim)
    with exchanging(bundle / "rootfs", bundle / "link"):
        for _ in range(6):
            result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
            if result.returncode:
                message(result)
            else:
                assert result.stdout == b"ran\n"
            assert not (victim / "file").exists()


def test_a_mount_source_that_is_replaced_between_check_and_use(
    vruntime: Runtime, bundles: Bundles, tmp_path: Path
) -> None:
    """A directory when it is checked, a file or nothing when it is shared: what is there is mounted, or it fails."""
    source, file, gone = tmp_path / "source", tmp_path / "file", tmp_path / "gone"
    source.mkdir()
    (source / "inside").write_text("directory\n")
    file.write_text("file\n")

    def edit(config: dict[str, Any]) -> None:
        config["mounts"].append(
            {"destination": "/x", "type": "bind", "source": str(source), "options": ["rbind", "ro"]}
        )

    bundle = bundles.busybox("sh", "-c", "cat /x/inside 2>/dev/null || cat /x", edit=edit)
    exchange, at_cwd, stop = 2, -100, threading.Event()
    libc = ctypes.CDLL(None)

    def replace() -> None:
        while not stop.is_set():
            libc.renameat2(at_cwd, bytes(source), at_cwd, bytes(file), exchange)
            with suppress(OSError):
                source.rename(gone)
                gone.rename(source)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(6):
            result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
            if result.returncode:
                message(result)
            else:
                assert result.stdout in (b"directory\n", b"file\n")
    finally:
        stop.set()
        thread.join()


def test_the_last_of_two_mounts_on_one_place_shows(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)

    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": "/tmp/file", "type": "bind", "source": str(tmp_path / name), "options": ["bind"]}
            for name in ("first", "second")
        ]

    bundle = bundles.busybox("cat", "/tmp/file", edit=edit)
    assert any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout == b"second"


def test_an_empty_root(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("sh", edit=lambda config: config["root"].update(path="empty"))
    (bundle / "empty").mkdir()
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert message(result).endswith('exec: "sh": executable file not found in $PATH')


# -- config.json --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not valid JSON"),
        (b"[]", "object"),
        (b"null", "object"),
        (b'{"ociVersion": "1.0.2", "\xff": 1}', "not valid UTF-8"),
        (b'{"ociVersion": "\\ud800"}', "surrogate"),
        (b'{"ociVersion": "1.0.2", "ociVersion": "1.0.2"}', '"ociVersion" occurs twice'),
        (b'{"ociVersion": NaN}', "NaN"),
        (b'{"ociVersion": -Infinity}', "Infinity"),
        (b"[" * 200_000, "levels deep"),
        (b'{"a":' * 200_000, "levels deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "outside 64 bits"),
        (b'{"a": 1e999}', "too large"),
        (b'{"ociVersion": "1.0.2"} x', "not valid JSON"),
        (b"\xef\xbb\xbf{}", "JSON"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_what_is_not_strict_json(vruntime: Runtime, bundles: Bundles, content: bytes, said: str) -> None:
    assert said in refused(vruntime, written(bundles, content))


@pytest.mark.parametrize("path", ["process.args[0]", "process.env[0]", "process.cwd", "root.path", "mounts[0].source"])
def test_nul_in_a_string(vruntime: Runtime, bundles: Bundles, path: str) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["mounts"].insert(0, {"destination": "/x", "type": "bind", "source": "/tmp\0"})
        process = config["process"]
        process["args"][0] += "\0"
        process["env"][0] += "\0"
        process["cwd"] += "\0"
        config["root"]["path"] += "\0"

    said = refused(vruntime, bundles.busybox("true", edit=edit))
    assert f"{path}: contains a NUL" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"args": ["true", "x" * (10 << 20)]}, "larger than 4 MiB"),
        ({"args": ["true", "x" * (200 << 10)]}, "process.args[1]"),
        ({"args": ["true"] + ["x" * 1000] * 3000}, "bytes together"),
        ({"env": [f"N{number}=x" for number in range(100_000)]}, "more than 100000 values"),
        ({"cwd": "/" + "x" * 5000}, "process.cwd"),
    ],
    ids=["10 MiB of arguments", "one long argument", "many arguments", "100,000 of environment", "a long cwd"],
)
def test_sizes_beyond_what_a_process_can_have(
    vruntime: Runtime, bundles: Bundles, change: dict[str, Any], said: str
) -> None:
    bundle = bundles.busybox("true", edit=lambda config: config["process"].update(change))
    assert said in refused(vruntime, bundle)


def test_many_mounts(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["mounts"] += [
            {"destination": f"/m/{number}", "type": "bind", "source": "/tmp", "options": ["bind"]}
            for number in range(10_000)
        ]

    assert "mounts" in refused(vruntime, bundles.busybox("true", edit=edit))


def test_a_config_of_64_mebibytes(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = written(bundles, b"{" + b" " * (64 << 20) + b"}")
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert "larger than 4 MiB" in refused(vruntime, bundle)
    peak_kibibytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak_kibibytes < max(before + 1, 200 << 10)


@pytest.mark.parametrize(("kind", "said"), [("fifo", "a FIFO"), ("device", "a character device"), ("dir", "directory")])
def test_a_config_that_is_no_file(vruntime: Runtime, bundles: Bundles, kind: str, said: str) -> None:
    bundle = bundles.busybox("true")
    config = bundle / "config.json"
    config.unlink()
    if kind == "fifo":
        os.mkfifo(config)
    elif kind == "device":
        config.symlink_to("/dev/zero")
    else:
        config.mkdir()
    assert said in refused(vruntime, bundle, within=2 * SECOND)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda config: config["linux"]["namespaces"].append({"type": "user"}), "user namespace"),
        (lambda config: config["mounts"].append({"destination": "/x", "type": "9p", "source": "x"}), '"9p"'),
        (lambda config: config.update(ociVersion="2.0.0"), "ociVersion"),
        (lambda config: config.update(vm={"kernel": {"path": "/boot/vmlinuz"}}), "vm"),
        (lambda config: config["linux"].update(intelRdt={"closID": "x"}), "Intel RDT"),
    ],
)
def test_what_is_not_supported_is_an_error(vruntime: Runtime, bundles: Bundles, edit: Any, said: str) -> None:
    assert said in refused(vruntime, bundles.busybox("true", edit=edit))


def test_what_is_unknown_is_ignored(any_runtime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["com.example.unknown"] = {"a": [1, 2.5, None]}
        config["process"]["unknown"] = "x"
        config["linux"]["unknown"] = {}

    bundle = bundles.busybox("echo", "ran", edit=edit)
    assert any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout == b"ran\n"


def test_edits_after_create_have_no_effect(any_runtime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox("echo", "as created")
    container = any_runtime.create(bundle)
    (bundle / "config.json").write_text('{"process": "no longer"')
    any_runtime("start", container)
    eventually(lambda: any_runtime.state(container)["status"] == "stopped")
    assert (bundle / "create.log").read_text() == "as created\n"


def test_a_further_process_is_of_the_config_as_it_was_at_create(vruntime: Runtime, bundles: Bundles) -> None:
    bundle = bundles.busybox(*FOREVER, edit=lambda config: config["process"].update(cwd="/tmp"))
    container = vruntime.start(bundle)
    (bundle / "config.json").write_text('{"process": "no longer"')
    assert vruntime("exec", container, "pwd").stdout == b"/tmp\n"


def test_a_socket_that_is_to_be_passed_on(vruntime: Runtime, bundles: Bundles) -> None:
    create = vruntime.command("create", "--bundle", str(bundles.busybox("true")))
    script = f"LISTEN_FDS=2 LISTEN_PID=$$ exec {shlex.join(create)} {vruntime.new_id()}"
    said = message(subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True))
    assert "LISTEN_FDS=2: a listening socket of the host cannot cross" in said
    assert not vruntime.root.exists()


def test_descriptors_that_are_meant_for_another_are_not_passed_on(vruntime: Runtime, bundles: Bundles) -> None:
    bundle, environment = bundles.busybox("echo", "ran"), {**os.environ, "LISTEN_FDS": "1", "LISTEN_PID": "1"}
    assert vruntime("run", "--bundle", str(bundle), vruntime.new_id(), env=environment).stdout == b"ran\n"


# -- what must not reach QEMU -------------------------------------------------------------------------------------

ANNOTATIONS = {
    **{
        f"io.katacontainers.config.hypervisor.{key}": "/tmp/evil"
        for key in (
            "path",
            "jailer_path",
            "ctlpath",
            "kernel",
            "image",
            "initrd",
            "firmware",
            "kernel_params",
            "machine_type",
            "machine_accelerators",
            "cpu_features",
            "asset_hash_type",
            "kernel_hash",
            "image_hash",
            "initrd_hash",
            "virtio_fs_daemon",
            "virtio_fs_extra_args",
            "virtio_fs_cache",
            "virtio_fs_cache_size",
            "shared_fs",
            "block_device_driver",
            "file_mem_backend",
            "entropy_source",
            "guest_hook_path",
            "vhost_user_store_path",
            "rootfs_type",
            "kernel_verity_params",
            "snp_guest_policy",
            "default_maxvcpus",
            "default_memory",
            "memory_offset",
            "memory_slots",
            "msize_9p",
            "pcie_root_port",
            "hotplug_vfio_on_root_bus",
        )
    },
    **{
        f"io.katacontainers.config.hypervisor.{key}": "true"
        for key in (
            "enable_iommu",
            "enable_iommu_platform",
            "enable_iothreads",
            "enable_mem_prealloc",
            "enable_hugepages",
            "enable_swap",
            "enable_virtio_mem",
            "enable_vhost_user_store",
            "disable_vhost_net",
            "disable_selinux",
            "block_device_cache_set",
            "block_device_cache_direct",
            "confidential_guest",
            "use_legacy_serial",
        )
    },
    "io.katacontainers.config_path": "/tmp/evil.toml",
    "io.katacontainers.config.agent.trace": "true",
    "io.katacontainers.config.runtime.create_container_timeout": "1",
    "run.oci.hooks.stdout": "/tmp/evil",
    "run.oci.seccomp.receiver": "/tmp/evil",
    "krun.ram_mib": "1",
    "org.systemd.property.MemoryMax": "uint64 1",
    "dev.gvisor.flag.platform": "ptrace",
    "io.kubernetes.cri.untrusted-workload": "true",
    "io.katacontainers.config.hypervisor.enable_debug": "true",
    "io.katacontainers.config.hypervisor.default_vcpus": "64",
    "io.katacontainers.config.agent.kernel_modules": "evil",
    "io.katacontainers.config.runtime.disable_guest_seccomp": "true",
    "io.vruntime.kernel": "/tmp/evil",
    "io.vruntime.vm.qemu": "/tmp/evil",
    "vm.qemu": "/tmp/evil",
    "run.oci.handler": "krun",
    "krun.cpus": "64",
    "dev.gvisor.flag.debug": "true",
}


def helpers(runtime: Runtime, container: str) -> list[list[bytes]]:
    """The command lines of QEMU and virtiofsd of a container, found as the children of its monitor."""
    record = json.loads((runtime.root / "containers" / container / "state.json").read_text())
    monitor = record["monitor"]["pid"]
    children = Path(f"/proc/{monitor}/task/{monitor}/children").read_text().split()
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") for pid in children]
    assert len(lines) == 2, lines
    return sorted(lines)


def test_annotations_change_no_command_line(vruntime: Runtime, bundles: Bundles) -> None:
    plain = vruntime.create(bundles.busybox(*FOREVER))
    annotated = vruntime.create(bundles.busybox(*FOREVER, edit=lambda config: config.update(annotations=ANNOTATIONS)))
    expected = helpers(vruntime, plain)
    actual = [
        [word.replace(annotated.encode(), plain.encode()) for word in line] for line in helpers(vruntime, annotated)
    ]
    assert actual == expected
    assert vruntime.state(annotated)["annotations"].items() >= ANNOTATIONS.items()


def test_separators_in_paths_and_names_are_literal(any_runtime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    odd = "-o,readonly=on,a=b c"

    def edit(config: dict[str, Any]) -> None:
        config["hostname"] = "-name,debug=on"
        config["root"]["path"] = odd
        mount = {"destination": f"/{odd}", "type": "bind", "source": str(tmp_path / odd), "options": ["bind"]}
        config["mounts"].append(mount)

    (tmp_path / odd).mkdir()
    (tmp_path / odd / "file").write_text("content")
    bundle = bundles.busybox("sh", "-c", f"hostname; cat '/{odd}/file'", edit=edit)
    (bundle / "rootfs").rename(bundle / odd)
    bundle = bundle.rename(bundle.parent / odd.replace("-o", "--o"))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id())
    assert result.stdout == b"-name,debug=on\ncontent"
