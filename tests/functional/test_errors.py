"""What cannot be run, and a host that cannot run it: one line that says what and why, and nothing is left.

That nothing is left is what the fixture `nothing_left_behind` asserts after every test.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from messages import message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runtimes import Bundles, Runtime

    Configure = Callable[[Runtime, str], None]


@pytest.fixture
def settings(tmp_path: Path) -> Configure:
    """Gives a runtime settings of its own, in place of the host's."""

    def use(runtime: Runtime, text: str) -> None:
        file = tmp_path / "settings.toml"
        file.write_text(text)
        runtime.flags = (*runtime.flags, "--config", str(file))

    return use


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can read: QEMU runs as one of its own."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def gone(runtime: Runtime) -> bool:
    return runtime("list", "-q").stdout == b""


@pytest.mark.parametrize("verb", ["run", "create"])
@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("none", 'exec: "none": executable file not found in $PATH'),
        ("/none", 'exec: "/none": stat /none: no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_a_program_that_cannot_be_executed(
    any_runtime: Runtime, bundles: Bundles, verb: str, program: str, reason: str
) -> None:
    result = any_runtime(verb, "--bundle", str(bundles.busybox(program)), any_runtime.new_id(), check=False)
    assert message(result) == f"{verb} failed: unable to start container process: {reason}"
    assert result.returncode == 1
    assert gone(any_runtime)


def test_a_working_directory(any_runtime: Runtime, bundles: Bundles) -> None:
    """One that is missing is made, and one that is a file is an error."""
    bundle = bundles.busybox("pwd", edit=lambda config: config["process"].update(cwd="/made/for/it"))
    assert any_runtime("run", "--bundle", str(bundle), any_runtime.new_id()).stdout == b"/made/for/it\n"
    bundle = bundles.busybox("pwd", edit=lambda config: config["process"].update(cwd="/etc/passwd"))
    result = any_runtime("run", "--bundle", str(bundle), any_runtime.new_id(), check=False)
    assert result.returncode == 1
    assert "/etc/passwd" in message(result)
    assert gone(any_runtime)


def test_a_garbled_program(vruntime: Runtime, bundles: Bundles) -> None:
    """Known before start here, and so told by create; runc finds out at start, and its container ends with 1."""
    bundle = bundles.busybox("/garbage")
    (bundle / "rootfs/garbage").write_bytes(b"\0\1\2\3")
    (bundle / "rootfs/garbage").chmod(0o755)
    result = vruntime("run", "--bundle", str(bundle), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert b"exec /garbage: exec format error" in result.stderr
    assert gone(vruntime)


def test_a_bundle_that_is_not_there(any_runtime: Runtime, tmp_path: Path) -> None:
    result = any_runtime("create", "--bundle", str(tmp_path / "none"), any_runtime.new_id(), check=False)
    assert result.returncode == 1
    assert "none" in message(result)


def test_all_faults_of_a_config_at_once(vruntime: Runtime, bundles: Bundles) -> None:
    def edit(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = "relative"
        config["process"]["env"].append("NOT A PAIR")
        config["root"]["path"] = "no-rootfs"
        config["mounts"].append({"destination": "/x", "type": "ext4", "source": "/dev/sda"})
        config["linux"]["namespaces"].append({"type": "user"})
        config["hostname"] = 5

    began = time.monotonic()
    result = vruntime("create", "--bundle", str(bundles.busybox(edit=edit)), vruntime.new_id(), check=False)
    assert time.monotonic() - began < 3
    said = message(result)
    for path in ("process.cwd", "process.env", "root.path", "mounts[7].type", "linux.uidMappings", "hostname"):
        assert path in said, f"{path} is not in {said}"


@pytest.mark.parametrize("how", ["settings", "flag"])
def test_emulation_is_refused_unless_allowed(
    vruntime: Runtime, bundles: Bundles, settings: Configure, how: str
) -> None:
    settings(vruntime, '[vm]\naccelerator = "tcg"\nallow_emulation = %s\n' % ("false" if how == "settings" else "true"))
    if how == "flag":
        vruntime.flags += ("--no-allow-emulation",)
    result = vruntime("run", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert "allow_emulation" in message(result)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[vm\n", "is not valid TOML"),
        ("[vm]\nmemroy = '1G'\n", "memroy"),
        ("[vmm]\n", "vmm"),
        ("[vm]\nmemory = '1 GB'\n", "vm.memory"),
        ("[vm]\nvcpus = 0\n", "vm.vcpus"),
        ("[agent]\nboot_timeout = 'long'\n", "agent.boot_timeout"),
        ("\0", "is not valid TOML"),
    ],
)
def test_broken_settings(vruntime: Runtime, bundles: Bundles, settings: Configure, text: str, said: str) -> None:
    settings(vruntime, text)
    result = vruntime("create", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False)
    assert result.returncode == 1
    assert said in message(result)
    assert "settings.toml" in message(result)


def test_settings_that_are_not_there(vruntime: Runtime, bundles: Bundles, tmp_path: Path) -> None:
    vruntime.flags = ("--config", str(tmp_path / "none.toml"))
    result = vruntime("create", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False)
    assert "none.toml cannot be read: No such file or directory" in message(result)


def test_settings_that_others_can_change(
    vruntime: Runtime, bundles: Bundles, settings: Configure, tmp_path: Path
) -> None:
    settings(vruntime, "")
    (tmp_path / "settings.toml").chmod(0o666)
    result = vruntime("create", "--bundle", str(bundles.busybox("true")), vruntime.new_id(), check=False)
    assert "can be changed by others than root" in message(result)


def fails_to_boot(runtime: Runtime, bundles: Bundles) -> str:
    began = time.monotonic()
    result = runtime("run", "--bundle", str(bundles.busybox("true")), runtime.new_id(), check=False)
    assert result.returncode == 1
    assert time.monotonic() - began < 10
    assert gone(runtime)
    return message(result)


@pytest.mark.parametrize("part", ["qemu", "kernel", "initramfs", "virtiofsd"])
def test_a_part_of_the_installation_is_missing(
    vruntime: Runtime, bundles: Bundles, settings: Configure, public: Path, part: str
) -> None:
    missing = public / f"no-{part}"
    settings(vruntime, f'[vm]\nallow_emulation = true\n{part} = "{missing}"\n')
    said = fails_to_boot(vruntime, bundles)
    assert said.startswith(f"run failed: vm.{part}: {missing} does not exist")


@pytest.mark.parametrize("part", ["qemu", "kernel", "initramfs", "virtiofsd"])
def test_a_part_of_the_installation_is_broken(
    vruntime: Runtime, bundles: Bundles, settings: Configure, public: Path, part: str
) -> None:
    broken = public / f"broken-{part}"
    broken.write_bytes(b"#!/bin/sh\necho 'broken indeed' >&2\nexit 3\n")
    broken.chmod(0o755)
    settings(vruntime, f'[vm]\nallow_emulation = true\n{part} = "{broken}"\n')
    said = fails_to_boot(vruntime, bundles)
    cause = {
        "qemu": "qemu ended with exit code 3: broken indeed",
        "kernel": "qemu ended with exit code 1",
        "initramfs": "panic",
        "virtiofsd": "virtiofsd ended with exit code 3: broken indeed",
    }
    assert cause[part] in said


def test_a_guest_that_never_answers(vruntime: Runtime, bundles: Bundles, settings: Configure) -> None:
    parameters = "rdinit=/none root=/dev/none rootwait"  # the kernel waits for a disk that never comes
    timeout = "[agent]\nboot_timeout = 2\n"
    settings(vruntime, f'[vm]\nallow_emulation = true\nkernel_parameters = "{parameters}"\n{timeout}')
    assert "the guest did not come up" in fails_to_boot(vruntime, bundles)
