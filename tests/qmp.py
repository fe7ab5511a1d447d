"""QMP for tests: raw sockets, and the client that QEMU's own people wrote, run to its end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from qemu.qmp import QMPClient

from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry

T = TypeVar("T")


def socket_of(entry: MountEntry) -> str:
    path = runtime.find_socket(entry)
    assert path is not None
    return path


class RawClient:
    """A session by hand, for what no decent client would send."""

    def __init__(self, path: str, negotiate: bool = True) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self._stream = self.socket.makefile("rb")
        self.greeting = self.receive()
        if negotiate:
            assert self.run("qmp_capabilities") == {"return": {}}

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> dict[str, Any]:
        line = self._stream.readline()
        assert line.endswith(b"\r\n"), line
        return json.loads(line)

    def is_closed(self) -> bool:
        """Whether the server hangs up; waits for it."""
        try:
            return self._stream.read() == b""
        except ConnectionResetError:
            return True

    def run(self, command: str, **arguments: Any) -> dict[str, Any]:
        self.send(json.dumps({"execute": command, "arguments": arguments}).encode())
        return self.receive()


def with_qemus_client(path: str, work: Callable[[QMPClient], Awaitable[T]]) -> T:
    """Run *work* with a connected ``qemu.qmp`` client."""

    async def session() -> T:
        client = QMPClient("test")
        await client.connect(path)
        try:
            return await work(client)
        finally:
            try:
                await client.disconnect()
            except EOFError:
                pass  # the server, which was told to end, was quicker

    return asyncio.run(asyncio.wait_for(session(), 30))
