"""What the monitor takes of a container's resolv.conf, to which the container's root may write."""

import os

import pytest

from vruntime.monitor.resolv_conf import ResolvConf


@pytest.mark.parametrize(
    ("content", "servers"),
    [
        (b"nameserver 127.0.0.11\noptions ndots:0\n", ["127.0.0.11"]),
        (b"nameserver 10.0.0.1\nnameserver 127.0.0.53\n", ["127.0.0.53"]),
        (b"nameserver 127.0.0.1\nnameserver 127.0.0.1\n", ["127.0.0.1"]),
        (b"".join(b"nameserver 127.0.0.%d\n" % number for number in range(1, 9)), [f"127.0.0.{n}" for n in (1, 2, 3)]),
        (b"nameserver\nnameserver 127.0\0\nnameserver 127.\xff.0.1\nnameserver 127.0.0.1.1\n\0\n", []),
        (b"nameserver ::1\n#nameserver 127.0.0.1\n", []),
        (b"", []),
    ],
)
def test_loopback_servers(tmp_path, content, servers):
    (tmp_path / "resolv.conf").write_bytes(content)
    file = ResolvConf(str(tmp_path / "resolv.conf"))
    assert file.loopback_servers() == servers
    file.close()
    assert file.loopback_servers() == []


def test_what_is_written_into_the_file_is_seen_and_another_file_is_not(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 127.0.0.1\n")
    file = ResolvConf(str(path))
    path.write_text("nameserver 127.0.0.2\n")
    assert file.loopback_servers() == ["127.0.0.2"]
    path.unlink()
    path.write_text("nameserver 127.0.0.3\n")
    assert file.loopback_servers() == ["127.0.0.2"]
    file.close()


def test_only_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (None, str(tmp_path / "fifo"), str(tmp_path), str(tmp_path / "missing"), "/dev/zero"):
        assert ResolvConf(path).loopback_servers() == []
