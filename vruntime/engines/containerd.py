"""containerd: a runtime of its CRI plugin in config.toml. `ctr` and nerdctl take a path, and need no entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from vruntime.engines import kubernetes, toml_text
from vruntime.engines.engine import Engine, Runtime, words_of
from vruntime.errors import EngineError

_CRI_PLUGINS: Final = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
"""By the version of the file. containerd from 1.3 on reads version 2, from 2.0 on both."""

_SHIM: Final = "io.containerd.runc.v2"


def _add(text: str | None, runtime: Runtime) -> str:
    document = toml_text.parse(text)
    default = runtime.default or _cri(document).get("default_runtime_name") == runtime.name

    def changes(document: dict[str, Any]) -> toml_text.Changes:
        cri, entry = _cri_table(document), (*_cri_table(document), "runtimes", runtime.name)
        runtimes = toml_text.table_of(document, (*cri, "runtimes"))
        runc = toml_text.table_of(runtimes, ("runc", "options"))
        cgroups = {"SystemdCgroup": runc["SystemdCgroup"]} if "SystemdCgroup" in runc else {}
        return {
            **({} if document else {(): {"version": 2}}),
            **({cri: {"default_runtime_name": runtime.name}} if default else {}),
            # The first runtime in a file takes the place of the one that containerd has without any.
            **({} if runtimes else {(*cri, "runtimes", "runc"): {"runtime_type": _SHIM}}),
            # A guest has none of the host's devices to give to a privileged container.
            entry: {"runtime_type": _SHIM, "privileged_without_host_devices": True},
            (*entry, "options"): {"BinaryName": runtime.path, **cgroups},
        }

    return toml_text.add(text, runtime.name, changes)


def _remove(text: str | None, name: str) -> str | None:
    removed = toml_text.remove(text, name)
    if removed == text:
        return text
    before, after = (_cri(toml_text.parse(side)).get("runtimes", {}) for side in (text, removed))
    if after and "runc" in before and "runc" not in after:
        raise EngineError(f"{', '.join(after)} there would be left without runc", hint="remove what came later first")
    return removed


def _cri(document: dict[str, Any]) -> dict[str, Any]:
    return toml_text.table_of(document, _cri_table(document))


def _cri_table(document: dict[str, Any]) -> toml_text.Table:
    version = document.get("version", 1) if document else 2
    if not isinstance(version, int) or version not in _CRI_PLUGINS:
        raise EngineError(
            f"its version is {version!r}, not 2 or 3",
            hint="`containerd config migrate` prints it in the newest version that the installed containerd reads",
        )
    return ("plugins", _CRI_PLUGINS[version], "containerd")


def _refusal(program: str, file: Path) -> str | None:
    return words_of([program, "--config", str(file), "config", "dump"])


def _use(runtime: Runtime) -> Sequence[str]:
    return [
        f"run: ctr run --rm --runtime {_SHIM} --runc-binary {runtime.path} IMAGE ID",
        f"or:  nerdctl run --rm --runtime {runtime.path} IMAGE",
        *kubernetes.runtime_class(runtime),
    ]


ENGINE: Final = Engine(
    title="containerd",
    program="containerd",
    file=lambda _name: Path("/etc/containerd/config.toml"),
    add=_add,
    remove=_remove,
    refusal=_refusal,
    after="systemctl restart containerd",
    use=_use,
)
