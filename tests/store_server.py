"""A Valkey or Redis server of the tests' own, on a Unix socket or a port of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import valkey

from tests.support import wait_for


def server_program() -> str:
    """The server that this system has: valkey-server (Debian 13) or redis-server (Debian 12)."""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return found
    raise AssertionError("neither valkey-server nor redis-server is installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class StoreServer:
    """Starts at once; `stop` ends it. *args* are options of the server."""

    def __init__(self, directory: Path, *args: str, port: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        self.socket = directory / "store.sock"
        self.port = port
        self._command = [
            server_program(),
            *("--port", str(port), "--bind", "127.0.0.1"),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "777"),
            *("--dir", str(directory), "--save", "", "--appendonly", "no"),
            *args,
        ]
        self._log = directory / "store.log"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_for(self._answers)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text(errors="replace")
        try:
            with self.client() as client:
                client.ping()
        except valkey.AuthenticationError:
            return True
        except valkey.ConnectionError:
            return False
        return True

    def client(self, **kwargs: object) -> valkey.Valkey:
        return valkey.Valkey(unix_socket_path=str(self.socket), decode_responses=True, **kwargs)

    def url(self, key: str = "tenant") -> str:
        if self.port:
            return f"valkey://127.0.0.1:{self.port}/0/{key}"
        return f"unix://{self.socket}?db=0&key={key}"

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(30)
        self.socket.unlink(missing_ok=True)
