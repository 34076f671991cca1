"""Docker and a container's files: read-only, tmpfs, cp, diff, commit, export."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from engines import Docker


def test_read_only_with_a_tmpfs(docker: Docker) -> None:
    script = "touch /x; touch /tmp/x && stat -c %a /tmp && df -k /tmp | awk 'NR == 2 { print $1, $2 }'"
    flags = ["--read-only", "--tmpfs", "/tmp:size=1m,mode=1770"]
    shown = docker("run", "--rm", *flags, docker.busybox(), "sh", "-c", script)
    assert shown.stdout == "1770\ntmpfs 1024\n"
    assert shown.stderr == "touch: /x: Read-only file system\n"


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_copying(docker: Docker, tmp_path: Path, running: bool) -> None:
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/file").write_text("from the host\n")
    (tmp_path / "tree/deep/file").chmod(0o640)
    script = "mkdir /made; echo from inside > /made/file; ln -s file /made/link; test -e /stay && sleep 1000"
    container = docker("create", docker.busybox(), "sh", "-c", script).stdout.strip()
    if running:
        (tmp_path / "stay").touch()
        docker("cp", str(tmp_path / "stay"), f"{container}:/stay")
    docker("start", container)
    if not running:
        docker("wait", container)
    docker("cp", str(tmp_path / "tree"), f"{container}:/tmp")
    docker("cp", f"{container}:/tmp/tree/deep", str(tmp_path / "back"))
    assert (tmp_path / "back/file").read_text() == "from the host\n"
    assert (tmp_path / "back/file").stat().st_mode & 0o777 == 0o640
    if running:
        assert docker("exec", container, "cat", "/tmp/tree/deep/file").stdout == "from the host\n"
    docker("cp", f"{container}:/made", str(tmp_path))
    assert (tmp_path / "made/file").read_text() == "from inside\n"
    assert (tmp_path / "made/link").readlink() == Path("file")


def test_diff_commit_and_export(docker: Docker) -> None:
    script = "echo new > /etc/new; rm /etc/group; echo more >> /etc/passwd; sleep 1000"
    container = docker.detached(docker.busybox(), "sh", "-c", script)
    docker("exec", container, "sh", "-c", "until grep -q more /etc/passwd; do sleep 0.1; done")
    changes = set(docker("diff", container).stdout.splitlines())
    assert changes == {"C /etc", "A /etc/new", "D /etc/group", "C /etc/passwd"}

    docker("commit", "--change", 'CMD ["cat", "/etc/new"]', container, "committed:1")
    assert docker("run", "--rm", "committed:1").stdout == "new\n"

    exported = docker("export", container, text=False).stdout
    with tarfile.open(fileobj=io.BytesIO(exported)) as archive:
        member = archive.extractfile("etc/new")
        assert member is not None
        assert member.read() == b"new\n"
        assert "etc/group" not in archive.getnames()


def test_a_volume_is_kept_and_shared(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("given\n")
    image = docker.busybox()
    docker("run", "--rm", "--volume", "kept:/data", image, "sh", "-c", "echo kept > /data/file")
    mounts = ["--volume", "kept:/data:ro", "--volume", f"{tmp_path}:/host"]
    script = "cat /data/file /host/given; echo back > /host/back; echo x > /data/x"
    shown = docker("run", "--rm", *mounts, image, "sh", "-c", script, check=False)
    assert shown.stdout == "kept\ngiven\n"
    assert "Read-only file system" in shown.stderr
    assert (tmp_path / "back").read_text() == "back\n"
