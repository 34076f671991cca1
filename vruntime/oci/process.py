"""A process of a container: from config.json, from the file of `exec --process`, from flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from vruntime.errors import ConfigError
from vruntime.oci import checks, schema, strict_json, support
from vruntime.oci.document import Json, mapping
from vruntime.oci.faults import refuse

_CAPABILITY_SETS: Final = ("bounding", "effective", "inheritable", "permitted", "ambient")

_GUEST_KEYS: Final[tuple[str, ...]] = (
    "terminal", "consoleSize", "args", "env", "cwd", "rlimits", "noNewPrivileges", "oomScoreAdj",
    "ioPriority",
)  # fmt: skip
"""What the guest reads of a process object as it stands."""

_SCHEDULER_FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": "SCHED_RESET_ON_FORK",
    "SCHED_FLAG_DL_OVERRUN": "SCHED_FLAG_D_L_OVERRUN",
}
"""What the agent's library calls flags that it does not call as the specification does."""

_ID_LIMIT: Final = 2**32 - 1


@dataclass(frozen=True)
class Process:
    """A process object (config.md, "Process") that has passed every check."""

    document: Json
    """The object as it was written, without members that are null."""

    @property
    def terminal(self) -> bool:
        """Whether the process gets a terminal."""
        return bool(self.document.get("terminal", False))

    @property
    def args(self) -> tuple[str, ...]:
        """The command line; never empty."""
        return tuple(self.document["args"])

    @property
    def environment(self) -> Mapping[str, str]:
        """Its variables; of one that is set twice the last value, as a shell has it."""
        return dict(variable.split("=", 1) for variable in self.document.get("env", ()))

    @property
    def cwd(self) -> str:
        """The working directory, absolute."""
        return str(self.document["cwd"])

    @property
    def warnings(self) -> tuple[str, ...]:
        """What of the object is ignored, as `path: reason`."""
        return tuple(support.process_ignored(self.document))

    def for_guest(self) -> Json:
        """The object for the agent: what it supports, with the defaults that runc gives."""
        guest: Json = {key: self.document[key] for key in _GUEST_KEYS if key in self.document}
        user = self.document.get("user", {})
        guest["user"] = {"uid": 0, "gid": 0} | {
            key: user[key] for key in ("uid", "gid", "umask", "additionalGids") if key in user
        }
        if "capabilities" in self.document:
            sets = self.document["capabilities"]
            guest["capabilities"] = {
                kind: [name for name in sets.get(kind, ()) if name in support.CAPABILITIES] for kind in _CAPABILITY_SETS
            }
        if "scheduler" in self.document:
            flags = self.document["scheduler"].get("flags", ())
            names = [_SCHEDULER_FLAGS.get(flag, flag) for flag in flags]
            guest["scheduler"] = self.document["scheduler"] | {"flags": names}
        affinity = self.document.get("execCPUAffinity", {})
        lists = {key: "".join(affinity[key].split()) for key in ("initial", "final") if affinity.get(key)}
        if lists:
            guest["execCPUAffinity"] = lists
        return guest


def load_process(path: Path) -> Process:
    """Read and check the file of `exec --process`.

    Raises ConfigError with every fault.
    """
    try:
        document = strict_json.load(path)
    except OSError as error:
        raise ConfigError(f"open {path}: {error.strerror}") from error
    refuse(
        path,
        chain(
            schema.process_faults(document),
            checks.process_faults(document),
        ),
    )
    return Process(document)


def process_from_exec_flags(
    base: Process,
    args: Sequence[str],
    *,
    env: Iterable[str] = (),
    cwd: str | None = None,
    user: str | None = None,
    additional_gids: Iterable[int] = (),
    capabilities: Sequence[str] = (),
    no_new_privileges: bool = False,
    terminal: bool = False,
    apparmor_profile: str | None = None,
    selinux_label: str | None = None,
) -> Process:
    """The process that `exec` starts without `--process`: the container's own, changed by flags.

    As runc has it: environment, additional groups and capabilities are added to the container's,
    the others replace its values where given, and the terminal depends on the flag alone.

    Raises ConfigError with every fault. The schema is not needed, since `base` has passed it.
    """
    document: dict[str, Any] = base.document | {"args": list(args), "terminal": terminal}
    document["env"] = [*document.get("env", ()), *env]
    document["user"] = _user(mapping(document, "user"), user, additional_gids)
    if cwd:
        document["cwd"] = cwd
    if capabilities:
        document["capabilities"] = _with_capabilities(mapping(document, "capabilities"), capabilities)
    if no_new_privileges:
        document["noNewPrivileges"] = True
    if apparmor_profile:
        document["apparmorProfile"] = apparmor_profile
    if selinux_label:
        document["selinuxLabel"] = selinux_label
    if not args:
        raise ConfigError("process args cannot be empty")
    refuse("the process", checks.process_faults(document))
    return Process(document)


def _user(base: Json, user: str | None, additional_gids: Iterable[int]) -> Json:
    changed = dict(base)
    if user:
        uid, colon, gid = user.partition(":")
        if colon:
            changed["gid"] = _parse_id(gid, "gid")
        changed["uid"] = _parse_id(uid, "uid")
    groups = list(additional_gids)
    for group in groups:
        if not 0 <= group <= _ID_LIMIT:
            raise ConfigError(f"additional-gids must be a positive number {group}")
    if groups:
        changed["additionalGids"] = [*changed.get("additionalGids", ()), *groups]
    return changed


def _parse_id(text: str, kind: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_LIMIT):
        reason = f"not a number from 0 to {_ID_LIMIT}"
        raise ConfigError(f"parsing {text[:64]!r} as int for {kind} failed: {reason}")
    return int(text)


def _with_capabilities(base: Json, added: Sequence[str]) -> Json:
    """The sets that runc extends; inheritable stays, as it must (CVE-2022-29162)."""
    extended = {kind: [*base.get(kind, ()), *added] for kind in ("bounding", "effective", "permitted", "ambient")}
    return {**base, **extended}
