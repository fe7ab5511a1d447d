"""A small synchronous QMP client, for the command line."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import struct
import time
from collections import deque
from types import TracebackType
from typing import Any, Final

from throttlefs.errors import ThrottlefsError

_TIMEOUT_S: Final = 30.0
_ANSWER_WITHIN_S: Final = 120.0
_MOST_EVENTS: Final = 10_000
_LONGEST_ANSWER: Final = 1 << 30  # some 300,000 images


class NoSuchImageError(ThrottlefsError):
    """The daemon finds no image of that name."""


class QmpClient:
    """A session with the daemon behind *socket_path*; *where* names the mount in messages.

    Only root, ourselves and *owner* (a user id) are trusted to be that daemon. A *patient* client
    waits for the answer to a command as long as it takes.

    Raises `ThrottlefsError`, one line, whatever goes wrong.
    """

    def __init__(
        self,
        socket_path: str,
        where: str,
        owner: int | None = None,
        *,
        patient: bool = False,
    ) -> None:
        self._where = where
        self._buffer = bytearray()
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_EVENTS)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        self._answer_within_s = _ANSWER_WITHIN_S
        self._timeout_s: float | None = _TIMEOUT_S
        try:
            self._socket.connect(os.fsencode(socket_path))
            self._check_server(owner)
            greeting = self._receive()
            if "QMP" not in greeting:
                raise ThrottlefsError(f"what listens on {socket_path} does not speak QMP")
            self.run("qmp_capabilities")
            if patient:
                self._answer_within_s = math.inf
                self._timeout_s = None
                self._socket.settimeout(None)
        except OSError as exc:
            self._socket.close()
            raise self._gone(exc) from None
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> QmpClient:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def run(self, command: str, **arguments: object) -> Any:
        """The result of *command*; the underscores of *arguments* stand for dashes.

        Raises `ThrottlefsError` with the daemon's text if the command fails.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        message: dict[str, object] = {"execute": command}
        if named:
            message["arguments"] = named
        try:
            self._socket.sendall(json.dumps(message).encode("ascii") + b"\n")
            while "event" in (answer := self._receive()):
                self._events.append(answer)
        except OSError as exc:
            raise self._gone(exc) from None
        error = answer.get("error")
        if isinstance(error, dict):
            missing = error.get("class") == "DeviceNotFound"
            raise (NoSuchImageError if missing else ThrottlefsError)(str(error.get("desc")))
        if "return" not in answer:
            raise self._nonsense()
        return answer["return"]

    def next_event(self, name: str) -> dict[str, Any]:
        """The data of the next event *name*; waits for it as long as it takes."""
        self._socket.settimeout(None)
        try:
            while True:
                event = self._events.popleft() if self._events else self._receive(math.inf)
                if event.get("event") == name and isinstance(event.get("data"), dict):
                    found: dict[str, Any] = event["data"]
                    return found
        except OSError as exc:
            raise self._gone(exc) from None
        finally:
            self._socket.settimeout(self._timeout_s)

    def _check_server(self, owner: int | None) -> None:
        """Raise unless *owner*, the user who mounted, or root, or ourselves listen there."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _, uid, _ = struct.unpack("iII", credentials)
        if uid not in (0, os.geteuid(), owner):
            raise ThrottlefsError(f"the control socket of {self._where} is another user's")

    def _receive(self, within_s: float | None = None) -> dict[str, Any]:
        """One answer. Another user may send it, so its time and its length are bounded."""
        deadline = time.monotonic() + (self._answer_within_s if within_s is None else within_s)
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "the connection has ended")
            self._buffer += data
            if len(self._buffer) > _LONGEST_ANSWER or time.monotonic() > deadline:
                raise TimeoutError
        line = bytes(self._buffer[: end + 1])
        del self._buffer[: end + 1]
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise self._nonsense()
        return answer

    def _nonsense(self) -> ThrottlefsError:
        return ThrottlefsError(f"the control socket of {self._where} does not speak QMP")

    def _gone(self, exc: OSError) -> ThrottlefsError:
        if isinstance(exc, TimeoutError):
            return ThrottlefsError(f"the daemon of {self._where} does not answer")
        if exc.errno in (errno.EACCES, errno.EPERM):
            return ThrottlefsError(
                f"{self._where} is another user's mount; only that user and root may control it"
            )
        if exc.errno == errno.ECONNREFUSED:
            return ThrottlefsError(
                f"the daemon of {self._where} is gone; clear the mount away with:"
                f" throttlefs umount {self._where}"
            )
        if exc.errno in (errno.EPIPE, errno.ECONNRESET):
            return ThrottlefsError(
                f"the daemon of {self._where} has closed the connection:"
                " the mount has just ended, or too many clients are connected"
            )
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        return ThrottlefsError(
            f"cannot reach the control socket of {self._where}: {reason}; is the mount ending?"
        )
