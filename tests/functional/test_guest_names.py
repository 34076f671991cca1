"""The name servers of a container: served in its network by the agent, answered by the host, which is this test."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest
from guests import Guest, guest, initramfs
from waiting import eventually

from vruntime.agent.proto import agent_pb2 as pb

SERVER = "127.0.0.11"
NETWORK = pb.Network(name_servers=[bytes([127, 0, 0, 11])])

EDNS = bytes([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0])
ADDRESS = bytes([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 1, 2, 3])
SERVER_FAILURE = 2

DEADLINE = 60.0


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A guest whose containers can ask names in every way."""
    directory = tmp_path_factory.mktemp("guest")
    source = Path(__file__).with_name("inside") / "ask.c"
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Werror", "-o", directory / "ask", source], check=True)
    with guest(directory, [], initramfs(directory / "initramfs", directory / "ask")) as running:
        yield running


@pytest.fixture
def nothing_left_behind() -> None:
    """The guest outlives a test."""


@pytest.fixture
def vm(machine: Guest) -> Iterator[Guest]:
    """The guest with a container that has a name server."""
    machine.run("a", NETWORK)
    yield machine
    machine.delete("a")


class Host:
    """One who answers a container's queries; what was asked is kept."""

    def __init__(self, vm: Guest, answer: Callable[[pb.NameQuery], bytes | None]) -> None:
        self.asked: list[pb.NameQuery] = []
        self._answer = answer
        self._answers: SimpleQueue[pb.NameAnswer | None] = SimpleQueue()
        self._answers.put(pb.NameAnswer(container_id="a"))
        self._queries = vm.networks.ForwardNames(iter(self._answers.get, None))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        # From then on it is known in the guest.
        self._queries.initial_metadata()

    def _run(self) -> None:
        try:
            for query in self._queries:
                self.asked.append(query)
                if (answer := self._answer(query)) is not None:
                    self._answers.put(pb.NameAnswer(number=query.number, message=answer))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.CANCELLED

    def wait_for_end(self) -> None:
        """Waits until the guest ends it."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self._answers.put(None)

    def answer(self, asked: pb.NameQuery, message: bytes) -> None:
        """Answers one that was not answered at once."""
        self._answers.put(pb.NameAnswer(number=asked.number, message=message))

    def close(self) -> None:
        """Answers no more."""
        self._queries.cancel()
        self.wait_for_end()


Start = Callable[[Callable[[pb.NameQuery], bytes | None]], Host]


@pytest.fixture
def answering(vm: Guest) -> Iterator[Start]:
    """Starts hosts, which end with the test."""
    hosts: list[Host] = []

    def start(answer: Callable[[pb.NameQuery], bytes | None]) -> Host:
        hosts.append(Host(vm, answer))
        return hosts[-1]

    yield start
    for host in hosts:
        host.close()


def query(name: str = "a.test", number: int = 0x1234, *, edns: bool = False) -> bytes:
    """A query for the IPv4 addresses of a name."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    header = number.to_bytes(2, "big") + bytes([1, 0, 0, 1, 0, 0, 0, 0, 0, edns])
    return header + labels + bytes([0, 0, 1, 0, 1]) + (EDNS if edns else b"")


def answer(asked: pb.NameQuery, records: int = 1) -> bytes:
    """That many times the address 10.1.2.3."""
    question = asked.message[12:].removesuffix(EDNS)
    header = asked.message[:2] + bytes([0x81, 0x80, 0, 1]) + records.to_bytes(2, "big") + bytes(4)
    return header + question + records * ADDRESS


def ask(vm: Guest, how: str, message: bytes, server: str = SERVER) -> tuple[str, bytes]:
    """From where the answer comes, and what it is."""
    told = vm.inside("a", f"ask {how} {server} {message.hex()}").split()
    return (" ".join(told[:2]), bytes.fromhex(told[2])) if len(told) == 3 else (told[0], b"")


WAYS = {
    "udp 4": "127.0.0.11 53",
    "udp 6": "::ffff:127.0.0.11 53",
    "connected-udp 4": "127.0.0.11 53",
    "connected-udp 6": "::ffff:127.0.0.11 53",
    "tcp 4": "127.0.0.11 53",
    "tcp 6": "::ffff:127.0.0.11 53",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_query_is_answered_from_where_it_was_asked(vm: Guest, answering: Start, way: str) -> None:
    host = answering(answer)
    origin, got = ask(vm, way, query())
    assert (origin, got) == (WAYS[way], answer(host.asked[0]))
    (asked,) = host.asked
    assert (asked.number, asked.message, asked.tcp) == (1, query(), "tcp" in way)
    assert asked.name_server == bytes([127, 0, 0, 11])


def test_the_resolvers_of_the_c_library_and_of_busybox(vm: Guest, answering: Start) -> None:
    answering(answer)
    vm.inside("a", f"echo nameserver {SERVER} >/etc/resolv.conf")
    assert "10.1.2.3" in vm.inside("a", "nslookup -type=a some.test")


def test_a_long_answer_comes_over_tcp(vm: Guest, answering: Start) -> None:
    host = answering(lambda asked: answer(asked, 100))
    whole = answer(pb.NameQuery(message=query()), 100)
    _, short = ask(vm, "udp 4", query())
    assert short == query()[:2] + bytes([0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]) + query()[12:]
    assert ask(vm, "udp 4", query(edns=True))[1] == whole
    assert ask(vm, "tcp 4", query())[1] == whole
    assert [asked.number for asked in host.asked] == [1, 2, 3]


@pytest.mark.parametrize("way", ["udp 4", "tcp 4"])
def test_what_the_host_cannot_answer_is_a_server_failure(vm: Guest, answering: Start, way: str) -> None:
    answering(lambda _: b"")
    _, got = ask(vm, way, query(edns=True))
    assert got == query()[:2] + bytes([0x81, 0x80 | SERVER_FAILURE, 0, 1, 0, 0, 0, 0, 0, 0]) + query()[12:]


def test_queries_wait_for_the_host_and_are_answered_in_any_order(vm: Guest, answering: Start) -> None:
    with ThreadPoolExecutor() as pool:
        first = pool.submit(ask, vm, "udp 4", query("first.test"))
        second = pool.submit(ask, vm, "tcp 4", query("second.test"))
        host = answering(lambda _: None)
        eventually(lambda: len(host.asked) == 2)
        for asked in reversed(host.asked):
            host.answer(asked, answer(asked))
        for future, name in (first, "first.test"), (second, "second.test"):
            assert future.result()[1] == answer(pb.NameQuery(message=query(name)))


def test_a_later_host_takes_over_and_ends_with_the_container(machine: Guest) -> None:
    machine.run("a", NETWORK)
    first = Host(machine, answer)
    second = Host(machine, answer)
    first.wait_for_end()
    ask(machine, "udp 4", query())
    assert (len(first.asked), len(second.asked)) == (0, 1)
    machine.delete("a")
    second.wait_for_end()


@pytest.mark.parametrize("way", ["udp 4", "tcp 4"])
def test_the_container_keeps_port_53(vm: Guest, answering: Start, way: str) -> None:
    """A name server of its own may listen on every address."""
    answering(answer)
    told = vm.inside("a", f"ask {way} {SERVER} {query().hex()} occupied")
    assert told == f"127.0.0.11 53 {answer(pb.NameQuery(message=query())).hex()}\n"


def test_name_servers_come_and_go(vm: Guest, answering: Start) -> None:
    host = answering(answer)
    another = bytes([127, 0, 0, 12])
    vm.configure("a", pb.Network(name_servers=[*NETWORK.name_servers, another]))
    assert ask(vm, "udp 4", query(), "127.0.0.12")[0] == "127.0.0.12 53"
    assert ask(vm, "udp 4", query())[0] == "127.0.0.11 53"
    assert [asked.name_server for asked in host.asked] == [another, *NETWORK.name_servers]
    vm.configure("a", pb.Network(name_servers=[another]))
    assert ask(vm, "tcp 4", query(), "127.0.0.12")[0] == "127.0.0.12 53"
    code, output = vm.attempt("a", f"ask tcp 4 {SERVER} {query().hex()}")
    assert (code, output) == (1, "ask: connect: Connection refused\n")
    vm.configure("a", pb.Network())
    assert vm.inside("a", "netstat -uln | grep -c 127.0.0 || true") == "0\n"


def test_more_than_256_queries_at_once_are_dropped(vm: Guest, answering: Start) -> None:
    """Until one of them is answered."""
    many = f"for i in $(seq 300); do (ask udp 4 {SERVER} {query().hex()} >/dev/null &); done"
    vm.inside("a", f"({many}) 2>/dev/null; until [ $(grep -c : /proc/net/udp) -gt 300 ]; do :; done")
    host = answering(lambda _: None)
    eventually(lambda: len(host.asked) == 256)
    host.answer(host.asked[0], answer(host.asked[0]))
    with ThreadPoolExecutor() as pool:
        late = pool.submit(ask, vm, "udp 4", query("late.test"))
        asked = eventually(lambda: host.asked[256:])[0]
        host.answer(asked, answer(asked))
        assert late.result()[1] == answer(asked)


def test_a_container_that_lacks_a_network_of_its_own_has_no_queries(machine: Guest) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        next(machine.networks.ForwardNames(iter([pb.NameAnswer(container_id="nobody")])))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
