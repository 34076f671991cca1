"""Several containers in one virtual machine: those whose configurations name namespaces of another, as in a pod."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from messages import message
from runtimes import Bundles, Edit, Runtime
from waiting import becomes, eventually, settled

from vruntime.spawn import Identity

# A create that nobody waits for any more runs to its end in the guest, and is taken back then.
BREAKING_OFF = 30.0

FILES = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
POD = ("network", "ipc", "uts")


def pid_of(runtime: Runtime, container_id: str) -> int:
    """The pid that an engine knows of a container."""
    return int(runtime.state(container_id)["pid"])


def sharing(pid: int, *kinds: str) -> Edit:
    """The namespaces of these types are those of a process."""

    def edit(config: dict[str, Any]) -> None:
        config.pop("hostname", None)
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] in kinds:
                namespace["path"] = f"/proc/{pid}/ns/{FILES[namespace['type']]}"

    return edit


class Pod:
    """An infra container that sleeps, and others beside it."""

    def __init__(self, runtime: Runtime, bundles: Bundles, edit: Edit | None = None) -> None:
        self.runtime = runtime
        self._bundles = bundles

        def both(config: dict[str, Any]) -> None:
            config["hostname"] = "pod"
            if edit is not None:
                edit(config)

        self.infra = runtime.start(bundles.busybox("sleep", "1000", edit=both))

    @property
    def pid(self) -> int:
        """That of the infra container."""
        return pid_of(self.runtime, self.infra)

    def bundle(self, *args: str, kinds: tuple[str, ...] = POD, edit: Edit | None = None) -> Path:
        """The bundle of one that shares namespaces with the infra container."""
        share = sharing(self.pid, *kinds)

        def both(config: dict[str, Any]) -> None:
            share(config)
            if edit is not None:
                edit(config)

        return self._bundles.busybox(*args, edit=both)

    def start(self, *args: str, kinds: tuple[str, ...] = POD) -> str:
        """Starts one more container."""
        return self.runtime.start(self.bundle(*args, kinds=kinds))

    def ask(self, container_id: str, script: str) -> str:
        """What a shell in a container says."""
        return self.runtime("exec", container_id, "sh", "-c", script).stdout.decode().strip()

    def namespace(self, container_id: str, kind: str) -> str:
        """Which namespace a container is in."""
        return self.ask(container_id, f"readlink /proc/self/ns/{kind}")


@pytest.fixture
def pod(any_runtime: Runtime, bundles: Bundles) -> Pod:
    """A pod of either runtime: what follows from its namespaces is the same."""
    return Pod(any_runtime, bundles)


@pytest.fixture
def our_pod(vruntime: Runtime, bundles: Bundles) -> Pod:
    """A pod in a virtual machine."""
    return Pod(vruntime, bundles)


def machines(runtime: Runtime) -> int:
    """How many virtual machines run with state under this root."""
    return len(list((runtime.root / "sandboxes").iterdir()))


def test_what_a_pod_shares(pod: Pod) -> None:
    other = pod.start("sleep", "1000")
    assert pod.ask(other, "hostname") == "pod"
    for kind in ("net", "ipc", "uts"):
        assert pod.namespace(other, kind) == pod.namespace(pod.infra, kind), kind
    for kind in ("mnt", "pid"):
        assert pod.namespace(other, kind) != pod.namespace(pod.infra, kind), kind
    pod.ask(other, "(echo over localhost | nc -l -p 7777) >/dev/null 2>&1 &")
    assert eventually(lambda: pod.ask(pod.infra, "nc 127.0.0.1 7777 || true")) == "over localhost"


def test_a_shared_pid_namespace(pod: Pod) -> None:
    other = pod.start("sleep", "1234", kinds=("network", "pid"))
    assert "sleep 1234" in pod.ask(pod.infra, "ps")
    assert "sleep 1000" in pod.ask(other, "ps")
    pod.runtime("kill", other, "KILL")
    becomes(lambda: pod.runtime.state(other)["status"], "stopped")
    assert "sleep 1234" not in pod.ask(pod.infra, "ps")


def test_each_has_a_life_of_its_own(pod: Pod) -> None:
    first, second = pod.start("sleep", "1000"), pod.start("sleep", "1000")
    pod.runtime("pause", first)
    assert [pod.runtime.state(container)["status"] for container in (pod.infra, first, second)] == [
        "running",
        "paused",
        "running",
    ]
    pod.runtime("resume", first)
    pod.runtime("kill", first, "KILL")
    becomes(lambda: pod.runtime.state(first)["status"], "stopped")
    pod.runtime("delete", first)
    assert pod.ask(second, "echo alive") == "alive"
    assert len(json.loads(pod.runtime("ps", "--format", "json", second).stdout)) == 1


def test_the_others_go_on_without_the_first(pod: Pod) -> None:
    """And keep what they shared with it."""
    first, second = pod.start("sleep", "1000"), pod.start("sleep", "1000")
    infra_pid = pod.pid
    pod.runtime("delete", "--force", pod.infra)
    pod.runtime("delete", "--force", pod.infra)  # once more: there is none any more
    assert pod.ask(first, "hostname") == pod.ask(second, "hostname") == "pod"
    pod.ask(first, "(echo still | nc -l -p 7777) >/dev/null 2>&1 &")
    assert eventually(lambda: pod.ask(second, "nc 127.0.0.1 7777 || true")) == "still"
    assert Identity.of(infra_pid) is None
    late = pod.runtime.start(pod._bundles.busybox("sleep", "1000", edit=sharing(pid_of(pod.runtime, second), *POD)))
    assert pod.ask(late, "hostname") == "pod"


def test_a_container_comes_again(pod: Pod) -> None:
    """As an engine restarts one of a pod: the same id, the same bundle."""
    bundle = pod.bundle("sh", "-c", "echo begun >> /log; exec sleep 1000")
    container = pod.runtime.start(bundle)
    eventually((bundle / "rootfs/log").exists)
    for times in (2, 3):
        pod.runtime("delete", "--force", container)
        with open(bundle / "create.log", "wb") as log:
            command = pod.runtime.command("create", "--bundle", str(bundle), container)
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
        pod.runtime("start", container)
        becomes(lambda: (bundle / "rootfs/log").read_text(), "begun\n" * times)
    assert pod.ask(container, "cat /log") == "begun\n" * 2 + "begun"


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_a_volume_that_two_have(any_runtime: Runtime, bundles: Bundles, tmp_path: Path, mode: str) -> None:
    """It is one file system to them, so that a lock of one holds for the other."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").touch()

    def mounting(*options: str) -> Edit:
        mount = {"destination": "/volume", "type": "bind", "source": str(volume), "options": ["rbind", *options]}
        return lambda config: config["mounts"].append(mount)

    pod = Pod(any_runtime, bundles, edit=mounting("rw"))
    other = any_runtime.start(pod.bundle("sleep", "1000", edit=mounting(mode)))
    inodes = [pod.ask(container, "stat -c %d:%i /volume/file") for container in (pod.infra, other)]
    assert inodes[0] == inodes[1]
    written = any_runtime("exec", other, "touch", "/volume/new", check=False).returncode == 0
    assert written == (mode == "rw") == (volume / "new").exists()
    any_runtime("delete", "--force", pod.infra)
    assert any_runtime("exec", other, "ls", "/volume/file").stdout == b"/volume/file\n"


def test_one_machine_for_all(our_pod: Pod) -> None:
    for _ in range(2):
        our_pod.start("sleep", "1000")
    assert machines(our_pod.runtime) == 1


def test_a_named_network_namespace_that_a_container_is_in(our_pod: Pod, bundles: Bundles, tmp_path: Path) -> None:
    """As CRI names it, where the pause container and the others have the same path."""
    path = tmp_path / "netns"
    path.touch()
    subprocess.run(["mount", "--bind", f"/proc/{our_pod.pid}/ns/net", path], check=True)

    def edit(config: dict[str, Any]) -> None:
        for namespace in config["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = str(path)

    try:
        other = our_pod.runtime.start(bundles.busybox("sleep", "1000", edit=edit))
    finally:
        subprocess.run(["umount", path], check=True)
    assert our_pod.namespace(other, "net") == our_pod.namespace(our_pod.infra, "net")
    assert machines(our_pod.runtime) == 1


def test_the_end_of_the_monitor_is_the_end_of_all(our_pod: Pod) -> None:
    other = our_pod.start("sleep", "1000")
    record = json.loads((our_pod.runtime.root / "containers" / our_pod.infra / "state.json").read_text())
    os.kill(record["monitor"]["pid"], 9)
    for container in (our_pod.infra, other):
        becomes(lambda container=container: our_pod.runtime.state(container)["status"], "stopped")
    for container in (our_pod.infra, other):
        our_pod.runtime("delete", container)
    assert machines(our_pod.runtime) == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_the_last_takes_the_sandbox_with_it(our_pod: Pod, reverse: bool) -> None:
    containers = [our_pod.infra, our_pod.start("sleep", "1000"), our_pod.start("sleep", "1000")]
    for container in reversed(containers) if reverse else containers:
        assert machines(our_pod.runtime) == 1
        our_pod.runtime("delete", "--force", container)
    assert machines(our_pod.runtime) == 0


def test_an_id_whose_sandbox_others_have_is_free(our_pod: Pod, bundles: Bundles) -> None:
    other = our_pod.start("sleep", "1000")
    our_pod.runtime("delete", "--force", our_pod.infra)
    bundle = bundles.busybox("sleep", "1000")
    with open(bundle / "create.log", "wb") as log:
        command = our_pod.runtime.command("run", "--detach", "--bundle", str(bundle), our_pod.infra)
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    assert machines(our_pod.runtime) == 2
    assert our_pod.ask(other, "echo alive") == our_pod.ask(our_pod.infra, "echo alive") == "alive"


def test_a_container_that_fails_leaves_the_others_alone(our_pod: Pod) -> None:
    bundle = our_pod.bundle("/nonexistent")
    result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id(), check=False)
    assert 'exec: "/nonexistent"' in message(result)
    other = our_pod.start("sleep", "1000")
    assert our_pod.ask(other, "hostname") == our_pod.ask(our_pod.infra, "hostname")


def below_a_file(config: dict[str, Any]) -> None:
    """A mount point that the monitor cannot make, which does so where the root is read-only."""
    config["root"]["readonly"] = True
    config["mounts"].append({"destination": "/bin/busybox/below", "type": "tmpfs", "source": "tmpfs", "options": []})


def test_containers_that_fail_leave_no_descriptor(our_pod: Pod) -> None:
    bundle = our_pod.bundle("true", edit=below_a_file)
    record = json.loads((our_pod.runtime.root / "containers" / our_pod.infra / "state.json").read_text())
    opened = Path(f"/proc/{record['monitor']['pid']}/fd")

    def fail() -> None:
        result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id(), check=False)
        assert "cannot make mount point" in message(result)

    fail()  # which imports what it needs
    before = settled(lambda: len(list(opened.iterdir())), BREAKING_OFF)
    for _ in range(5):
        fail()
    becomes(lambda: len(list(opened.iterdir())), before)


def test_a_create_that_is_broken_off_leaves_nothing_in_the_pod(our_pod: Pod) -> None:
    container_id = our_pod.runtime.new_id()
    bundle = our_pod.bundle("true")
    for delay in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        create = our_pod.runtime.command("create", "--bundle", str(bundle), container_id)
        with subprocess.Popen(create, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(delay)
            process.kill()
        our_pod.runtime("delete", "--force", container_id)
    # Its name is free in the guest, too, as soon as what was begun there has been taken back.
    run = ("run", "--bundle", str(bundle), container_id)
    becomes(lambda: our_pod.runtime(*run, check=False).stderr, b"", BREAKING_OFF)


def test_exit_codes_and_output(our_pod: Pod) -> None:
    bundle = our_pod.bundle("sh", "-c", "seq 20000; exit 7")
    result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id(), check=False)
    assert result.returncode == 7
    assert result.stdout.decode().split() == [str(number) for number in range(1, 20001)]


def another_process(pod: Pod) -> str:
    return f"/proc/{os.getpid()}/ns/ipc"


def nothing(pod: Pod) -> str:
    return "/proc/4194304/ns/ipc"


@pytest.mark.parametrize("path", [another_process, nothing])
def test_a_namespace_of_the_host_is_refused(our_pod: Pod, bundles: Bundles, path: Callable[[Pod], str]) -> None:
    def edit(config: dict[str, Any]) -> None:
        next(entry for entry in config["linux"]["namespaces"] if entry["type"] == "ipc")["path"] = path(our_pod)

    bundle = bundles.busybox("true", edit=edit)
    result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id(), check=False)
    assert message(result) == (
        f"run failed: config.json cannot be used: linux.namespaces[2].path: {path(our_pod)} is not a namespace of a"
        " running container of vruntime: a virtual machine cannot share it"
    )


def test_namespaces_of_two_machines_are_refused(our_pod: Pod, bundles: Bundles) -> None:
    second = our_pod.runtime.start(bundles.busybox("sleep", "1000"))
    other = sharing(pid_of(our_pod.runtime, second), "ipc")
    bundle = our_pod.bundle("true", kinds=("network",), edit=other)
    result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id(), check=False)
    assert "are in two virtual machines" in message(result)


def test_more_memory_than_the_machine_has_is_told(our_pod: Pod) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["linux"]["resources"] = {"memory": {"limit": 64 << 30}}

    bundle = our_pod.bundle("true", edit=edit)
    result = our_pod.runtime("run", "--bundle", str(bundle), our_pod.runtime.new_id())
    assert b"which is shared, has" in result.stderr
