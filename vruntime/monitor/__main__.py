"""Entry of the monitor: `python -I -m vruntime.monitor SANDBOX_ID`, with the control connection of its starter as fd 3.

Nothing heavy is imported before QEMU runs: the rest is imported while the guest boots.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from vruntime import control
from vruntime.errors import SandboxError, VruntimeError, to_wire
from vruntime.monitor.sandbox import Sandbox, SandboxConfig
from vruntime.spawn import close_on_exec_from
from vruntime.store import Store

CONNECTION_FD = 3


def main() -> int:
    """Launches the sandbox that the first request describes, and serves it to its end."""
    close_on_exec_from(CONNECTION_FD)
    starter = socket.socket(fileno=CONNECTION_FD)
    request, fds = _first_request(starter)
    sandbox = Sandbox(SandboxConfig.from_wire(request["sandbox"]))
    try:
        sandbox.launch()
    except (VruntimeError, OSError) as error:
        known = error if isinstance(error, VruntimeError) else SandboxError(f"launch: {error}")
        control.send(starter, {"error": to_wire(known)})
        return 1

    import asyncio  # noqa: PLC0415  the guest boots meanwhile

    from vruntime.monitor.service import Service  # noqa: PLC0415

    async def serve() -> None:
        service = Service(sandbox, Store(Path(request["root"])))
        await service.run(starter, request, fds)

    asyncio.run(serve())
    return 0


def _first_request(starter: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, fds = control.receive_some(starter, control.HEADER_SIZE)
    data += _exactly(starter, control.HEADER_SIZE - len(data))
    return control.decode(_exactly(starter, control.header_length(data))), fds


def _exactly(starter: socket.socket, count: int) -> bytes:
    return starter.recv(count, socket.MSG_WAITALL) if count else b""


if __name__ == "__main__":
    sys.exit(main())
