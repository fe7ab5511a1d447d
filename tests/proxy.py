"""A loopback proxy that delays what goes through it, swallows it, or cuts connections."""

from __future__ import annotations

import queue
import socket
import threading
import time
from pathlib import Path


class Proxy:
    """Passes connections to ``port`` on to the Unix socket *target*.

    ``delay`` is in seconds, each way. While ``silent``, nothing gets through.
    """

    def __init__(self, target: Path) -> None:
        self.delay = 0.0
        self.silent = False
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._start(self._accept)

    def url(self, key: str = "tenant") -> str:
        return f"valkey://127.0.0.1:{self.port}/0/{key}"

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        for one in self._connections:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._connections.clear()

    def close(self) -> None:
        # A thread in accept holds the socket open: shutdown wakes it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _start(self, function, *args) -> None:  # type: ignore[no-untyped-def]
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._target))
            except OSError:
                client.close()
                continue
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections += [client, server]
            for one, other in ((client, server), (server, client)):
                pieces: queue.Queue[tuple[float, bytes]] = queue.Queue()
                self._start(self._take, one, pieces)
                self._start(self._give, other, pieces)

    def _take(self, source: socket.socket, pieces: queue.Queue[tuple[float, bytes]]) -> None:
        data = b"-"
        while data:
            try:
                data = source.recv(65536)
            except OSError:
                data = b""
            pieces.put((time.monotonic() + self.delay, data))

    def _give(self, target: socket.socket, pieces: queue.Queue[tuple[float, bytes]]) -> None:
        while True:
            due, data = pieces.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if data and self.silent:
                continue
            try:
                if data:
                    target.sendall(data)
                else:
                    target.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            if not data:
                return
