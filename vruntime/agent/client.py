"""Calls to the guest's agent: each with a deadline, each answer bounded and escaped, since the guest is hostile."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import grpc

from vruntime.agent.proto import agent_pb2 as pb
from vruntime.agent.proto import agent_pb2_grpc as rpc
from vruntime.errors import AgentError, AgentSilent, ExecutableError
from vruntime.vm.console import escape

MAX_MESSAGE = 4 << 20
MAX_TEXT = 4096
MAX_PROCESSES = 32768
MAX_DETAILS = 256
MAX_QUERIES = 256
MAX_QUERY = 65535

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 16384),
    ("grpc.absolute_max_metadata_size", 16384),
    # Else the socket's path is sent as the authority, which HTTP/2 servers refuse.
    ("grpc.default_authority", "agent"),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    # The dial succeeds at once, and is answered when the guest is up: a time-out of the transport means nothing here.
    ("grpc.min_reconnect_backoff_ms", 3_600_000),
    # The bytes in flight for one stream. Fixed: the estimate of the bandwidth sends a ping for each window.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 1 << 20),
    ("grpc.http2.max_frame_size", 1 << 20),
)

_NO_ANSWER = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

_EXIT_CODES = {pb.ExecutableError.NOT_FOUND: 127, pb.ExecutableError.NOT_EXECUTABLE: 126}


class _Chunk(Protocol):
    data: bytes
    process_ended: bool


@dataclass(frozen=True)
class Greeting:
    """What a guest says of itself when it is up; times in microseconds since the kernel's start."""

    agent_version: str
    kernel_release: str
    init_usec: int
    ready_usec: int


@dataclass(frozen=True)
class Process:
    """Which process of which container."""

    container_id: str
    process_id: str


@dataclass(frozen=True)
class Ended:
    """How a process ended."""

    exit_code: int
    """0 to 255."""

    oom_killed: bool
    """Whether the guest has killed a process of its container, not necessarily this one, for want of memory."""


@dataclass(frozen=True)
class NameQuery:
    """What a container asks one of its name servers."""

    message: bytes
    tcp: bool
    name_server: str


class Agent:
    """The agent at the other end of the unix socket at `path`; `timeout` bounds each call, in seconds."""

    def __init__(self, path: str, *, timeout: float) -> None:
        self._timeout = timeout
        self._channel = grpc.aio.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._sandbox = rpc.SandboxStub(self._channel)
        self._containers = rpc.ContainersStub(self._channel)
        self._processes = rpc.ProcessesStub(self._channel)
        self._streams = rpc.StreamsStub(self._channel)
        self._networks = rpc.NetworksStub(self._channel)

    async def close(self) -> None:
        """Ends the connection, with every call on it."""
        await self._channel.close(grace=None)

    async def configure(self, share_tag: str, *, timeout: float) -> Greeting:
        """Waits for the guest to come up, at most `timeout` seconds, and sets its clock, entropy and share."""
        request = pb.ConfigureRequest(wall_clock_ns=time.time_ns(), entropy=os.urandom(256), share_tag=share_tag)
        call = self._sandbox.Configure(request, timeout=timeout, wait_for_ready=True)
        reply = await _answer("greet the agent", call)
        return Greeting(
            _text(reply.agent_version, 64),
            _text(reply.kernel_release, 64),
            reply.init_usec,
            reply.ready_usec,
        )

    async def shutdown(self, *, timeout: float) -> None:
        """Asks the guest to sync and end."""
        await _answer("shut down", self._sandbox.Shutdown(pb.ShutdownRequest(), timeout=timeout))

    async def create(
        self,
        container_id: str,
        oci_config: bytes,
        stdio: pb.Stdio,
        *,
        notify: bool = False,
        hook_state: bytes = b"",
        network: pb.Network | None = None,
        joined: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Makes a container that waits for its start; ExecutableError when its program cannot be executed.

        With `notify` it gets a notification socket, whose datagrams come as events. `hook_state` is what its
        startContainer hooks are told, but for the pid. `joined` are the namespaces that it shares: by their types, the
        ids of the containers that have them.
        """
        request = pb.CreateRequest(
            container_id=container_id,
            oci_config=oci_config,
            stdio=stdio,
            notify=notify,
            hook_state=hook_state,
            network=network,
            joined=[pb.JoinedNamespace(type=kind, container_id=owner) for kind, owner in joined.items()],
        )
        _check(await self._call("create container", self._containers.Create, request))

    async def start(self, container_id: str, *, hooks_time: float | None = 0) -> None:
        """Starts a created container's program. Its hooks may take that many seconds, or without end."""
        timeout = None if hooks_time is None else self._timeout + hooks_time
        call = self._containers.Start(pb.StartRequest(container_id=container_id), timeout=timeout)
        _check(await _answer("start container", call))

    async def delete(self, container_id: str) -> None:
        """Kills what is left of a container, and has the guest forget it."""
        await self._call("delete container", self._containers.Delete, pb.DeleteRequest(container_id=container_id))

    async def processes(self, container_id: str) -> list[dict[str, Any]]:
        """The processes of a container, with what `ps -ef` shows of each."""
        request = pb.ListProcessesRequest(container_id=container_id)
        reply = await self._call("list processes", self._containers.ListProcesses, request)
        return [_process_info(info) for info in reply.processes[:MAX_PROCESSES]]

    async def pause(self, container_id: str) -> None:
        """Stops every process of a container."""
        await self._call("pause", self._containers.Pause, pb.PauseRequest(container_id=container_id))

    async def resume(self, container_id: str) -> None:
        """Lets every process of a container go on."""
        await self._call("resume", self._containers.Resume, pb.ResumeRequest(container_id=container_id))

    async def update(self, container_id: str, oci_resources: bytes) -> None:
        """Changes a container's limits within the guest."""
        request = pb.UpdateRequest(container_id=container_id, oci_resources=oci_resources)
        await self._call("update", self._containers.Update, request)

    async def stats(self, container_id: str) -> dict[str, Any]:
        """What a container has used: the answer's fields by their names, the lists bounded."""
        reply = await self._call("stats", self._containers.Stats, pb.StatsRequest(container_id=container_id))
        return _stats(reply)

    async def events(self, container_id: str) -> AsyncGenerator[pb.Event, None]:
        """What happens to a container from now on, until its init has ended."""
        call = self._containers.Events(pb.EventsRequest(container_id=container_id))
        try:
            async for event in call:
                yield event
        except grpc.aio.AioRpcError as error:
            raise AgentError(f"events: {_text(error.details() or '', MAX_TEXT)}") from error
        finally:
            call.cancel()

    async def exec(self, process: Process, oci_process: bytes, stdio: pb.Stdio) -> None:
        """Adds a process to a container; ExecutableError when its program cannot be executed."""
        request = pb.ExecRequest(
            container_id=process.container_id,
            process_id=process.process_id,
            oci_process=oci_process,
            stdio=stdio,
        )
        _check(await self._call("exec", self._processes.Exec, request))

    async def signal(self, process: Process, number: int, *, everyone: bool = False) -> None:
        """Signals a process, or every process of its container."""
        request = pb.SignalRequest(
            container_id=process.container_id,
            process_id=process.process_id,
            signal=number,
            all=everyone,
        )
        await self._call("signal", self._processes.Signal, request)

    async def wait(self, process: Process) -> Ended:
        """Waits, without a deadline of its own, for a process's end."""
        request = pb.WaitRequest(container_id=process.container_id, process_id=process.process_id)
        reply = await _answer("wait", self._processes.Wait(request))
        return Ended(min(int(reply.exit_code), 255), bool(reply.oom_killed))

    async def forget(self, process: Process) -> None:
        """Frees an ended process's id."""
        request = pb.ForgetRequest(container_id=process.container_id, process_id=process.process_id)
        await self._call("forget", self._processes.Forget, request)

    async def resize(self, process: Process, rows: int, columns: int) -> None:
        """Sets the window size of a process's terminal."""
        request = pb.ResizeTerminalRequest(
            container_id=process.container_id,
            process_id=process.process_id,
            rows=rows,
            columns=columns,
        )
        await self._call("resize terminal", self._processes.ResizeTerminal, request)

    async def output(self, process: Process, descriptor: int) -> AsyncGenerator[_Chunk, None]:
        """What a process writes to one of its descriptors, until all its holders have closed it."""
        call = self._streams.ReadOutput(pb.ReadOutputRequest(**process.__dict__, descriptor=descriptor))
        try:
            async for chunk in call:
                yield chunk
        except grpc.aio.AioRpcError as error:
            raise AgentError(f"read output: {_text(error.details() or '', MAX_TEXT)}") from error
        finally:
            call.cancel()

    async def close_output(self, process: Process, descriptor: int) -> None:
        """Tells that nobody reads a descriptor any more: the process's next write to it fails."""
        request = pb.CloseOutputRequest(**process.__dict__, descriptor=descriptor)
        await self._call("close output", self._streams.CloseOutput, request)

    async def input(self, process: Process, descriptor: int, chunks: AsyncIterator[bytes]) -> None:
        """Feeds a process's descriptor until `chunks` ends or the process no longer reads; `chunks` is at rest then."""
        call = self._streams.WriteInput()
        # Not handed to gRPC as an iterator, whose last read it would leave pending when the call ends.
        feeding = asyncio.create_task(_feed(call, pb.InputChunk(**process.__dict__, descriptor=descriptor), chunks))
        try:
            await _answer("write input", call)
        finally:
            feeding.cancel()
            await asyncio.wait({feeding})

    async def configure_network(self, container_id: str, network: pb.Network) -> None:
        """Brings the network of a container to what is asked."""
        request = pb.ConfigureNetworkRequest(container_id=container_id, network=network)
        await self._call("configure the network", self._networks.Configure, request)

    async def forward_names(self, container_id: str, ask: Callable[[NameQuery], Awaitable[bytes]]) -> None:
        """Answers what a container asks its name servers by `ask`, until it has ended.

        More than MAX_QUERIES at once, or one that is none, are left unanswered.
        """
        call = self._networks.ForwardNames()
        asking: set[asyncio.Task[None]] = set()
        writing = asyncio.Lock()

        async def answer(number: int, query: NameQuery) -> None:
            message = await ask(query)
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended meanwhile
                async with writing:
                    await call.write(pb.NameAnswer(number=number, message=message[:MAX_QUERY]))

        try:
            await call.write(pb.NameAnswer(container_id=container_id))
            async for query in call:
                if len(asking) < MAX_QUERIES and len(query.message) <= MAX_QUERY and len(query.name_server) == 4:
                    server = socket.inet_ntop(socket.AF_INET, query.name_server)
                    task = asyncio.create_task(answer(query.number, NameQuery(query.message, query.tcp, server)))
                    asking.add(task)
                    task.add_done_callback(asking.discard)
        except grpc.aio.AioRpcError as error:
            raise AgentError(f"forward names: {_text(error.details() or '', MAX_TEXT)}") from error
        finally:
            for task in asking:
                task.cancel()
            call.cancel()

    async def _call(self, what: str, method: Any, request: Any) -> Any:
        return await _answer(what, method(request, timeout=self._timeout))


async def _feed(call: Any, first: pb.InputChunk, chunks: AsyncIterator[bytes]) -> None:
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the call has ended, and its answer says why
        await call.write(first)
        async for data in chunks:
            await call.write(pb.InputChunk(data=data))
        await call.done_writing()


async def _answer(what: str, call: Awaitable[Any]) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        details = _text(error.details() or error.code().name, MAX_TEXT)
        if error.code() in _NO_ANSWER:
            raise AgentSilent(f"{what}: the agent does not answer: {details}") from error
        raise AgentError(details) from error


def _check(reply: Any) -> None:
    if reply.HasField("error"):
        raise ExecutableError(
            f"unable to start container process: {_text(reply.error.message, MAX_TEXT)}",
            code=_EXIT_CODES.get(reply.error.reason, 255),
        )


def _process_info(info: pb.ProcessInfo) -> dict[str, Any]:
    return {
        "pid": info.pid,
        "ppid": info.parent_pid,
        "user": _text(info.user, 32) or str(info.uid),
        "cpu": min(info.cpu_percent, 99),
        "start": max(0, min(info.start_time, 1 << 40)),
        "tty": _text(info.terminal, 32) or "?",
        "time": info.cpu_msec // 1000,
        "command": _text(info.command, MAX_TEXT),
    }


def _stats(reply: pb.StatsResponse) -> dict[str, Any]:
    def numbers(message: Any) -> dict[str, Any]:
        return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}

    details = {_text(name, 64): reply.memory.details[name] for name in sorted(reply.memory.details)[:MAX_DETAILS]}
    pages = [numbers(pages) | {"page_size": _text(pages.page_size, 16)} for pages in reply.huge_pages[:16]]
    return {
        "memory": numbers(reply.memory) | {"details": details},
        "cpu": numbers(reply.cpu),
        "pids": numbers(reply.pids),
        "io": [numbers(device) for device in reply.io[:256]],
        "huge_pages": pages,
    }


def _text(text: str, limit: int) -> str:
    return escape(text.encode("utf-8", "replace")[:limit], limit)
