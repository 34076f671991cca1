"""Mount and network namespaces in which an engine lives: its mounts, its links and its /run are not the host's."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

# Controllers of cgroup v1 that a host leaves out: version 2 would keep them, and a mixture is what some engines refuse.
# Only the first cgroup namespace (its number is the kernel's constant) can mount what nobody has mounted.
CONTROLLERS = ("hugetlb", "net_cls", "net_prio", "perf_event")
_PREPARE = f"""
set -e
# Whoever had it in version 2 may be gone for some time before the kernel lets go of it. Our own runtime does without.
mount_controller() {{
    mkdir -p $2
    for attempt in $(seq 30); do
        ! mount -t cgroup -o $1 $1 $2 2>/dev/null || return 0
        {{ echo -$1 >/sys/fs/cgroup/unified/cgroup.subtree_control; }} 2>/dev/null || true
        sleep 0.1
    done
    rmdir $2
}}
for controller in {" ".join(CONTROLLERS)}; do
    directory=/sys/fs/cgroup/$controller
    [ ! -e /sys/fs/cgroup/cgroup.controllers ] || break
    [ "$(readlink /proc/self/ns/cgroup)" = cgroup:[4026531835] ] || break
    mountpoint --quiet $directory || mount_controller $controller $directory
done
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up
echo ready
exec sleep infinity
"""


class Namespaces:
    """The namespaces, held by a process that sleeps in them until the end."""

    def __init__(self) -> None:
        command = ["unshare", "--mount", "--net", "--propagation", "private", "bash", "-c", _PREPARE]
        self._holder = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        with self._holder.stdout as output:
            assert output.readline() == "ready\n", "the engine's namespaces were not made"

    @property
    def pid(self) -> str:
        """The process that holds them."""
        return str(self._holder.pid)

    def command(self, *argv: str) -> list[str]:
        """The command line that runs a program within, in this very process."""
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--", *argv]

    def path(self, path: str | Path) -> Path:
        """Where a path from within is seen from here."""
        return Path(f"/proc/{self.pid}/root", str(path).lstrip("/"))

    def inhabitants(self) -> set[str]:
        """Command lines of the processes that live in either, but for the holder."""
        ours = {self._identity(self.pid, kind) for kind in ("mnt", "net")}
        found = set()
        for process in Path("/proc").iterdir():
            if process.name.isdigit() and process.name != self.pid:
                with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                    if ours & {self._identity(process.name, kind) for kind in ("mnt", "net")}:
                        command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        found.add(f"{process.name} {command}")
        return found

    def end(self) -> None:
        """Lets go of them; what was mounted within is gone with the last process."""
        self._remove_groups()
        self._holder.kill()
        self._holder.wait()

    def _remove_groups(self) -> None:
        """Those that engines leave in hierarchies which are mounted here alone, and which the kernel would keep."""
        for controller in CONTROLLERS:
            name = f"/sys/fs/cgroup/{controller}"
            if not os.path.ismount(name):
                for directory, _, _ in os.walk(self.path(name), topdown=False):
                    with suppress(OSError):  # the root, or what another engine still has
                        os.rmdir(directory)

    @staticmethod
    def _identity(pid: str, kind: str) -> str:
        return os.readlink(f"/proc/{pid}/ns/{kind}")
