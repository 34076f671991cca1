"""Podman: a drop-in beside containers.conf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from vruntime.engines import toml_text
from vruntime.engines.engine import PATH, Engine, Runtime, words_of

_ENGINE: Final = ("engine",)

_TELL_ERRORS_IN_JSON: Final = ("crun", "crun-vm", "kata", "krun", "runc", "runsc", "youki")
"""What Podman takes for `runtime_supports_json` where no file sets it, in its versions from 4.3 on.

A list in a file replaces it: these stay in it. Not listed in `runtime_supports_nocgroups`, which means an option of
crun's own, `--cgroup-manager`.
"""


def _add(text: str | None, runtime: Runtime) -> str:
    default = runtime.default or toml_text.table_of(toml_text.parse(text), _ENGINE).get("runtime") == runtime.name

    def changes(document: dict[str, Any]) -> toml_text.Changes:
        known = list(toml_text.table_of(document, _ENGINE).get("runtime_supports_json", _TELL_ERRORS_IN_JSON))
        known += [] if runtime.name in known else [runtime.name]
        engine = {"runtime": runtime.name} if default else {}
        return {
            _ENGINE: {**engine, "runtime_supports_json": known},
            (*_ENGINE, "runtimes"): {runtime.name: [runtime.path]},
        }

    return toml_text.add(text, runtime.name, changes)


def _refusal(program: str, file: Path) -> str | None:
    """`podman info` alone looks at all of the file; with stores of its own, since it makes those it finds missing."""
    with TemporaryDirectory(prefix="vruntime-setup-") as directory:
        stores = [f"--{store}={directory}/{store}" for store in ("root", "runroot", "tmpdir")]
        podman = [program, *stores, "--storage-driver=vfs", "info"]
        return words_of(podman, environment={"PATH": PATH, "CONTAINERS_CONF": str(file)})


def _use(runtime: Runtime) -> Sequence[str]:
    option = "" if runtime.default else f"--runtime {runtime.name} "
    return [f"run: podman {option}run --rm IMAGE"]


ENGINE: Final = Engine(
    title="Podman",
    program="podman",
    file=lambda name: Path(f"/etc/containers/containers.conf.d/{name}.conf"),
    add=_add,
    remove=toml_text.remove,
    refusal=_refusal,
    after=None,
    use=_use,
)
