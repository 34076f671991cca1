"""What is imported when: the time that a container's start takes depends on it."""

import subprocess
import sys

import pytest

HEAVY = {"asyncio", "grpc", "jsonschema_rs", "ssl"}


def imported_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


@pytest.mark.parametrize(
    "code",
    [
        "import vruntime.cli, vruntime.commands.state, vruntime.commands.exec",
        "import vruntime.cli, vruntime.commands.run",  # jsonschema_rs is imported by the check itself
        "import vruntime.monitor.__main__",
    ],
)
def test_nothing_heavy_before_it_is_needed(code: str) -> None:
    assert not HEAVY & imported_by(code)


def test_the_event_loop_does_without_tls_and_qmp_has_it() -> None:
    load = "from vruntime.monitor.__main__ import load_asyncio; load_asyncio(); import vruntime.monitor.service"
    assert "ssl" not in imported_by(load)
    assert {"ssl", "qemu.qmp"} <= imported_by(f"{load}; import vruntime.vm.qmp")


def test_what_is_deferred_is_there_when_it_is_used() -> None:
    defer = "from vruntime import lazy; lazy.defer(); import ast, ipaddress, shutil, tokenize, uuid"
    use = "ast.parse('1'), ipaddress.ip_address('::1'), shutil.which('sh'), tokenize.open, uuid.uuid4()"
    imported_by(f"{defer}; {use}")
