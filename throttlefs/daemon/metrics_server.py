"""Serves the metrics of a mount by HTTP: ``GET /metrics``, in the mount's trio loop.

In a thread of its own every scrape would fight the mount for Python's lock. So the server is a task
among the others. It takes little time, however many clients ask, and however often:

- the text is made for all waiting clients at once, at most once a second and in a fifth of the
  time; a client that asks in between waits for the next text, so that no figure is old;
- clients beyond `MOST_CLIENTS` wait in the kernel's queue; then the client that has kept us waiting
  longest is dropped, once its time is over;
- only one piece of an answer is sent at a time.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.option_values import split_address

log = logging.getLogger("throttlefs")

MOST_CLIENTS: Final = 64

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_LONGEST_REQUEST: Final = 8192
_WITHIN_S: Final = 10.0
"""How long a client may take to ask, and to read the answer."""

_PATIENCE_S: Final = 2.0
"""How long a client may at least take for both while others wait for its place."""

_BETWEEN_S: Final = 1.0
"""Seconds from one text to the next."""

_IDLE_SHARE: Final = 4
"""After a text, none is made for this many times the time that it took."""

_PIECE: Final = 128 << 10
"""Bytes sent at a time: some 30 us."""

MakeText = Callable[[], Awaitable[bytes]]


class SharedText:
    """Makes one text at a time, for all clients that wait for it."""

    def __init__(self, make_text: MakeText) -> None:
        self._make = make_text
        self._making = trio.Lock()
        self._next: _Text | None = None
        self._not_before = float("-inf")

    async def get(self) -> bytes:
        """A text that is begun after this call. Raises the exception of making it."""
        if self._next is None:
            self._next = _Text()
        text = self._next
        async with text.lock:
            if text.done is None:  # the first client makes it; if it is cancelled, another one does
                async with self._making:
                    await trio.sleep_until(self._not_before)
                    if self._next is text:
                        self._next = None
                    text.done = await self._make_now()
        return text.done

    async def _make_now(self) -> bytes:
        began = trio.current_time()
        try:
            return await self._make()
        finally:
            ended = trio.current_time()
            pause = (ended - began) * _IDLE_SHARE
            self._not_before = max(began + _BETWEEN_S, ended + pause)


class _Text:
    """A text that will be made."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.done: bytes | None = None


class _Client:
    """A connection."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.waited_for: float | None = None
        """Since when (trio's clock) the client has kept us waiting; None while it waits for us."""

    @contextmanager
    def turn(self) -> Iterator[trio.CancelScope]:
        """A block in which we wait for the client, for a bounded time."""
        self.waited_for = trio.current_time()
        with trio.move_on_after(_WITHIN_S) as scope:
            yield scope
        self.waited_for = None


class MetricsServer:
    """Answers ``GET /metrics`` at *address*, HOST:PORT.

    Raises `ThrottlefsError` if it cannot listen there.
    """

    def __init__(self, address: str) -> None:
        host, port = split_address(address)
        self._listeners: list[socket.socket] = []
        self._clients: set[_Client] = set()
        self._left = trio.Event()  # a client has
        self._sending = trio.StrictFIFOLock()
        try:
            for family, kind, protocol, _, where in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                listener = socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
                self._listeners.append(listener)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind(where)
                listener.listen(socket.SOMAXCONN)
        except (OSError, UnicodeError) as exc:  # the latter for a name with an empty label
            self.close()
            reason = exc.strerror if isinstance(exc, OSError) else "there is no such host"
            raise ThrottlefsError(
                f"cannot serve metrics at {address}: {reason}; choose another metrics="
            ) from None

    def close(self) -> None:
        """Close the sockets."""
        for listener in self._listeners:
            listener.close()

    async def run(self, make_text: MakeText) -> None:
        """Answer with what *make_text* gives, until cancelled."""
        shared = SharedText(make_text)
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                sock = trio.socket.from_stdlib_socket(listener)
                nursery.start_soon(self._accept, trio.SocketListener(sock), shared, nursery)

    async def _accept(
        self, listener: trio.SocketListener, shared: SharedText, nursery: trio.Nursery
    ) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener.socket)  # somebody is waiting
            if len(self._clients) >= MOST_CLIENTS:
                await self._make_room()
                continue
            try:
                stream = await listener.accept()
            except OSError as exc:
                log.warning("cannot accept a client of the metrics: %s", exc.strerror)
                await trio.sleep(0.1)
                continue
            client = _Client()
            self._clients.add(client)
            nursery.start_soon(self._serve, client, stream, shared)

    async def _make_room(self) -> None:
        """Wait until a client leaves; drop the one waited for longest when it has had its time."""
        slow = [client for client in self._clients if client.waited_for is not None]
        left = self._left
        if slow:
            slowest = min(slow, key=lambda client: client.waited_for or 0.0)
            with trio.move_on_at((slowest.waited_for or 0.0) + _PATIENCE_S):
                await left.wait()
                return
            slowest.scope.cancel()
        # Clients whose text is being made keep nobody waiting for long.
        with trio.move_on_after(_PATIENCE_S):
            await left.wait()

    async def _serve(self, client: _Client, stream: trio.SocketStream, shared: SharedText) -> None:
        try:
            with client.scope:
                with client.turn() as asking:
                    request = await read_request(stream)
                if asking.cancelled_caught:
                    return
                head, body = await respond(request, shared.get)
                with client.turn():
                    await self._send(stream.socket, head)
                    await self._send(stream.socket, body)
        except (trio.BrokenResourceError, OSError):
            pass  # the client has gone
        except Exception:
            log.error("internal error in the metrics; the client is dropped", exc_info=True)
        finally:
            self._clients.discard(client)
            self._left.set()
            self._left = trio.Event()
            await trio.aclose_forcefully(stream)

    async def _send(self, sock: trio.socket.SocketType, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            await trio.lowlevel.wait_writable(sock)
            async with self._sending:
                rest = rest[await sock.send(rest[:_PIECE]) :]


async def read_request(stream: trio.abc.ReceiveStream) -> bytes:
    """The head of a request; empty if there is none. One request a connection."""
    request = b""
    while b"\r\n\r\n" not in request and b"\n\n" not in request:
        piece = await stream.receive_some(_LONGEST_REQUEST)
        request += piece
        if not piece or len(request) > _LONGEST_REQUEST:
            return b""
    return request


async def respond(request: bytes, make_text: MakeText) -> tuple[bytes, bytes]:
    """Head and body of the answer to *request*, in HTTP/1.1."""
    if not request:
        return _response("400 Bad Request", b"bad request\n")
    method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", b"GET only\n", b"Allow: GET, HEAD\r\n")
    if path not in (b"/metrics", b"/"):
        return _response("404 Not Found", b"the metrics are at /metrics\n")
    head, body = _response("200 OK", await make_text(), content_type=CONTENT_TYPE)
    return head, body if method == b"GET" else b""


def _response(
    status: str, body: bytes, more: bytes = b"", content_type: str = "text/plain; charset=utf-8"
) -> tuple[bytes, bytes]:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    return head.encode() + more + b"\r\n", body
