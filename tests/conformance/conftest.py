"""Each case on each runtime: what was seen, what had to be, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "functional"))

from cases import Caller, Group, Row, Shown, outcome
from differences import difference
from inventory import Inventory, left_behind
from runtimes import RUNC, VRUNTIME, Bundles, Runtime

RUNTIMES = ("runc", "crun", "vruntime")
CGROUPS = Path("/sys/fs/cgroup")
CRUN_WITHOUT_MIXTURE = """#!/bin/sh
exec unshare --mount --propagation private sh -c '
controllers=/sys/fs/cgroup/unified/cgroup.controllers
[ ! -e $controllers ] || mount --bind /dev/null $controllers
exec crun "$@"' crun "$@"
"""


@dataclass(frozen=True)
class Case:
    """A row on a runtime."""

    runtime: str
    group: Group
    row: Row


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each row of a module's groups, on each runtime."""
    if "case" in metafunc.fixturenames:
        cases = [Case(name, group, row) for name in RUNTIMES for group in metafunc.module.GROUPS for row in group.rows]
        metafunc.parametrize("case", cases, ids=[f"{case.runtime}-{case.row.name}" for case in cases])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first row of a group waits for all of it."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Where bundles are: whoever a user namespace maps root to must be able to enter it."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture(scope="session")
def probe(directory: Path) -> Path:
    """The program that looks around inside."""
    program = directory / "probe"
    source = Path(__file__).with_name("probe.c")
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Werror", "-o", program, source], check=True)
    return program


@pytest.fixture(scope="session")
def programs(directory: Path) -> dict[str, str]:
    """Each runtime's program.

    crun refuses a host with cgroup v1 where version 2 has a controller too: it does not get to see that.
    """
    crun = directory / "crun"
    crun.write_text(CRUN_WITHOUT_MIXTURE)
    crun.chmod(0o755)
    return {"runc": RUNC, "crun": str(crun), "vruntime": VRUNTIME}


@pytest.fixture(scope="session")
def look(directory: Path, probe: Path, programs: dict[str, str]) -> Callable[[Case], Shown]:
    """What the rows of a case's group show on its runtime; they are carried out once."""
    looks: dict[tuple[str, Group], Shown] = {}

    def once(case: Case) -> Shown:
        key = case.runtime, case.group
        if key not in looks:
            looks[key] = _look(case, programs[case.runtime], Path(tempfile.mkdtemp(dir=directory)), probe)
        return looks[key]

    return once


def _look(case: Case, program: str, directory: Path, probe: Path) -> Shown:
    directory.chmod(0o755)
    root = directory / "state"
    before = Inventory.take(root)
    runtime, bundles = Runtime(program, root), Bundles(directory)
    try:
        shown = case.group.look(Caller(case.runtime, runtime, bundles, directory, probe))
    except Exception as error:
        shown = dict.fromkeys((row.name for row in case.group.rows), error)
    runtime.clean_up()
    if case.runtime != "vruntime":
        sweep(Inventory.take(root).added_since(before).get("cgroups", ()))
    if left := left_behind(before, root):
        return dict.fromkeys(shown, AssertionError(f"left behind: {left}"))
    # Not before it is known that no mount is left in it: what was mounted there would go, too.
    shutil.rmtree(directory)
    return shown


def sweep(cgroups: Iterable[str]) -> None:
    """Removes what the oracles forget: crun those of a container that it could not make."""
    for group in sorted(cgroups, reverse=True):
        os.rmdir(group)


@pytest.fixture
def seen(case: Case, look: Callable[[Case], Shown]) -> Any:
    """What the runtime shows."""
    shown = look(case)[case.row.name]
    if isinstance(shown, Exception):
        raise shown
    return shown


@pytest.fixture
def expected(case: Case) -> Any:
    """What it must show: what the row says, but for a known difference, which must still be one."""
    if known := difference(case.runtime, case.row.name):
        return known.seen
    on_v1 = case.runtime != "vruntime" and not os.path.exists(CGROUPS / "cgroup.controllers")
    wanted = case.row.on_cgroup_v1 if on_v1 and case.row.on_cgroup_v1 is not None else case.row.expected
    return outcome(case.runtime, wanted) if isinstance(wanted, str) else wanted
