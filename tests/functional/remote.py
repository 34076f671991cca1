"""A container that does what a test asks for, one call after the other: the same Python is on both sides."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes import Bundles, Runtime

if TYPE_CHECKING:
    from runtimes import Edit

TESTS = Path(__file__).parent

# What Docker gives a container.
CAPABILITIES = [
    f"CAP_{name}"
    for name in (
        *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
        *("NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    )
]


class Inside:
    """The process in the container. `inside(os.stat, "/x")` is os.stat there: what it raises there is raised here."""

    def __init__(self, runtime: Runtime, container_id: str, process: subprocess.Popen[bytes]) -> None:
        self.runtime = runtime
        self.container_id = container_id
        self._process = process

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((function, arguments), self._process.stdin)
        self._process.stdin.flush()
        result, error = pickle.load(self._process.stdout)
        if error is not None:
            raise error
        return result

    @property
    def is_virtual(self) -> bool:
        """Whether it has a kernel of its own."""
        return "vruntime" in self.runtime.program


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    """An entry of `mounts`, as engines write it."""
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


@contextmanager
def running_inside(runtime: Runtime, bundles: Bundles, edit: Edit) -> Iterator[Inside]:
    """Starts such a container, whose /usr is the host's, and ends it."""
    bundle = bundles.busybox(
        "/usr/bin/python3", "/tests/inside/serve_calls.py", edit=lambda config: _prepare(config, edit)
    )
    for name in ("lib", "lib64"):
        (bundle / "rootfs" / name).symlink_to(f"usr/{name}")
    container_id = runtime.new_id()
    command = runtime.command("run", "--bundle", str(bundle), container_id)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            inside = Inside(runtime, container_id, process)
            inside(os.getpid)  # it is there
            yield inside
        finally:
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(timeout=30) == 0


def _prepare(config: dict[str, Any], edit: Edit) -> None:
    process = config["process"]
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES)
    process["noNewPrivileges"] = False
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 4096, "hard": 4096}]
    config["mounts"] += [bind(Path("/usr"), "/usr", "ro"), bind(TESTS, "/tests", "ro")]
    edit(config)
