"""Entry of the monitor: `python -I -m vruntime.monitor SANDBOX_ID`, with the control connection of its starter as fd 3.

It is started before its starter has checked what it is to run, and waits for the request to launch the sandbox: an end
of file in its place means that nothing is to run. Nothing heavy is imported before QEMU runs: the rest is imported
while the guest boots, and the next request, for the container, may be there by then.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from vruntime import control
from vruntime.errors import SandboxError, VruntimeError, to_wire
from vruntime.monitor.config import LOG, SandboxConfig
from vruntime.monitor.helpers import Helpers, launch
from vruntime.spawn import close_on_exec_from, leave
from vruntime.store import Store

CONNECTION_FD = 3


def main() -> int:
    """Launches the sandbox that the first request describes, and serves it to its end."""
    close_on_exec_from(CONNECTION_FD)
    starter = socket.socket(fileno=CONNECTION_FD)
    received = _first_request(starter)
    if received is None:
        return 0
    request, (namespace, *taps) = received
    config = SandboxConfig.from_wire(request["sandbox"])
    try:
        _log_to(config.directory / LOG)
        helpers = launch(config, namespace, taps)
    except (VruntimeError, OSError) as error:
        known = error if isinstance(error, VruntimeError) else SandboxError(f"launch: {error}")
        control.send(starter, {"error": to_wire(known)})
        return 1
    with suppress(OSError):  # a starter that is gone is noticed by who reads its next request
        control.send(starter, {"ok": {}})
    _serve(config, helpers, starter, Store(Path(request["root"])))
    return 0


def _serve(config: SandboxConfig, helpers: Helpers, starter: socket.socket, store: Store) -> None:
    load_asyncio()  # the guest boots meanwhile
    import asyncio  # noqa: PLC0415

    from vruntime.monitor.sandbox import Sandbox  # noqa: PLC0415
    from vruntime.monitor.service import Service  # noqa: PLC0415

    async def serve() -> None:
        await Service(Sandbox(config, helpers), store).run(starter)

    asyncio.run(serve())


def load_asyncio() -> None:
    """Imports asyncio without TLS, which it does without where there is no ssl module: 3 MB less for each container."""
    sys.modules["ssl"] = None  # type: ignore[assignment]
    try:
        import asyncio  # noqa: F401, PLC0415
    finally:
        del sys.modules["ssl"]


def _first_request(starter: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The request and the descriptors that came with it; None when nothing is to run."""
    header, fds = control.receive_some(starter, control.HEADER_SIZE)
    if not header:
        return None
    return control.decode(starter.recv(control.header_length(header), socket.MSG_WAITALL)), fds


def _log_to(path: Path) -> None:
    """From here on what this process says goes to a file of its sandbox."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


if __name__ == "__main__":
    leave(main())
