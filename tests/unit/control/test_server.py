"""The sockets of the control server: whose they are when two mounts want one name."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from throttlefs.control.server import ControlServer
from throttlefs.errors import ThrottlefsError


async def no_command(name: str, arguments: Mapping[str, Any]) -> object:
    raise NotImplementedError


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_new_mount_takes_the_socket_over_from_one_that_is_ending(tmp_path: Path) -> None:
    """The kernel gives a mount's number away before its daemon has closed its socket."""
    path = tmp_path / "0-39.sock"
    ending, starting = ControlServer(no_command), ControlServer(no_command)
    ending.listen(str(path))
    with pytest.raises(ThrottlefsError, match="another process listens"):
        starting.listen(str(path))
    starting.listen(str(path), take_over=True)
    ending.close()
    connect(path)
    starting.close()
    assert not path.exists()


def test_what_is_no_socket_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("x")
    with pytest.raises(ThrottlefsError, match="there is a file"):
        ControlServer(no_command).listen(str(path), take_over=True)
    assert path.read_text() == "x"
