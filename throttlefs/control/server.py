"""The QMP server of a mount: sockets, clients and their sessions, in the mount's trio loop.

Each client is a task. What it sends is read in small pieces, so that the mount's I/O gets its
turn in between; a client that does not read its answers is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio

from throttlefs.errors import ThrottlefsError

from . import protocol
from .protocol import BadRequestError, Framer, QmpError, Request

log = logging.getLogger("throttlefs")

_PIECE: Final = 4096
"""Bytes looked at between two turns of the mount."""

_MAX_CLIENTS: Final = 200
_BACKLOG: Final = 64
_SEND_WITHIN_S: Final = 10.0
"""How long a client may leave its answers unread."""

_GOODBYE_WITHIN_S: Final = 1.0
_SEND_BUFFER: Final = 1 << 16
_LONGEST_PATH: Final = 107  # sun_path, less its NUL; unix(7)

RunCommand = Callable[[str, Mapping[str, Any]], Awaitable[object]]


class ControlServer:
    """Serves clients on the sockets of a mount. Its owner and root alone may connect."""

    def __init__(self, run_command: RunCommand) -> None:
        self._run_command = run_command
        self._listeners: list[tuple[socket.socket, str, tuple[int, int]]] = []
        self._clients: set[_Client] = set()

    def listen(self, path: str, *, take_over: bool = False) -> None:
        """Add a socket at *path*, mode 0600. Raises `ThrottlefsError` if it cannot be made.

        *take_over*: even if another process listens there.
        """
        raw = os.fsencode(path)
        if len(raw) > _LONGEST_PATH:
            raise ThrottlefsError(
                f"the socket's path {path} is longer than {_LONGEST_PATH} bytes; choose another"
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            _remove_stale(path, take_over)
            # The umask alone makes the mode right from the first moment on.
            umask = os.umask(0o177)
            try:
                listener.bind(raw)
            finally:
                os.umask(umask)
            listener.listen(_BACKLOG)
            st = os.lstat(path)
        except OSError as exc:
            listener.close()
            raise ThrottlefsError(f"cannot make the socket {path}: {exc.strerror}") from None
        except ThrottlefsError:
            listener.close()
            raise
        self._listeners.append((listener, path, (st.st_dev, st.st_ino)))

    def close(self) -> None:
        """Close the sockets and remove them, unless somebody else's have taken their place."""
        for listener, path, identity in self._listeners:
            listener.close()
            try:
                st = os.lstat(path)
                if (st.st_dev, st.st_ino) == identity:
                    os.unlink(path)
            except OSError:
                pass
        self._listeners.clear()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener, _, _ in self._listeners:
                nursery.start_soon(self._accept, trio.socket.from_stdlib_socket(listener), nursery)

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as exc:
                # Out of descriptors, most likely: others have to close theirs first.
                log.warning("cannot accept a client of the control socket: %s", exc.strerror)
                await trio.sleep(0.1)
                continue
            if len(self._clients) >= _MAX_CLIENTS or not _may_connect(connection):
                connection.close()
                continue
            nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        client = _Client(connection, self._run_command)
        self._clients.add(client)
        try:
            await client.serve()
        except (OSError, trio.TooSlowError):
            pass  # it has gone, or does not read
        except Exception:
            log.error("internal error in the control socket; the client is dropped", exc_info=True)
        finally:
            self._clients.discard(client)
            connection.close()

    async def announce_end(self, reason: str) -> None:
        """Tell every client that the mount ends."""
        message = protocol.event("SHUTDOWN", {"guest": False, "reason": reason})
        with trio.move_on_after(_GOODBYE_WITHIN_S):
            async with trio.open_nursery() as nursery:
                for client in list(self._clients):
                    nursery.start_soon(client.notify, message)


def _remove_stale(path: str, take_over: bool) -> None:
    """Remove a socket at *path* that nobody listens on any more, or with *take_over* any."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ThrottlefsError(f"cannot make the socket {path}: there is a file of that name")
    except FileNotFoundError:
        return
    if take_over:
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fsencode(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # somebody listens and is busy
    raise ThrottlefsError(f"cannot make the socket {path}: another process listens on it")


def _may_connect(connection: trio.socket.SocketType) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("iII", credentials)
    return uid in (0, os.geteuid())


class _Client:
    """One client's session."""

    def __init__(self, connection: trio.socket.SocketType, run_command: RunCommand) -> None:
        self._connection = connection
        self._run_command = run_command
        self._lock = trio.Lock()  # one message at a time
        self._negotiated = False

    async def serve(self) -> None:
        """Answer until the client is gone.

        Raises `OSError`, and `trio.TooSlowError` if it does not read.
        """
        await self._send(protocol.greeting())
        framer = Framer()
        while data := await self._connection.recv(_PIECE):
            try:
                for found in framer.feed(data):
                    await self._send(await self._answer(found))
            except protocol.TooLongError as exc:
                await self._send(protocol.failure(exc))
                return

    async def notify(self, message: bytes) -> None:
        """Send an event, if the client is ready for events and reads them."""
        if self._negotiated:
            try:
                await self._send(message)
            except (OSError, trio.TooSlowError):
                pass

    async def _send(self, message: bytes) -> None:
        with trio.fail_after(_SEND_WITHIN_S):
            async with self._lock:
                for start in range(0, len(message), _SEND_BUFFER):
                    piece = memoryview(message)[start : start + _SEND_BUFFER]
                    while piece:
                        piece = piece[await self._connection.send(piece) :]

    async def _answer(self, found: bytes | QmpError) -> bytes:
        if isinstance(found, QmpError):
            return protocol.failure(found)
        try:
            request = protocol.parse_request(found)
        except BadRequestError as exc:
            return protocol.failure(exc, exc)
        try:
            return await _success(await self._carry_out(request), request)
        except QmpError as exc:
            return protocol.failure(exc, request)
        except ThrottlefsError as exc:
            return protocol.failure(QmpError(str(exc)), request)

    async def _carry_out(self, request: Request) -> object:
        if request.name == "qmp_capabilities":
            return self._negotiate(request)
        if not self._negotiated:
            raise QmpError(
                "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"
            )
        return await self._run_command(request.name, request.arguments)

    def _negotiate(self, request: Request) -> object:
        if self._negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
            )
        for name, value in request.arguments.items():
            if name != "enable":
                raise QmpError(f"Parameter '{name[:40]}' is unexpected")
            if not isinstance(value, list):
                raise QmpError("Invalid parameter type for 'enable', expected: array")
            if value:
                raise QmpError(f"Parameter 'enable' does not accept value '{value[0]!s:.40}'")
        self._negotiated = True
        return {}


async def _success(result: object, request: Request) -> bytes:
    """As `protocol.success`, with turns for others while a long list is encoded."""
    if not isinstance(result, list) or len(result) < 2:
        return protocol.success(result, request)
    parts = []
    for item in result:
        parts.append(protocol.encode(item).removesuffix(b"\r\n"))
        await trio.lowlevel.checkpoint()
    frame = protocol.success([], request)
    return frame.replace(b"[]", b"[" + b", ".join(parts) + b"]", 1)
