"""The QMP server of a mount: sockets, clients and their sessions, in the mount's trio loop.

Each client is a task. The server reads its messages in small pieces, so that the mount's I/O gets
its turn in between. A client that does not read its answers is dropped.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.host import trusted

from . import protocol
from .protocol import BadRequestError, Framer, QmpError, Request

log = logging.getLogger("throttlefs")

_PIECE: Final = 4096
"""Bytes looked at between two turns of the mount."""

_MAX_CLIENTS: Final = 200
_BACKLOG: Final = 64
_SEND_WITHIN_S: Final = 10.0
"""How long a client may leave its answers unread."""

_MOST_EVENTS: Final = 1000
"""How many events may wait for a client; the oldest are dropped beyond that."""

_GOODBYE_WITHIN_S: Final = 1.0
_SEND_BUFFER: Final = 1 << 16
_LONGEST_PATH: Final = 107  # sun_path, less its NUL; unix(7)

_current: ContextVar[_Client | None] = ContextVar("_current", default=None)
"""The client whose command is being carried out."""

RunCommand = Callable[[str, Mapping[str, Any]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Listener:
    """A socket, with the directory (a descriptor) and the name that it has there."""

    socket: socket.socket
    directory: int
    name: str
    identity: tuple[int, int]


class ControlServer:
    """Serves clients on the sockets of a mount. Only its owner and root may connect."""

    def __init__(self, run_command: RunCommand) -> None:
        self._run_command = run_command
        self._listeners: list[_Listener] = []
        self._clients: set[_Client] = set()

    def listen(self, path: str, *, take_over: bool = False) -> None:
        """Add a socket at *path*, mode 0600. Raises `ThrottlefsError` if it cannot be made.

        *take_over*: replace the socket even if another process listens there.
        """
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ThrottlefsError(
                f"the socket's path {path} is longer than {_LONGEST_PATH} bytes; choose another"
            )
        try:
            directory, name = trusted.open_directory_of(path)
        except OSError as exc:
            raise ThrottlefsError(f"cannot make the socket {path}: {exc.strerror}") from None
        reached = os.fsencode(_reached(directory, name))
        listener = None
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            if len(reached) > _LONGEST_PATH:
                raise ThrottlefsError(f"the socket's name {name} is too long; choose a shorter one")
            _remove_stale(path, directory, name, take_over)
            # The file gets the mode of the unbound socket, so it never has another one. A umask
            # would also apply to files that others are making now.
            os.fchmod(listener.fileno(), 0o600)
            listener.bind(reached)
            listener.listen(_BACKLOG)
            st = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except (OSError, ThrottlefsError) as exc:
            if listener is not None:
                listener.close()
            os.close(directory)
            if isinstance(exc, ThrottlefsError):
                raise
            raise ThrottlefsError(f"cannot make the socket {path}: {exc.strerror}") from None
        self._listeners.append(_Listener(listener, directory, name, (st.st_dev, st.st_ino)))

    def close(self) -> None:
        """Close the sockets and remove them, unless other files have taken their place."""
        for one in self._listeners:
            one.socket.close()
            try:
                st = os.stat(one.name, dir_fd=one.directory, follow_symlinks=False)
                if (st.st_dev, st.st_ino) == one.identity:
                    os.unlink(one.name, dir_fd=one.directory)
            except OSError:
                pass
            os.close(one.directory)
        self._listeners.clear()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            for one in self._listeners:
                listener = trio.socket.from_stdlib_socket(one.socket)
                nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            try:
                connection, _ = await listener.accept()
            except OSError as exc:
                # Most likely there are no descriptors left; some must be closed first.
                log.warning("cannot accept a client of the control socket: %s", exc.strerror)
                await trio.sleep(0.1)
                continue
            if len(self._clients) >= _MAX_CLIENTS or not _may_connect(connection):
                connection.close()
                continue
            nursery.start_soon(self._serve, connection, nursery)

    async def _serve(self, connection: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        client = _Client(connection, self._run_command)
        self._clients.add(client)
        nursery.start_soon(client.send_events)
        try:
            await client.serve()
        except (OSError, trio.TooSlowError):
            pass  # the client has gone, or does not read
        except Exception:
            log.error("internal error in the control socket; the client is dropped", exc_info=True)
        finally:
            self._clients.discard(client)
            client.close()
            for call in client.at_close:
                nursery.start_soon(call)

    def broadcast(self, name: str, data: Mapping[str, object]) -> None:
        """Send an event to every client that is ready for events, soon. Never waits."""
        listeners = [client for client in self._clients if client.negotiated]
        if listeners:
            message = protocol.event(name, data)
            for client in listeners:
                client.queue(message)

    async def announce_end(self, reason: str) -> None:
        """Tell every client that the mount ends."""
        message = protocol.event("SHUTDOWN", {"guest": False, "reason": reason})
        with trio.move_on_after(_GOODBYE_WITHIN_S):
            async with trio.open_nursery() as nursery:
                for client in list(self._clients):
                    nursery.start_soon(client.notify, message)


def _reached(directory: int, name: str) -> str:
    return f"/proc/self/fd/{directory}/{name}"


def _remove_stale(path: str, directory: int, name: str, take_over: bool) -> None:
    """Remove our own socket at *path* if nobody listens on it, or in any case with *take_over*."""
    try:
        st = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(st.st_mode):
        raise ThrottlefsError(f"cannot make the socket {path}: there is a file of that name")
    if st.st_uid != os.geteuid():
        raise ThrottlefsError(f"cannot make the socket {path}: another user's is there")
    if take_over:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fsencode(_reached(directory, name)))
        except ConnectionRefusedError:
            os.unlink(name, dir_fd=directory)
            return
        except BlockingIOError:
            pass  # somebody listens and is busy
    raise ThrottlefsError(f"cannot make the socket {path}: another process listens on it")


def _may_connect(connection: trio.socket.SocketType) -> bool:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    _, uid, _ = struct.unpack("iII", credentials)
    return uid in (0, os.geteuid())


def at_close_of_client(call: Callable[[], Awaitable[None]]) -> None:
    """Let *call* be made when the client whose command is being carried out has gone."""
    client = _current.get()
    if client is not None:
        client.at_close.append(call)


class _Client:
    """One client's session."""

    def __init__(self, connection: trio.socket.SocketType, run_command: RunCommand) -> None:
        self._connection = connection
        self._run_command = run_command
        self._lock = trio.Lock()  # one message at a time
        self._events: deque[bytes] = deque(maxlen=_MOST_EVENTS)
        self._news = trio.Event()
        self._closed = False
        self.at_close: list[Callable[[], Awaitable[None]]] = []
        """What is to be done when it has gone."""
        self.negotiated = False
        """Whether it is ready for commands and events."""

    async def serve(self) -> None:
        """Answer until the client is gone.

        Raises `OSError`, and `trio.TooSlowError` if it does not read.
        """
        _current.set(self)
        await self._send(protocol.greeting())
        framer = Framer()
        while data := await self._connection.recv(_PIECE):
            try:
                for found in framer.feed(data):
                    await self._send(await self._answer(found))
            except protocol.TooLongError as exc:
                await self._send(protocol.failure(exc))
                return

    def close(self) -> None:
        """Close the connection."""
        self._closed = True
        self._news.set()
        self._connection.close()

    def queue(self, message: bytes) -> None:
        """Let `send_events` send an event."""
        self._events.append(message)
        self._news.set()

    async def send_events(self) -> None:
        """Send what is queued until the client is closed. One that does not read is dropped."""
        while not self._closed:
            await self._news.wait()
            self._news = trio.Event()
            try:
                while self._events and not self._closed:
                    await self._send(self._events.popleft())
            except (OSError, trio.TooSlowError):
                self._connection.close()
                return

    async def notify(self, message: bytes) -> None:
        """Send an event, if the client is ready for events and reads them."""
        if self.negotiated:
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
        if not self.negotiated:
            raise QmpError(
                "Expecting capabilities negotiation with 'qmp_capabilities'", "CommandNotFound"
            )
        return await self._run_command(request.name, request.arguments)

    def _negotiate(self, request: Request) -> object:
        if self.negotiated:
            raise QmpError(
                "Capabilities negotiation is already complete, command ignored", "CommandNotFound"
            )
        for name, value in request.arguments.items():
            if name != "enable":
                raise QmpError(f"Parameter '{protocol.shown(name)}' is unexpected")
            if not isinstance(value, list):
                raise QmpError("Invalid parameter type for 'enable', expected: array")
            if value:
                raise QmpError(
                    f"Parameter 'enable' does not accept value '{protocol.shown(str(value[0]))}'"
                )
        self.negotiated = True
        return {}


async def _success(result: object, request: Request) -> bytes:
    """As `protocol.success`, but gives other tasks a turn while a long list is encoded."""
    if not isinstance(result, list) or len(result) < 2:
        return protocol.success(result, request)
    parts = []
    for item in result:
        parts.append(protocol.encode(item).removesuffix(b"\r\n"))
        await trio.lowlevel.checkpoint()
    frame = protocol.success([], request)
    return frame.replace(b"[]", b"[" + b", ".join(parts) + b"]", 1)
