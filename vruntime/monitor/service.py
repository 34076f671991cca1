"""The control socket of a sandbox: what commands ask of the monitor, and its answers."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from vruntime import control
from vruntime.container import Status, load
from vruntime.errors import HostError, NoSuchContainer, SandboxError, VruntimeError, to_wire
from vruntime.monitor import messages
from vruntime.monitor.config import Bind, Overlay
from vruntime.monitor.containers import Container
from vruntime.monitor.network import ContainerNetwork
from vruntime.monitor.notify import ServiceManager
from vruntime.monitor.readiness import readable
from vruntime.monitor.sandbox import Sandbox
from vruntime.monitor.share import Added
from vruntime.spawn import Identity
from vruntime.store import Store

Request = Mapping[str, Any]
Fds = dict[str, int]


class Service:
    """Serves one sandbox until its last container has ended."""

    def __init__(self, sandbox: Sandbox, store: Store) -> None:
        self._sandbox = sandbox
        self._store = store
        self._containers: dict[str, Container] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._occupants = 0
        self._shares = 0
        self._ended = asyncio.Event()
        self._operations: dict[str, Callable[[Request, Fds], Awaitable[Mapping[str, Any]]]] = {
            "join": self._join,
            "create": self._create,
            "start": self._start,
            "exec": self._exec,
            "kill": self._kill,
            "processes": self._processes,
            "pids": self._pids,
            "pause": self._pause,
            "resume": self._resume,
            "update": self._update,
            "stats": self._stats,
            "event": self._event,
        }

    async def run(self, starter: socket.socket) -> None:
        """Carries out its starter's request, which makes a container, and serves until the last has ended."""
        await self._sandbox.watch()
        listener = self._listen()
        connections = [
            asyncio.create_task(self._accept(listener)),
            asyncio.create_task(self._first(starter)),
        ]
        try:
            await self._ended.wait()
        finally:
            listener.close()
            await self._sandbox.shutdown()
            for connection in connections:
                connection.cancel()

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with control.short_path(self._sandbox.config.directory, "control.sock") as path:
            listener.bind(path)
        listener.listen(64)
        listener.setblocking(False)
        return listener

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            self._keep(self._serve(sock))

    async def _first(self, sock: socket.socket) -> None:
        """Our starter's connection: when it dies before its answer, the container is not wanted."""
        sock.setblocking(False)
        reply = None
        with suppress(OSError, SandboxError, EOFError):
            reply = await self._answer_while_wanted(sock, *await messages.receive(sock))
        if reply is None:
            self._ended.set()
            return
        if "error" not in reply:
            with suppress(OSError):
                await messages.send(sock, reply)
                await self._serve(sock)
            return
        await self._sandbox.shutdown()  # first: whoever reads of the failure finds nothing left
        with suppress(OSError):
            await messages.send(sock, reply)
        self._ended.set()

    async def _serve(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        with sock, ExitStack() as stay, suppress(OSError, SandboxError, EOFError):
            while True:
                request, fds = await messages.receive(sock)
                if request.get("op") == "join":
                    stay.enter_context(self._occupied())  # until the container is there, which does so itself
                if request.get("op") in ("create", "event"):  # an event may come never
                    reply = await self._answer_while_wanted(sock, request, fds)
                else:
                    reply = await self._answer(request, fds)
                if reply is None:
                    return
                if request.get("op") == "create":
                    stay.close()
                await messages.send(sock, reply)

    async def _answer_while_wanted(
        self, sock: socket.socket, request: Request, fds: list[int]
    ) -> dict[str, Any] | None:
        """The answer; None when the caller hangs up before, and the request is broken off."""
        answering = asyncio.create_task(self._answer(request, fds))
        caller_gone = asyncio.create_task(_hang_up(sock))
        await asyncio.wait({answering, caller_gone}, return_when=asyncio.FIRST_COMPLETED)
        caller_gone.cancel()
        await asyncio.wait({caller_gone})  # or it would take the next reader off this socket
        if answering.done():
            return answering.result()
        answering.cancel()
        await asyncio.wait({answering})
        return None

    async def _answer(self, request: Request, fds: list[int]) -> dict[str, Any]:
        names = request.get("names", ())
        named = dict(zip(names, fds, strict=False))
        try:
            if len(names) != len(fds):
                raise SandboxError(f"{len(names)} descriptors were sent to the monitor, and {len(fds)} have come")
            operation = self._operations.get(request["op"])
            if operation is None:
                raise SandboxError(f"the monitor knows no request {request['op']!r}")
            return {"ok": await operation(request, named)}
        except VruntimeError as error:
            return {"error": to_wire(error)}
        except Exception as error:  # a defect of ours, which whoever asked must hear of, too
            traceback.print_exc()
            return {"error": to_wire(SandboxError(f"{request['op']}: unexpected {type(error).__name__}: {error}"))}
        finally:
            for fd in (*named.values(), *fds[len(names) :]):  # what nobody has taken over
                os.close(fd)

    @contextmanager
    def _occupied(self) -> Iterator[None]:
        """The sandbox does not end meanwhile, but may then."""
        self._occupants += 1
        try:
            yield
        finally:
            self._occupants -= 1
            if self._occupants == 0:
                self._ended.set()

    # -- operations ---------------------------------------------------------------------------------------------

    async def _join(self, _: Request, __: Fds) -> Mapping[str, Any]:
        """For one more container: what the sandbox is like, and the name of its directory in the share."""
        self._shares += 1
        return {"sandbox": self._sandbox.config.to_wire(), "share": f"@{self._shares}"}  # no container's id

    async def _create(self, request: Request, fds: Fds) -> Mapping[str, Any]:
        record = load(self._store, request["id"])
        container = Container(self._sandbox, self._store, record)
        container.note(
            creator=None,
            monitor=Identity.of(os.getpid()),
            shim=Identity(**request["shim"]),
            sandbox=self._sandbox.config.id,
            accelerator=str(self._sandbox.config.machine.accelerator),
        )
        try:
            await self._make(container, request, fds)
        except BaseException:
            if "joined" in request:
                if container.network is not None:
                    container.network.leave(record.id)
                await container.leave()
                self._sandbox.share.remove(request["share"])
            with suppress(HostError):  # its maker has removed it
                container.note(status=Status.STOPPED, error=self._sandbox.obituary())
            raise
        self._containers[record.id] = container
        self._keep(self._attend(container, request["share"]))
        greeting = await self._sandbox.up()
        return {"timings": self._sandbox.timings, "guest": dict(greeting.__dict__)}

    async def _make(self, container: Container, request: Request, fds: Fds) -> None:
        record = container.record
        brought = {name: fds[f"mount:{name}"] for name in request["brought"]}
        if "overlay" in request:
            self._sandbox.share.mount_overlay(record.rootfs, Overlay.from_wire(request["overlay"]))
        added = self._sandbox.share.add(
            request["share"],
            record.rootfs,
            readonly=request["readonly"],
            binds=[Bind.from_wire(bind) for bind in request["binds"]],
            destinations=[(path, is_dir) for path, is_dir in request["destinations"]],
            brought=brought,
        )
        for name in brought:
            os.close(fds.pop(f"mount:{name}"))
        if "notify" in fds:
            container.events.forward(ServiceManager(socket.socket(fileno=fds.pop("notify"))))
        config = _as_shared(request["config"], added)
        hook_state = json.dumps(record.hook_state(Status.CREATED, 0)) if record.hooks else ""
        network, resolv_conf = None, request["resolv_conf"]
        if "network" in request:
            listener = fds.pop("network")
            network = ContainerNetwork(self._sandbox, record.id, request["network"], listener, resolv_conf=resolv_conf)
        joined = request.get("joined", {})
        for owner in joined.values():
            if owner not in self._containers:
                raise NoSuchContainer(f"container {owner}, whose namespaces are to be shared, has ended")
        if "network" in joined:
            container.share_network(self._containers[joined["network"]], resolv_conf=resolv_conf)
        await container.create(
            config.encode(),
            fds,
            terminal="terminal" in fds,
            hook_state=hook_state.encode(),
            network=network,
            joined=joined,
        )

    async def _attend(self, container: Container, share: str) -> None:
        with self._occupied():
            await container.ended()
            del self._containers[container.id]
            if self._occupants > 1:
                await container.leave()
                self._sandbox.share.remove(share)
            container.finish()

    async def _start(self, request: Request, fds: Fds) -> Mapping[str, Any]:
        container = self._container(request)
        if "notify" in fds:
            sock = socket.socket(fileno=fds.pop("notify"))
            container.events.forward(ServiceManager(sock, request["starter"], request["main_pid"]))
        await container.start(hooks_time=request.get("hooks_time", 0))
        return {}

    async def _exec(self, request: Request, fds: Fds) -> Mapping[str, Any]:
        await self._container(request).exec(
            request["process"].encode(),
            fds,
            terminal="terminal" in fds,
            wait_for_resume=request["wait_for_resume"],
            shim=Identity(**request["shim"]),
        )
        return {}

    async def _kill(self, request: Request, _: Fds) -> Mapping[str, Any]:
        await self._container(request).signal(request["signal"], everyone=request["all"])
        return {}

    async def _processes(self, request: Request, _: Fds) -> Mapping[str, Any]:
        return {"processes": await self._container(request).processes()}

    async def _pids(self, request: Request, _: Fds) -> Mapping[str, Any]:
        return {"pids": self._container(request).pids()}

    async def _pause(self, request: Request, _: Fds) -> Mapping[str, Any]:
        await self._container(request).pause()
        return {}

    async def _resume(self, request: Request, _: Fds) -> Mapping[str, Any]:
        await self._container(request).resume()
        return {}

    async def _update(self, request: Request, _: Fds) -> Mapping[str, Any]:
        await self._container(request).update(request["resources"])
        return {}

    async def _stats(self, request: Request, _: Fds) -> Mapping[str, Any]:
        return await self._container(request).stats()

    async def _event(self, request: Request, _: Fds) -> Mapping[str, Any]:
        """Waits for the event after the one that the request names, or else for the next; empty at the end."""
        events = self._container(request).events
        after = request.get("after")
        found = await events.after(events.last if after is None else after)
        return {} if found is None else {"number": found[0], "event": found[1]}

    def _container(self, request: Request) -> Container:
        try:
            return self._containers[request["id"]]
        except KeyError as error:
            raise NoSuchContainer("container not running") from error

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def _hang_up(sock: socket.socket) -> None:
    """Returns when the peer has closed the connection, without reading what it may have sent."""
    while True:
        await readable(sock.fileno())
        try:
            if not sock.recv(1, socket.MSG_PEEK):
                return
        except BlockingIOError:
            continue
        except OSError:
            return


def _as_shared(config: str, added: Added) -> str:
    """The guest's configuration with what the share has made of it.

    Sources may be at another place than the container's own. And of a mount point that it finds, the guest keeps the
    mode; on a new one a tmpfs has its own.
    """
    if not added.mount_points and not added.elsewhere:
        return config
    document = json.loads(config)
    above: list[str] = []
    for index, mount in enumerate(document["mounts"]):
        at, options = mount["destination"], mount["options"]
        hidden = any(at == other or at.startswith(f"{other}/") for other in above)
        if mount["type"] == "tmpfs" and at in added.mount_points and not hidden:
            options.insert(0, "mode=1777")  # a mode of its own comes later, and prevails
        if index in added.elsewhere:
            mount["source"] = added.elsewhere[index]
        above.append(at)
    return json.dumps(document)
