"""The figures of SPECIFICATION.md, measured: medians, each against the floor or another runtime in the same run."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bare import bare_machine, copy_program, guest_nanoseconds, run_script, time_to_ready
from wires import CLIENT, SERVER, wires

from vruntime import accelerator, settings
from vruntime.vm import machine

VRUNTIME = "/usr/local/bin/vruntime"
REPOSITORY = Path(__file__).resolve().parents[2]
DOCKERD = "/usr/sbin/dockerd"
MEBIBYTE = 1 << 20
STREAM = 512 * MEBIBYTE
COPY = 256
"""MiB of a file on a volume: more than the guest can cache."""


def main() -> None:
    """Prints every figure."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    configured = settings.load(None)
    chosen = accelerator.choose(configured)
    print(f"machine      {cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}")
    print(f"accelerator  {chosen}; QEMU {qemu_version(configured)}; medians of {runs} runs (least to most)")
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), runs, bare_machine(configured, chosen))
        bench.boot()
        bench.peers()
        bench.memory()
        with bench.container("busy") as container_id:
            bench.verbs(container_id)
            bench.streams(container_id)
        bench.volume(str(configured.vm.virtiofsd))
        bench.network(str(configured.vm.virtiofsd))
        bench.docker()
        bench.instructions()
    bench.sizes(configured)


class Bench:
    """The measurements, on one busybox bundle."""

    def __init__(self, directory: Path, runs: int, bare: machine.Machine) -> None:
        self.directory = directory
        self.runs = runs
        self.bare = bare
        self.bundle = make_bundle(directory / "bundle")
        self.root = directory / "state"

    def boot(self) -> None:
        """The floor, and a cold run in turn with it."""
        floors, colds = [], []
        for _ in range(self.runs + 1):
            floors.append(time_to_ready(self.bare, self.directory))
            colds.append(timed(self.vruntime("run", "--bundle", str(self.bundle("true")), "cold")))
        floors, colds = floors[1:], colds[1:]  # the first warms the page cache
        show("floor: bare QEMU to agent ready", milliseconds(floors))
        show("cold `run true`", milliseconds(colds))
        show("cold `run true` / floor", ratio(colds, floors))

    def peers(self) -> None:
        """The same bundle under other runtimes."""
        for peer, flags in (
            ("runc", []),
            ("crun", []),
            ("runsc", ["--platform=ptrace", "--network=none", "--ignore-cgroups"]),
        ):
            program = shutil.which(peer)
            if program is None:
                print(f"{'':2}{peer + ' `run true`':44}not installed")
                continue
            root = ["--root", str(self.directory / peer)]
            command = [program, *flags, *root, "run", "--bundle", str(self.bundle("true")), "cold"]
            try:
                show(f"{peer} `run true`", milliseconds([timed(command) for _ in range(self.runs)]))
            except subprocess.CalledProcessError as error:
                show(f"{peer} `run true`", f"fails on this host (exit code {error.returncode})")

    @contextmanager
    def container(self, name: str) -> Iterator[str]:
        """A container that sleeps."""
        with open(os.devnull, "r+b") as null:
            command = self.vruntime("run", "--detach", "--bundle", str(self.bundle("sleep", "3600")), name)
            subprocess.run(command, stdin=null, stdout=null, stderr=null, check=True)
        try:
            yield name
        finally:
            subprocess.run(self.vruntime("delete", "--force", name), check=True)

    def verbs(self, container_id: str) -> None:
        """Commands on a container that runs."""
        execs = [timed(self.vruntime("exec", container_id, "true")) for _ in range(self.runs + 1)][1:]
        states = [timed(self.vruntime("state", container_id)) for _ in range(self.runs + 1)][1:]
        show("`exec true`", milliseconds(execs))
        show("`state`", milliseconds(states))

    def memory(self) -> None:
        """What idle containers cost the host, beside their guests' memory: one alone, and one of several."""
        with ExitStack() as running:
            names: list[str] = []
            for count in (1, 4):
                while len(names) < count:
                    names.append(running.enter_context(self.container(f"idle{len(names)}")))
                total, translated = 0.0, 0.0
                for process, pids in self._processes(names).items():
                    sizes = [pss(pid) for pid in pids]
                    size = sum(used for used, _ in sizes) / count
                    total += size
                    translated += sum(code for _, code in sizes) / count
                    if count == 1:
                        show(f"PSS of {process}", megabytes(size))
                show(f"PSS per idle container, of {count}", megabytes(total))
                show("  translated code in it, only under emulation", megabytes(translated))

    def _processes(self, names: list[str]) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for name in names:
            for process, pids in helpers(self.root, name).items():
                found.setdefault(process, []).extend(pids)
        return found

    def streams(self, container_id: str) -> None:
        """Bytes through standard output and input."""
        output = f"dd if=/dev/zero bs=1M count={STREAM // MEBIBYTE} 2>/dev/null"
        show("stdout", rate([self._read(container_id, output) for _ in range(3)]))
        show("stdin", rate([self._write(container_id, "cat >/dev/null") for _ in range(3)]))

    def volume(self, virtiofsd: str) -> None:
        """A file written to a volume and read from it, in turn with the same machine bare."""
        directory = self.directory / "volume"
        directory.mkdir()
        script = f"""
        cd /volume
        tell() {{ read -r now _ </proc/uptime; echo "at $now"; }}
        tell
        dd if=/dev/zero of=file bs=1M count={COPY} conv=fsync 2>/dev/null
        tell
        dd if=file of=/dev/null bs=1M 2>/dev/null
        tell
        rm file
        """
        mount = {"destination": "/volume", "type": "bind", "source": str(directory), "options": ["rbind", "rw"]}
        command = self.vruntime("run", "--bundle", str(self.bundle("sh", "-ec", script, mounts=[mount])), "volume")
        ours, bares = [], []
        for _ in range(self.runs + 1):
            ours.append(copied(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            bares.append(copied(run_script(self.bare, virtiofsd, directory, script)))
        for index, what in enumerate(("write", "read")):
            rates = [[run[index] for run in runs[1:]] for runs in (ours, bares)]
            show(f"{what} {COPY} MiB on a volume", spread(rates[0], "MB/s", 0))
            show(f"  / the same machine bare, {statistics.median(rates[1]):.0f} MB/s", ratio(*rates))

    def network(self, virtiofsd: str) -> None:
        """A stream to a server on the host and one from it, in turn with the same machine bare, on a tap alone."""
        iperf3 = shutil.which("iperf3")
        if iperf3 is None:
            print("  iperf3 is not installed: the network is not measured")
            return
        empty = self.directory / "empty"
        empty.mkdir()
        copy_program(iperf3, self.directory / "bundle/rootfs")
        script = "\n".join(f"{iperf3} -c {SERVER} -t 3 -f m {flag}" for flag in ("", "-R"))
        with wires() as network:
            temporary = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
            bundle = self.bundle("sh", "-ec", script, mounts=[temporary], network=network.path)
            command = self.vruntime("run", "--bundle", str(bundle), "network")
            server = network.serve(iperf3, "--server")
            ours, bares = [], []
            try:
                for _ in range(self.runs + 1):
                    ours.append(received(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
                    with network.tap() as tap:
                        up = f"ip addr add {CLIENT}/24 dev eth0; ip link set eth0 up\n{script}"
                        said = run_script(self.bare, virtiofsd, empty, up, programs=[iperf3], tap=tap)
                    bares.append(received(said))
            finally:
                server.kill()
                server.wait()
        for index, what in enumerate(("to the host", "from the host")):
            rates = [[run[index] for run in runs[1:]] for runs in (ours, bares)]
            show(f"network, one stream {what}", spread(rates[0], "Mbit/s", 0))
            show(f"  / the same machine bare, {statistics.median(rates[1]):.0f} Mbit/s", ratio(*rates))

    def docker(self) -> None:
        """`docker run --rm` of `true`, against our own cold run and what Docker itself takes, as seen with runc."""
        if not Path(DOCKERD).exists():
            print("  docker.io is not installed: it is not measured")
            return
        sys.path += [str(REPOSITORY / "tests" / kind) for kind in ("engines", "functional")]
        from engines import Docker  # noqa: PLC0415

        docker = Docker()
        try:
            docker.begin()
            ours, peers, shares = [], [], []
            for _ in range(self.runs + 1):
                ours.append(self._docker_run(docker, "vruntime"))
                peers.append(self._docker_run(docker, "runc"))
                bundle = str(self.bundle("true"))
                cold = timed(self.vruntime("run", "--bundle", bundle, "cold"))
                without = timed(["runc", "--root", f"{self.directory}/runc", "run", "--bundle", bundle, "cold"])
                shares.append((ours[-1] - (peers[-1] - without)) / cold)
            docker.remove_all()
        finally:
            docker.end()
        show("`docker run --rm` of `true`", milliseconds(ours[1:]))
        show("  the same with runc", milliseconds(peers[1:]))
        show("  without what Docker itself takes / cold `run`", spread(shares[1:], "x", 2))

    @staticmethod
    def _docker_run(docker: Any, runtime: str) -> float:
        command = docker.using(runtime).command("run", "--rm", docker.busybox(), "true")
        return timed(command, docker.environment)

    def sizes(self, configured: settings.Settings) -> None:
        """Files of the guest."""
        for name, path in (("kernel", configured.vm.kernel), ("initramfs (the agent)", configured.vm.initramfs)):
            show(name, f"{path.stat().st_size / MEBIBYTE:8.2f} MiB")

    def instructions(self) -> None:
        """Guest instructions from reset to the agent's readiness, the same in every run."""
        argv = ["-icount", "shift=0,sleep=off"]
        show("instructions to agent ready", f"{guest_nanoseconds(self.bare, self.directory, argv) / 1e6:8.1f} million")

    def vruntime(self, *arguments: str) -> list[str]:
        """A command line with our state root."""
        return [VRUNTIME, "--root", str(self.root), *arguments]

    def _read(self, container_id: str, script: str) -> float:
        began = time.monotonic()
        command = self.vruntime("exec", container_id, "sh", "-c", script)
        count = 0
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while data := os.read(process.stdout.fileno(), MEBIBYTE):
                count += len(data)
        assert count == STREAM
        return time.monotonic() - began

    def _write(self, container_id: str, script: str) -> float:
        began = time.monotonic()
        command = self.vruntime("exec", container_id, "sh", "-c", script)
        block = bytes(MEBIBYTE)
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            for _ in range(STREAM // MEBIBYTE):
                process.stdin.write(block)
            process.stdin.close()
        assert process.returncode == 0
        return time.monotonic() - began


def make_bundle(directory: Path) -> Callable[..., Path]:
    """A busybox root filesystem; the function makes a bundle of it for a command line."""
    rootfs = directory / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "volume"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin")
    for applet in ("cat", "dd", "rm", "sh", "sleep", "true"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    subprocess.run([VRUNTIME, "spec", "--bundle", str(directory)], check=True)
    config = json.loads((directory / "config.json").read_text())
    config["ociVersion"] = "1.0.2"  # what every peer takes

    own_mounts = config["mounts"]

    def bundle(*args: str, mounts: Sequence[dict[str, Any]] = (), network: str | None = None) -> Path:
        config["process"] |= {"args": list(args), "terminal": False}
        own = {"type": "network"} if network is None else {"type": "network", "path": network}
        others = [namespace for namespace in config["linux"]["namespaces"] if namespace["type"] != "network"]
        config["linux"]["namespaces"] = [*others, own]
        config["root"]["path"] = str(rootfs)
        config["mounts"] = [*own_mounts, *mounts]
        (directory / "config.json").write_text(json.dumps(config))
        return directory

    return bundle


def copied(said: str) -> list[float]:
    """The speeds of a write and a read, in units of 10^6 bytes a second, from the times between."""
    began, written, read = (float(at) for at in re.findall(r"^at ([0-9.]+)", said, re.MULTILINE))
    return [COPY * MEBIBYTE / 1e6 / seconds for seconds in (written - began, read - written)]


def received(said: str) -> list[float]:
    """What iperf3's receivers say, in megabits a second."""
    return [float(speed) for speed in re.findall(r"([0-9.]+) Mbits/sec\s+receiver", said)]


def ratio(ours: list[float], bares: list[float]) -> str:
    """Median and spread of the ratios of pairs."""
    return spread([one / other for one, other in zip(ours, bares, strict=True)], "x", 2)


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    """Seconds that a command takes, which must exit 0."""
    began = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
    return time.monotonic() - began


def helpers(root: Path, container_id: str) -> dict[str, list[int]]:
    """The processes on the host that belong to a container, by name."""
    state = json.loads((root / "containers" / container_id / "state.json").read_text())
    monitor = state["monitor"]["pid"]
    found: dict[str, list[int]] = {"monitor": [monitor], "shim": [state["shim"]["pid"]]}
    waiting = [monitor]
    while waiting:
        parent = waiting.pop()
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            name = Path(f"/proc/{child}/comm").read_text().strip()
            found.setdefault(name.split("-")[0], []).append(int(child))
            waiting.append(int(child))
    return found


def pss(pid: int) -> tuple[float, float]:
    """Proportional set size of a process without the guest's memory, and what of it is translated code, in bytes."""
    total, translated, mapping = 0, 0, ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first = line.split(maxsplit=1)[0]
        if not first.endswith(":"):
            mapping = line
        elif first == "Pss:" and "memfd:memory" not in mapping:
            size = int(line.split()[1]) * 1024
            total += size
            translated += size if " rwxp " in mapping else 0
    return total, translated


def show(what: str, figure: str) -> None:
    """One line of the report."""
    print(f"  {what:44}{figure}", flush=True)


def milliseconds(seconds: list[float]) -> str:
    """Median and spread of durations."""
    return spread([second * 1000 for second in seconds], "ms", 0)


def megabytes(size: float) -> str:
    """A size in units of 10^6 bytes."""
    return f"{size / 1e6:8.1f} MB"


def rate(seconds: list[float]) -> str:
    """Median and spread of a stream's speed."""
    return spread([STREAM / 1e6 / second for second in seconds], "MB/s", 0)


def spread(values: list[float], unit: str, digits: int) -> str:
    """Median, least and most."""
    median = statistics.median(values)
    return f"{median:8.{digits}f} {unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def cpu_model() -> str:
    """The host's CPU."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.processor()


def qemu_version(configured: settings.Settings) -> str:
    """As QEMU prints it."""
    output = subprocess.run([configured.vm.qemu, "--version"], capture_output=True, text=True, check=True).stdout
    return output.split()[3]


if __name__ == "__main__":
    main()
