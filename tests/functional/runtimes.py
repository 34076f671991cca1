"""OCI runtimes as a test calls them, and the bundles that they run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VRUNTIME = os.environ.get("VRUNTIME", "/usr/local/bin/vruntime")
RUNC = "/usr/sbin/runc"
DEADLINE = 60.0


@dataclass
class Runtime:
    """An OCI runtime with a root of its own; every container made through it is deleted at the end of the test."""

    program: str
    root: Path
    flags: tuple[str, ...] = ()
    _ids: list[str] = field(default_factory=list)

    def command(self, *arguments: str) -> list[str]:
        """The whole command line."""
        return [self.program, "--root", str(self.root), *self.flags, *arguments]

    def __call__(
        self,
        *arguments: str,
        input: bytes | None = None,
        check: bool = True,
        timeout: float = DEADLINE,
        **options: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Runs a verb to its end, with its output captured; with `check` it must exit 0."""
        if input is None:
            options.setdefault("stdin", subprocess.DEVNULL)
        result = subprocess.run(self.command(*arguments), input=input, capture_output=True, timeout=timeout, **options)
        if check:
            assert result.returncode == 0, f"{arguments}: {result.returncode}: {result.stderr!r}"
        return result

    def new_id(self) -> str:
        """An id that nobody else has; its container is deleted at the end of the test."""
        self._ids.append(f"test-{uuid.uuid4().hex[:12]}")
        return self._ids[-1]

    def create(self, bundle: Path, *flags: str) -> str:
        """Creates a container with silent streams, and gives its id."""
        container_id = self.new_id()
        arguments = self.command("create", "--bundle", str(bundle), *flags, container_id)
        # Not captured: the container inherits these streams, and would hold a pipe open.
        with open(bundle / "create.log", "w+b") as log:
            result = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=DEADLINE)
            log.seek(0)
            assert result.returncode == 0, log.read()
        return container_id

    def start(self, bundle: Path, *flags: str) -> str:
        """Creates and starts a container, and gives its id."""
        container_id = self.create(bundle, *flags)
        self("start", container_id)
        return container_id

    def state(self, container_id: str) -> dict[str, Any]:
        """What `state` says."""
        return dict(json.loads(self("state", container_id).stdout))

    def clean_up(self) -> None:
        """Deletes what the test made."""
        for container_id in self._ids:
            self("delete", "--force", container_id)


def busybox_root(rootfs: Path) -> None:
    """Makes a root filesystem with busybox alone, and its root and one user."""
    for name in ("bin", "dev", "etc", "proc", "root", "sys", "tmp"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (rootfs / "bin" / applet).symlink_to("busybox")
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/tmp:/bin/sh\n")
    (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")


Edit = Callable[[dict[str, Any]], None]


class Bundles:
    """Makes bundles: a root filesystem, and the config.json of `runc spec` with what a test changes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mounted: list[Path] = []
        self._made = 0

    def busybox(self, *args: str, edit: Edit | None = None, terminal: bool = False) -> Path:
        """A bundle with busybox alone; `args` is its program."""
        bundle = self._new()
        busybox_root(bundle / "rootfs")
        return self._configure(bundle, args, edit, terminal)

    def debian(self, *args: str, edit: Edit | None = None, terminal: bool = False) -> Path:
        """A bundle with Debian (python3, gcc, vim)."""
        return self._overlay("VRUNTIME_TEST_ROOTFS", args, edit, terminal)

    def debian_system(self, *args: str, edit: Edit | None = None) -> Path:
        """A bundle with Debian and systemd."""
        return self._overlay("VRUNTIME_TEST_SYSTEM_ROOTFS", args, edit, terminal=False)

    def clean_up(self) -> None:
        """Unmounts the overlays."""
        for rootfs in self._mounted:
            subprocess.run(["umount", rootfs], check=True)

    def _overlay(self, variable: str, args: tuple[str, ...], edit: Edit | None, terminal: bool) -> Path:
        """A bundle with an overlay over a tree that scripts/test made and named in the environment, as engines do."""
        lower = os.environ[variable]
        bundle = self._new()
        for name in ("rootfs", "upper", "work"):
            (bundle / name).mkdir()
        options = f"lowerdir={lower},upperdir={bundle}/upper,workdir={bundle}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, bundle / "rootfs"], check=True)
        self._mounted.append(bundle / "rootfs")
        return self._configure(bundle, args, edit, terminal)

    def _new(self) -> Path:
        self._made += 1
        bundle = self._directory / f"bundle{self._made}"
        bundle.mkdir()
        return bundle

    @staticmethod
    def _configure(bundle: Path, args: tuple[str, ...], edit: Edit | None, terminal: bool) -> Path:
        subprocess.run([RUNC, "spec", "--bundle", bundle], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"]["args"] = list(args) or ["sh"]
        config["process"]["terminal"] = terminal
        config["root"]["readonly"] = False
        if edit is not None:
            edit(config)
        (bundle / "config.json").write_text(json.dumps(config))
        return bundle
