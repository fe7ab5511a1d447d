"""The client of the command line: how long it waits for an answer."""

from __future__ import annotations

import json
import math
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from throttlefs.control import client
from throttlefs.control.client import QmpClient
from throttlefs.errors import ThrottlefsError

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class SlowServer:
    """Greets at once, and carries out no command before `release` is set."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.release = threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        with connection, connection.makefile("rwb", buffering=0) as file:
            file.write(json.dumps(GREETING).encode() + b"\n")
            file.readline()
            file.write(b'{"return": {}}\n')
            file.readline()
            self.release.wait()
            try:
                file.write(b'{"return": "at last"}\n')
            except BrokenPipeError:
                pass  # the client has given up

    def close(self) -> None:
        self.release.set()
        self._thread.join()
        self._socket.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SlowServer]:
    server = SlowServer(tmp_path / "qmp")
    yield server
    server.close()


def test_a_client_gives_up(server: SlowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT_S", 2.0)
    with (
        QmpClient(server.path, "mnt") as session,
        pytest.raises(ThrottlefsError, match="the daemon of mnt does not answer"),
    ):
        session.run("slow")


def test_a_patient_client_waits(server: SlowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_TIMEOUT_S", 2.0)
    with QmpClient(server.path, "mnt", patient=True) as session:
        assert session._socket.gettimeout() is None
        assert session._answer_within_s == math.inf
        answer: list[object] = []
        waiting = threading.Thread(target=lambda: answer.append(session.run("slow")))
        waiting.start()
        waiting.join(0.2)
        assert answer == []
        server.release.set()
        waiting.join()
        assert answer == ["at last"]
