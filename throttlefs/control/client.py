"""A small synchronous QMP client, for the command line."""

from __future__ import annotations

import errno
import json
import os
import socket
from types import TracebackType
from typing import Any, Final

from throttlefs.errors import ThrottlefsError

_TIMEOUT_S: Final = 30.0


class NoSuchImageError(ThrottlefsError):
    """The daemon finds no image of that name."""


class QmpClient:
    """A session with the daemon behind *socket_path*; *where* names the mount in messages.

    Raises `ThrottlefsError`, one line, for whatever goes wrong.
    """

    def __init__(self, socket_path: str, where: str) -> None:
        self._where = where
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(_TIMEOUT_S)
        try:
            self._socket.connect(os.fsencode(socket_path))
            self._stream = self._socket.makefile("rb")
            greeting = self._receive()
            if "QMP" not in greeting:
                raise ThrottlefsError(f"what listens on {socket_path} does not speak QMP")
            self.run("qmp_capabilities")
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
        self._stream.close()
        self._socket.close()

    def run(self, command: str, **arguments: object) -> Any:
        """The result of *command*; the underscores of *arguments* stand for dashes.

        An error of the daemon's becomes a `ThrottlefsError` with its text.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        message: dict[str, object] = {"execute": command}
        if named:
            message["arguments"] = named
        try:
            self._socket.sendall(json.dumps(message).encode("ascii") + b"\n")
            while "event" in (answer := self._receive()):
                pass
        except OSError as exc:
            raise self._gone(exc) from None
        if "error" in answer:
            error = answer["error"]
            missing = error["class"] == "DeviceNotFound"
            raise (NoSuchImageError if missing else ThrottlefsError)(str(error["desc"]))
        return answer["return"]

    def _receive(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise ConnectionResetError(errno.ECONNRESET, "the connection has ended")
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise ThrottlefsError(f"the control socket of {self._where} does not speak QMP")
        return answer

    def _gone(self, exc: OSError) -> ThrottlefsError:
        if isinstance(exc, TimeoutError):
            return ThrottlefsError(f"the daemon of {self._where} does not answer")
        if exc.errno in (errno.EACCES, errno.EPERM):
            return ThrottlefsError(
                f"{self._where} is another user's mount; only that user and root may control it"
            )
        reason = os.strerror(exc.errno) if exc.errno else str(exc)
        return ThrottlefsError(
            f"cannot reach the control socket of {self._where}: {reason}; is the mount ending?"
        )
