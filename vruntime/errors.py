"""The exceptions of vruntime.

VruntimeError                  anything that a user is told in one line
├── ConfigError                config.json or a process file cannot be run as written
├── ImageError                     an image cannot be used
├── SettingsError              the administrator's settings are wrong
├── EngineError                an engine's configuration cannot be changed
├── AcceleratorError           no accelerator that the settings allow
├── HostError                  an operation of the host failed
│   └── HookError              a hook of the container failed
├── ContainerError             the container's state forbids the request
│   ├── NoSuchContainer
│   └── ContainerExists
├── ExecutableError            the program of a process cannot be executed
├── SandboxError               the virtual machine failed; carries the cause and the console's tail
└── AgentError                 the guest's agent refused, or answered what it must not
    └── AgentSilent            it did not answer in time, or at all

`code` is the process's exit status when the error ends a command. Errors cross the monitor's control socket as
dictionaries (`to_wire`, `from_wire`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class VruntimeError(Exception):
    """Anything that a user is told in one line: what failed, on what, why, and (the hint) what to do."""

    code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class ConfigError(VruntimeError):
    """config.json or a process file cannot be run as written; `faults` lists every fault with its JSON path."""

    def __init__(self, message: str, *, faults: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.faults = tuple(faults)


class ImageError(VruntimeError):
    """An image cannot be used: it is not there, broken, for another machine, or too large."""


class SettingsError(VruntimeError):
    """The administrator's settings are wrong."""


class EngineError(VruntimeError):
    """An engine's configuration cannot be changed: it cannot be read or written, or the engine refuses the result."""


class AcceleratorError(VruntimeError):
    """No accelerator that the settings allow."""


class HostError(VruntimeError):
    """An operation of the host failed."""


class HookError(HostError):
    """A hook of the container failed."""


class ContainerError(VruntimeError):
    """The container's state forbids the request."""


class NoSuchContainer(ContainerError):
    """No container has this id under the root."""


class ContainerExists(ContainerError):
    """The id is taken."""


class ExecutableError(VruntimeError):
    """The program of a process cannot be executed; `code` is what a shell would give."""

    def __init__(self, message: str, *, code: int = 1, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class SandboxError(VruntimeError):
    """The virtual machine failed."""


class AgentError(VruntimeError):
    """The guest's agent refused a request, or answered what it must not."""


class AgentSilent(AgentError):
    """The guest's agent did not answer in time, or the channel to it broke."""


_BY_NAME: dict[str, type[VruntimeError]] = {
    kind.__name__: kind
    for kind in (
        VruntimeError,
        ConfigError,
        SettingsError,
        AcceleratorError,
        HostError,
        HookError,
        ContainerError,
        NoSuchContainer,
        ContainerExists,
        ExecutableError,
        SandboxError,
        AgentError,
        AgentSilent,
    )
}


def to_wire(error: VruntimeError) -> dict[str, Any]:
    """What travels over the control socket for an error."""
    wire: dict[str, Any] = {"kind": type(error).__name__, "message": error.message}
    if error.hint is not None:
        wire["hint"] = error.hint
    if isinstance(error, ExecutableError):
        wire["code"] = error.code
    return wire


def from_wire(wire: Mapping[str, Any]) -> VruntimeError:
    """The error that `to_wire` described; an unknown kind becomes the base class."""
    kind = _BY_NAME.get(str(wire.get("kind")), VruntimeError)
    message, hint = str(wire.get("message", "unknown error")), wire.get("hint")
    if kind is ExecutableError:
        return ExecutableError(message, code=int(wire.get("code", 1)), hint=hint)
    return kind(message, hint=hint)
