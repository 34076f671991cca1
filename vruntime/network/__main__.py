"""Brings the taps of a machine into step with their network namespace: `python -I -m vruntime.network`.

A process of its own, which the monitor starts when the namespace has changed: the memory that reading it takes is free
again at once. It is asked and answers on descriptor 3, as control.py has it; descriptor 4 is the namespace.
"""

from __future__ import annotations

import socket

from vruntime import control
from vruntime.errors import VruntimeError, to_wire
from vruntime.network.description import Description
from vruntime.network.join import join
from vruntime.network.namespace import Network
from vruntime.spawn import leave

CONNECTION_FD, NAMESPACE_FD = 3, 4


def main() -> int:
    """Answers one request."""
    connection = socket.socket(fileno=CONNECTION_FD)
    header = connection.recv(control.HEADER_SIZE, socket.MSG_WAITALL)
    request = control.decode(connection.recv(control.header_length(header), socket.MSG_WAITALL))
    network, before = Network.from_wire(request["network"]), Description.from_wire(request["before"])
    try:
        control.send(connection, {"ok": join(NAMESPACE_FD, network, before).to_wire()})
    except VruntimeError as error:
        control.send(connection, {"error": to_wire(error)})
    return 0


if __name__ == "__main__":
    leave(main())
