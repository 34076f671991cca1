"""Images without an engine: an OCI layout, a docker archive, a directory; what they hold, and what is left."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pexpect
import pytest
from layouts import BLOCK, DIRECTORY, FIFO, HARDLINK, SYMLINK, Layout, busybox, entry, layer
from messages import message
from waiting import eventually

if TYPE_CHECKING:
    from runtimes import Bundles, Runtime

SIZE_LIMIT = "512M"


class Images:
    """Images made by umoci and skopeo, and the directory in which vruntime keeps them."""

    def __init__(self, directory: Path, bundles: Bundles) -> None:
        self._directory = directory
        self._bundles = bundles
        self.kept = directory / "kept"

    def rootfs(self) -> Path:
        """A root filesystem with busybox, a user and a volume's content."""
        rootfs = self._bundles.busybox() / "rootfs"
        (rootfs / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:root,user\n")
        (rootfs / "data").mkdir()
        (rootfs / "data/file").write_text("from the image\n")
        os.chown(rootfs / "data", 1000, 1000)
        return rootfs

    def oci(self, *config: str) -> Path:
        """A layout with the tag `latest`; `config` are flags of `umoci config`."""
        layout = self._directory / "layout"
        image = f"{layout}:latest"
        for command in (
            ["init", "--layout", layout],
            ["new", "--image", image],
            ["insert", "--image", image, self.rootfs(), "/"],
            ["config", "--image", image, "--config.cmd", "sh", "--config.cmd", "-c", "--config.cmd", "id", *config],
        ):
            subprocess.run(["umoci", *command], check=True, capture_output=True)
        return layout

    def archive(self) -> Path:
        """The same as a docker archive, named test:v1."""
        archive = self._directory / "archive.tar"
        copy = ["skopeo", "--insecure-policy", "copy", f"oci:{self.oci()}:latest", f"docker-archive:{archive}:test:v1"]
        subprocess.run(copy, check=True, capture_output=True)
        return archive

    def layout(self, *layers: bytes, **config: object) -> Layout:
        """A layout made byte by byte, on top of busybox."""
        return Layout(self._directory / "made", busybox(), *layers, **config)  # type: ignore[arg-type]

    def slow(self) -> Layout:
        """An image whose unpacking takes a second or more."""
        return self.layout(layer(entry("zeros", bytes(300 << 20))))

    def ids(self) -> set[str]:
        """What is kept, or was begun."""
        return set(os.listdir(self.kept / "images")) if self.kept.exists() else set()

    def unpacking(self) -> bool:
        """Whether an unpacking is in the middle."""
        return any(self.kept.glob("images/*/new/rootfs/zeros"))

    def layers(self) -> set[str]:
        """What containers have of their own."""
        return set(os.listdir(self.kept / "containers")) if (self.kept / "containers").exists() else set()


@pytest.fixture
def images(tmp_path: Path, bundles: Bundles) -> Images:
    """Makes images in this test's directory."""
    return Images(tmp_path, bundles)


@pytest.fixture
def runtime(vruntime: Runtime, images: Images, tmp_path: Path) -> Iterator[Runtime]:
    """vruntime with a directory of its own for images, in which no container leaves anything."""
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'[vm]\nallow_emulation = true\n[image]\ndirectory = "{images.kept}"\nsize_limit = "{SIZE_LIMIT}"\n'
    )
    settings.chmod(0o644)
    vruntime.flags = ("--config", str(settings))
    yield vruntime
    vruntime.clean_up()
    assert images.layers() == set()
    assert [str(path) for path in images.kept.glob("images/*/new")] == []


def run(runtime: Runtime, image: object, *arguments: str, flags: tuple[str, ...] = (), **options: object) -> str:
    """What a container of the image prints."""
    result = runtime("run", *flags, "--image", str(image), runtime.new_id(), *arguments, **options)  # type: ignore[arg-type]
    return result.stdout.decode()


def refusal(runtime: Runtime, image: object, *arguments: str, flags: tuple[str, ...] = ()) -> str:
    """The one line of error."""
    return message(runtime("run", *flags, "--image", str(image), runtime.new_id(), *arguments, check=False))


# -- what runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["oci:{}", "docker-archive:{}", "docker-archive:{}:test:v1", "dir:{}", "{}"])
def test_every_form_of_an_image_runs(form: str, runtime: Runtime, images: Images) -> None:
    if form.startswith("oci"):
        image = images.oci()
    elif form.startswith("docker-archive"):
        image = images.archive()
    else:
        image = images.rootfs()
    arguments = () if form.startswith(("oci", "docker")) else ("sh", "-c", "id")
    assert run(runtime, form.format(image), *arguments) == "uid=0(root) gid=0(root) groups=2000(extra)\n"


def test_the_config_of_an_image_is_the_process(runtime: Runtime, images: Images) -> None:
    layout = images.oci(
        *("--config.entrypoint", "sh", "--config.entrypoint", "-c", "--config.user", "user", "--config.env", "A=image"),
        *("--config.env", "B=image", "--config.workingdir", "/work", "--config.volume", "/data"),
        *("--config.label", "org.example=label", "--config.stopsignal", "SIGINT", "--config.exposedports", "80/tcp"),
    )
    script = "id; pwd; echo $A $B $HOME $PATH; ls -ln /data | tail -1; stat -c %u /data; hostname; cat /etc/hosts"
    lines = run(runtime, f"oci:{layout}", script, flags=("-e", "B=flag", "--hostname", "name")).splitlines()
    assert lines[:2] == ["uid=1000(user) gid=1000(user) groups=2000(extra)", "/work"]
    assert lines[2] == "image flag /tmp /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert lines[3].endswith(" file")
    assert lines[4:6] == ["1000", "name"]
    assert lines[6:] == ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback", "127.0.1.1\tname"]


def test_the_command_line_stands_in_place_of_the_image(runtime: Runtime, images: Images) -> None:
    layout = images.oci("--config.entrypoint", "false", "--config.user", "nobody-there")
    flags = ("--entrypoint", "sh", "--user", "1000:extra", "--workdir", "/tmp")
    assert run(runtime, f"oci:{layout}", "-c", "id; pwd", flags=flags) == "uid=1000(user) gid=2000(extra)\n/tmp\n"


def test_detached_it_can_be_looked_at_and_deleted(runtime: Runtime, images: Images) -> None:
    layout = images.oci("--config.label", "org.example=label", "--config.stopsignal", "SIGINT")
    container_id = runtime.new_id()
    command = runtime.command("run", "-d", "--image", f"oci:{layout}", container_id, "sleep", "1000")
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    state = runtime.state(container_id)
    assert state["status"] == "running"
    assert state["annotations"].items() >= {
        ("org.example", "label"),
        ("org.opencontainers.image.stopSignal", "SIGINT"),
        ("org.opencontainers.image.architecture", "amd64"),
    }
    assert os.listdir(state["rootfs"]) == []  # the overlay is seen in the monitor's mount namespace alone
    assert runtime("exec", container_id, "cat", "/data/file").stdout == b"from the image\n"

    (image_id,) = images.ids()
    listed = runtime("image", "list").stdout.decode().splitlines()
    assert listed[1].split()[0] == image_id[:12]
    assert listed[1].split()[-2:] == ["yes", f"oci:{layout}"]
    assert "is used by a container" in message(runtime("image", "remove", image_id[:6], check=False))
    assert runtime("image", "prune").stdout == b""
    runtime("delete", "--force", container_id)
    assert images.layers() == set()
    assert runtime("image", "remove", image_id[:6]).stdout.decode() == f"{image_id}\n"
    assert images.ids() == set()


def test_what_a_container_writes_is_its_own(runtime: Runtime, images: Images) -> None:
    layout = images.oci("--config.volume", "/data")
    write = "echo mine > /data/file; echo mine > /etc/passwd; rm -r /bin/ls; cat /data/file"
    assert run(runtime, f"oci:{layout}", "sh", "-c", write) == "mine\n"
    assert run(runtime, f"oci:{layout}", "cat", "/data/file") == "from the image\n"
    assert len(images.ids()) == 1


def test_a_terminal(runtime: Runtime, images: Images) -> None:
    command = runtime.command("run", "-t", "-e", "PS1=ready> ", "--image", images.rootfs(), runtime.new_id(), "sh")
    session = pexpect.spawn(command[0], [str(word) for word in command[1:]], timeout=30)
    session.expect_exact("ready> ")
    session.send("echo $TERM; exit 7\r")
    session.expect_exact("\nxterm\r")
    session.expect(pexpect.EOF)
    session.wait()
    assert session.exitstatus == 7


@pytest.mark.parametrize(("flags", "said"), [(("-i",), "typed"), ((), "")])
def test_standard_input_is_passed_on_when_asked_for(
    flags: tuple[str, ...], said: str, runtime: Runtime, images: Images
) -> None:
    assert run(runtime, images.rootfs(), "cat", flags=flags, input=b"typed") == said


def test_a_kept_container_keeps_its_layer(runtime: Runtime, images: Images) -> None:
    rootfs = images.rootfs()
    run(runtime, rootfs, "true", flags=("--keep",))
    kept = images.layers()
    assert len(kept) == 1
    run(runtime, rootfs, "true")
    assert images.layers() == kept


# -- at once, and interrupted ----------------------------------------------------------------------------------------


def test_runs_at_once_unpack_once(runtime: Runtime, images: Images) -> None:
    image = f"oci:{images.slow().path}"
    with ThreadPoolExecutor() as pool:
        results = [pool.submit(run, runtime, image, "cat", "/proc/sys/kernel/hostname") for _ in range(3)]
    assert len({result.result() for result in results}) == 3
    assert len(images.ids()) == 1


def test_a_killed_unpacking_is_cleared_away(runtime: Runtime, images: Images) -> None:
    image = f"oci:{images.slow().path}"
    command = runtime.command("run", "--image", image, runtime.new_id())
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        eventually(images.unpacking)
        killed.kill()
    assert images.unpacking()
    runtime("image", "prune")
    assert images.ids() == set()


def test_ctrl_c_leaves_nothing(runtime: Runtime, images: Images) -> None:
    command = runtime.command("run", "--image", f"oci:{images.slow().path}", runtime.new_id())
    session = pexpect.spawn(command[0], command[1:], timeout=30)
    session.expect(rb"unpacking oci:\S+: \d+ MB, \d+ s")
    session.sendintr()
    session.expect(pexpect.EOF)
    session.wait()
    assert session.exitstatus == 130
    assert images.ids() == set()


def test_a_killed_monitor_leaves_nothing(runtime: Runtime, images: Images, state_root: Path) -> None:
    container_id = runtime.new_id()
    command = runtime.command("run", "-d", "--image", str(images.rootfs()), container_id, "sleep", "1000")
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    record = json.loads((state_root / "containers" / container_id / "state.json").read_text())
    os.kill(record["monitor"]["pid"], signal.SIGKILL)
    eventually(lambda: runtime.state(container_id)["status"] == "stopped")
    runtime("delete", container_id)
    assert images.layers() == set()


def test_a_killed_run_leaves_what_delete_removes(runtime: Runtime, images: Images, state_root: Path) -> None:
    container_id = runtime.new_id()
    command = runtime.command("run", "--image", str(images.rootfs()), container_id, "true")
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as killed:
        eventually((state_root / "containers" / container_id / "layer").is_symlink)
        killed.kill()
    runtime("delete", "--force", container_id)
    assert images.layers() == set()


def test_a_layer_whose_container_is_forgotten_is_cleared_away(
    runtime: Runtime, images: Images, state_root: Path
) -> None:
    rootfs = images.rootfs()
    run(runtime, rootfs, "true", flags=("--keep",))
    (state_root / "containers").rename(state_root / "lost")  # as a reboot does to /run
    assert len(images.layers()) == 1
    runtime("image", "prune")
    assert images.layers() == set()
    (state_root / "lost").rename(state_root / "containers")  # which has more that must be removed


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image", "oci:x", "--bundle", ".", "a"], "--image and --bundle exclude each other"),
        (["--tty", "a"], "--tty needs --image"),
        (["--env", "A=B", "a"], "--env needs --image"),
        (["a", "sh"], "Got unexpected extra argument (sh)"),
    ],
)
def test_flags_that_do_not_go_together(arguments: list[str], said: str, runtime: Runtime) -> None:
    result = runtime("run", *arguments, check=False)
    assert result.returncode == 1
    assert said in result.stderr.decode()


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("", '"" names no image (an image is oci:DIR[:TAG], docker-archive:FILE[:REF], dir:DIR or a directory)'),
        ("docker://debian", "`skopeo copy docker://debian oci:DIR:TAG` fetches it"),
        ("oci:/nowhere", "/nowhere is no OCI layout: it is not a directory"),
        ("oci:/etc", "/etc is no OCI layout: it has no file oci-layout"),
        ("docker-archive:/nowhere", "/nowhere: No such file or directory"),
        ("docker-archive:/etc", "/etc is not a file"),
        ("docker-archive:/dev/zero", "/dev/zero is not a file"),
        ("docker-archive:/etc/passwd", "skopeo failed: "),
        ("debian", "debian does not exist (an image is oci:DIR[:TAG]"),
        ("/", "/ is the host's root directory"),
        ("/etc/passwd", "/etc/passwd is not a directory"),
    ],
)
def test_names_of_no_image(image: str, said: str, runtime: Runtime, images: Images) -> None:
    assert said in refusal(runtime, image, "true")
    assert images.ids() == set()


def test_what_an_image_does_not_have(runtime: Runtime, images: Images, tmp_path: Path) -> None:
    archive = images.archive()
    layout = tmp_path / "layout"
    assert f'{layout} has no "v2" (it has "latest")' in refusal(runtime, f"oci:{layout}:v2")
    assert "has no " in refusal(runtime, f"oci:{layout}@sha256:{'0' * 64}")
    assert '(it has "docker.io/library/test:v1")' in refusal(runtime, f"docker-archive:{archive}:test:v2")
    assert f"(oci:{layout} names it)" in refusal(runtime, layout)
    assert 'the image has no user "nobody"' in refusal(runtime, f"oci:{layout}", flags=("--user", "nobody"))
    assert 'the image has no group "nobody"' in refusal(runtime, f"oci:{layout}", flags=("--user", "0:nobody"))
    compressed = tmp_path / "archive.tar.gz"
    compressed.write_bytes(gzip.compress(archive.read_bytes(), 1))
    assert "is compressed with gzip" in refusal(runtime, f"docker-archive:{compressed}")
    assert images.layers() == set()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[Callable[[Layout], object], str]] = {
    "manifest": (lambda made: _flip(made.blob(made.manifest)), "the image is damaged: blob sha256:"),
    "config": (lambda made: _flip(made.blob(made.config)), "the image is damaged: blob sha256:"),
    "layer": (lambda made: _flip(made.blob(made.layers[0])), "umoci failed: "),
    "short layer": (lambda made: os.truncate(made.blob(made.layers[0]), 100), "is not a file of"),
    "no layer": (lambda made: made.blob(made.layers[0]).unlink(), "No such file or directory"),
    "fewer layers": (
        lambda made: made.index({"config": made.config, "layers": []}),
        "the image is damaged: 0 layers, and 1 in its config",
    ),
    "another layer": (
        lambda made: made.index(
            {"config": made.config, "layers": [made.add(gzip.compress(layer(entry("x"))), made.layers[0]["mediaType"])]}
        ),
        "diffid mismatch",
    ),
    "zstd": (
        lambda made: made.index({"config": made.config, "layers": [made.layers[0] | {"mediaType": "tar+zstd"}]}),
        'media type "tar+zstd" is not supported',
    ),
    "large config": (
        lambda made: made.index({"config": made.add(b" " * (100 << 20), "x"), "layers": []}),
        "is larger than 4096 KiB",
    ),
    "index": (lambda made: (made.path / "index.json").write_text("{"), "is not valid JSON"),
    "fifo": (
        lambda made: ((made.path / "index.json").unlink(), os.mkfifo(made.path / "index.json")),
        "index.json is not a regular file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_images(kind: str, runtime: Runtime, images: Images) -> None:
    damage, said = DAMAGE[kind]
    made = images.layout()
    damage(made)
    assert said in refusal(runtime, f"oci:{made.path}")
    assert images.ids() == set()


def test_an_image_for_another_machine(runtime: Runtime, images: Images) -> None:
    made = images.layout(architecture="s390x")
    assert 'the image is for "linux/s390x", and this host is linux/amd64' in refusal(runtime, f"oci:{made.path}")
    assert images.ids() == set()


def test_an_image_without_a_command(runtime: Runtime, images: Images) -> None:
    made = images.layout(config={})
    assert "names no command (give one after the container's id)" in refusal(runtime, f"oci:{made.path}")
    assert images.ids() == set()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"Cmd": "true"}, "config.Cmd is not an array of strings"),
        ({"Cmd": ["true"], "Env": ["=x"]}, "does not have the form NAME=VALUE"),
        ({"Cmd": ["true"], "Labels": {"a": 1}}, "config.Labels is not an object of strings"),
        ({"Cmd": ["true"], "Volumes": {"/../": {}}}, "volume / would hide the image"),
        ({"Cmd": ["true"], "Volumes": {"/bin/sh": {}}}, "volume /bin/sh is not a directory"),
        ({"Cmd": ["a\0b"]}, "process.args[0]: contains a NUL character"),
    ],
)
def test_configs_that_cannot_be_run(config: dict[str, object], said: str, runtime: Runtime, images: Images) -> None:
    assert said in refusal(runtime, f"oci:{images.layout(config=config).path}")


def test_an_image_that_is_too_large(runtime: Runtime, images: Images) -> None:
    made = images.layout(layer(*(entry(f"zeros{number}", bytes(100 << 20)) for number in range(6))))
    assert f"takes more than {SIZE_LIMIT} when unpacked" in refusal(runtime, f"oci:{made.path}")
    assert images.ids() == set()


@pytest.mark.parametrize(
    ("passwd", "said"),
    [
        (entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n" * 1_000_000), "passwd is larger than 1024 KiB"),
        (entry("etc/passwd", kind=FIFO), "passwd is not a regular file"),
        (entry("etc/passwd", kind=BLOCK), "passwd is not a regular file"),
        (entry("etc/passwd", kind=SYMLINK, link="/../../../../../etc/passwd"), "passwd cannot be read"),
        (entry("etc/passwd", kind=SYMLINK, link="/proc/self/root/etc/passwd"), 'the image has no user "daemon"'),
    ],
    ids=["large", "fifo", "device", "loop", "link"],
)
def test_users_are_looked_up_in_the_image_alone(
    passwd: tuple[object, bytes], said: str, runtime: Runtime, images: Images
) -> None:
    made = images.layout(layer(entry("etc", kind=DIRECTORY), passwd))  # type: ignore[arg-type]
    assert said in refusal(runtime, f"oci:{made.path}", flags=("--user", "daemon"))


def test_a_layer_that_reaches_out_of_the_image(runtime: Runtime, images: Images, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    made = images.layout(
        layer(entry("link", kind=SYMLINK, link=str(victim))),
        layer(entry("link/through", b"x"), entry(f"../../../../../../../../../..{victim}/above", b"x")),
        layer(entry("disk", kind=BLOCK), entry("setuid", b"x", mode=0o4755)),
    )
    script = f"cat {victim}/above /link/through; cat /disk || echo refused"
    assert run(runtime, f"oci:{made.path}", "sh", "-c", script) == "xxrefused\n"
    assert os.listdir(victim) == []
    assert (images.kept / "images").stat().st_mode & 0o777 == 0o700


def test_a_layer_that_links_to_a_file_of_the_host(runtime: Runtime, images: Images) -> None:
    made = images.layout(layer(entry("shadow", kind=HARDLINK, link="/etc/shadow")))
    assert "umoci failed: " in refusal(runtime, f"oci:{made.path}")
    assert images.ids() == set()
