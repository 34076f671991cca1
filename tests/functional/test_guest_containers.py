"""Containers as the agent keeps them, asked directly: what no command does, as a monitor that has changed its mind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
from guests import container, guest, initramfs

if TYPE_CHECKING:
    from pathlib import Path


def test_a_container_that_is_being_made_is_deleted_once_it_is_there(tmp_path: Path) -> None:
    with guest(tmp_path, [], initramfs(tmp_path / "initramfs")) as running:
        making = running.containers.Create.future(container("a"))
        while True:
            try:
                running.delete("a")
                break
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.NOT_FOUND, error  # its making has not begun
        assert not making.result().HasField("error")
        running.create("a")
