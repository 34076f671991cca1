"""CRI-O: a drop-in beside crio.conf."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from vruntime.engines import kubernetes, toml_text
from vruntime.engines.engine import Engine, Runtime, words_of
from vruntime.globals import DEFAULT_ROOT

_RUNTIME: Final = ("crio", "runtime")


def _add(text: str | None, runtime: Runtime) -> str:
    current = toml_text.table_of(toml_text.parse(text), _RUNTIME)
    default = runtime.default or current.get("default_runtime") == runtime.name

    def changes(_document: dict[str, Any]) -> toml_text.Changes:
        return {
            **({_RUNTIME: {"default_runtime": runtime.name}} if default else {}),
            (*_RUNTIME, "runtimes", runtime.name): {
                "runtime_path": runtime.path,
                "runtime_type": "oci",
                "runtime_root": str(DEFAULT_ROOT),
                # A guest has none of the host's devices to give to a privileged container.
                "privileged_without_host_devices": True,
            },
        }

    return toml_text.add(text, runtime.name, changes)


def _refusal(program: str, file: Path) -> str | None:
    """`crio config` reads and checks what it then prints; with no drop-ins but this file."""
    return words_of([program, "--config", str(file), "--config-dir", "", "config"])


ENGINE: Final = Engine(
    title="CRI-O",
    program="crio",
    file=lambda name: Path(f"/etc/crio/crio.conf.d/10-{name}.conf"),
    add=_add,
    remove=toml_text.remove,
    refusal=_refusal,
    after="systemctl restart crio",
    use=kubernetes.runtime_class,
)
