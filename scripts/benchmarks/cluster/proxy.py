"""A loopback proxy that delays what goes through it, swallows it, or cuts connections."""

from __future__ import annotations

import queue
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any


class Proxy:
    """Passes connections to ``port`` on to the Unix socket *target*.

    ``delay`` is in seconds, each way. While ``silent``, nothing gets through. ``loss`` is the part
    of all pieces (a request or an answer is one) that is lost: every other time it is swallowed,
    else the connection ends there. *seed* draws which.
    """

    def __init__(self, target: Path, seed: int = 1) -> None:
        self.delay = 0.0
        self.silent = False
        self.loss = 0.0
        self.lost = 0
        self._random = random.Random(seed)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._start(self._accept)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, key: str = "tenant") -> str:
        """The address under which a group shares its limits through the proxy."""
        return f"valkey://127.0.0.1:{self.port}/0/{key}"

    def cut(self) -> None:
        """End all connections; new ones are taken."""
        for one in self._connections:
            _end(one)
        self._connections.clear()

    def close(self) -> None:
        """End all connections and take no more."""
        # A thread in accept holds the socket open: shutdown wakes it.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _start(self, function: Any, *args: object) -> None:
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
            if data and (self.silent or self._is_lost(target)):
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

    def _is_lost(self, target: socket.socket) -> bool:
        if not self.loss or self._random.random() >= self.loss:
            return False
        self.lost += 1
        if self.lost % 2:
            _end(target)
        return True


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
