"""The figures of a mount for Prometheus: ``-o metrics=HOST:PORT``.

prometheus-client makes the text; the HTTP around it is spoken here, in the mount's trio loop. In a
thread of its own, as prometheus-client's server, every scrape would fight the mount for Python's
lock; here the text is made in small pieces, with turns for the mount's I/O in between.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from time import monotonic_ns
from typing import Final

import trio
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from throttlefs import __version__
from throttlefs.control.images import Images, KnownImage
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.limits import RATES
from throttlefs.settings.option_values import split_address
from throttlefs.stats import BUCKETS_PER_OCTAVE, DirectionStatistics, ImageStatistics
from throttlefs.throttle import READ, WRITE, Throttle

log = logging.getLogger("throttlefs")

_OPERATIONS: Final = ("read", "write")
_SIDES: Final = {"": "total", "_rd": "read", "_wr": "write"}
_OCTAVES: Final = range(10, 36, 2)
"""The histograms' bounds: 2^10 ns (1 us) to 2^34 ns (17 s), each four times the last."""

_TURN_NS: Final = 200_000
"""How long text is made before others get a turn; the limiter makes up for 2 ms at most."""

_LONGEST_REQUEST: Final = 8192
_REQUEST_WITHIN_S: Final = 10.0
_MAX_CLIENTS: Final = 16


class _Once(Collector):
    """One metric, as generate_latest() takes it."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return [self._metric]


class MountMetrics:
    """Makes the text of all metrics of a mount."""

    def __init__(self, images: Images, throttle: Throttle, source: str, target: str) -> None:
        self._images = images
        self._throttle = throttle
        info = {"version": __version__, "source": source, "target": target}
        self._info = {name: _printable(value) for name, value in info.items()}

    async def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        known = [image for image in self._images.known() if image.path]
        parts = [_text(InfoMetricFamily("throttlefs_mount", "The mount.", value=self._info))]
        parts.append(_text(self._groups("bytes", RATES[:3])))
        parts.append(_text(self._groups("requests", RATES[3:])))
        turn_ends = monotonic_ns() + _TURN_NS
        for make in _FAMILIES:
            # HELP and TYPE belong before the first sample only.
            header = _text(make([]))
            parts.append(header)
            for image in known:
                parts.append(_text(make([image])).removeprefix(header))
                if monotonic_ns() > turn_ends:
                    await trio.lowlevel.checkpoint()
                    turn_ends = monotonic_ns() + _TURN_NS
        return b"".join(parts)

    def _groups(self, unit: str, rates: Sequence[str]) -> Metric:
        family = GaugeMetricFamily(
            f"throttlefs_group_limit_{unit}_per_second",
            f"Limit that the images of a group share, {unit} a second; absent if there is none.",
            labels=("group", "operation"),
        )
        for group in self._throttle.groups():
            for rate in rates:
                value = getattr(group.meter.limits, rate)
                if value:
                    family.add_metric((_printable(group.name), _side(rate)), value)
        return family


def _printable(name: str) -> str:
    return name.encode("utf-8", "replace").decode("utf-8")


def _side(rate: str) -> str:
    return _SIDES[rate.removeprefix("bps").removeprefix("iops")]


def _text(metric: Metric) -> bytes:
    return generate_latest(_Once(metric))


Make = Callable[[Sequence[KnownImage]], Metric]
"""Makes a metric with the samples of some images."""

_NOTHING: Final = ImageStatistics((0, 0), b"")


def _directions(
    images: Sequence[KnownImage],
) -> Iterator[tuple[KnownImage, tuple[str, str], int, DirectionStatistics]]:
    for known in images:
        statistics = known.statistics or _NOTHING
        for direction, figures in ((READ, statistics.read), (WRITE, statistics.write)):
            yield known, (known.device, _OPERATIONS[direction]), direction, figures


_LABELS: Final = ("image", "operation")


def _counter(name: str, text: str, value: Callable[[DirectionStatistics], float]) -> Make:
    def make(images: Sequence[KnownImage]) -> Metric:
        family = CounterMetricFamily(name, text, labels=_LABELS)
        for _, labels, _, figures in _directions(images):
            family.add_metric(labels, value(figures))
        return family

    return make


def _gauge(name: str, text: str, value: Callable[[KnownImage, int], float]) -> Make:
    def make(images: Sequence[KnownImage]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=_LABELS)
        for known, labels, direction, _ in _directions(images):
            family.add_metric(labels, value(known, direction))
        return family

    return make


def _histogram(
    name: str,
    text: str,
    buckets: Callable[[DirectionStatistics], list[int]],
    total_ns: Callable[[DirectionStatistics], int],
) -> Make:
    def make(images: Sequence[KnownImage]) -> Metric:
        family = HistogramMetricFamily(name, text, labels=_LABELS)
        for _, labels, _, figures in _directions(images):
            counts = buckets(figures)
            bounds: list[tuple[str, float]] = []
            for octave in _OCTAVES:
                below = sum(counts[: octave * BUCKETS_PER_OCTAVE + 1])
                bounds.append((repr(2**octave / 1e9), below))
            bounds.append(("+Inf", sum(counts)))
            family.add_metric(labels, bounds, sum_value=total_ns(figures) / 1e9)
        return family

    return make


def _limit(unit: str, rates: Sequence[str]) -> Make:
    def make(images: Sequence[KnownImage]) -> Metric:
        family = GaugeMetricFamily(
            f"throttlefs_limit_{unit}_per_second",
            f"Limit of the image's own, {unit} a second; absent if there is none.",
            labels=_LABELS,
        )
        for known in images:
            for rate in rates:
                value = getattr(known.image.meter.limits, rate) if known.image else 0
                if value:
                    family.add_metric((known.device, _side(rate)), value)
        return family

    return make


def _waiting(known: KnownImage, direction: int) -> int:
    return known.image.waiting[direction] if known.image else 0


def _waiting_most(known: KnownImage, direction: int) -> int:
    statistics = known.statistics or _NOTHING
    figures = statistics.read if direction == READ else statistics.write
    return max(figures.waiting_most, _waiting(known, direction))


_FAMILIES: Final[tuple[Make, ...]] = (
    _counter("throttlefs_requests", "Requests that succeeded.", lambda d: d.requests),
    _counter("throttlefs_transferred_bytes", "Bytes read or written.", lambda d: d.bytes),
    _counter("throttlefs_errors", "Requests that failed.", lambda d: d.errors),
    _counter(
        "throttlefs_delayed_requests", "Requests that had to wait for a limit.", lambda d: d.delayed
    ),
    _histogram(
        "throttlefs_wait_seconds",
        "Time that requests waited for a limit, 0 for most.",
        lambda d: d.wait,
        lambda d: d.wait_ns,
    ),
    _histogram(
        "throttlefs_service_seconds",
        "Time that requests took in the file behind.",
        lambda d: d.service,
        lambda d: d.service_ns,
    ),
    _gauge("throttlefs_waiting_requests", "Requests waiting for a limit now.", _waiting),
    _gauge(
        "throttlefs_waiting_requests_max",
        "Requests that waited for a limit at most at a time.",
        _waiting_most,
    ),
    _limit("bytes", RATES[:3]),
    _limit("requests", RATES[3:]),
)


class MetricsServer:
    """Answers ``GET /metrics`` at *address*, HOST:PORT.

    Raises `ThrottlefsError` if it cannot listen there.
    """

    def __init__(self, address: str) -> None:
        host, port = split_address(address)
        self._listeners: list[socket.socket] = []
        self._clients = 0
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
                listener.listen()
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

    async def run(self, make_text: Callable[[], Awaitable[bytes]]) -> None:
        """Answer with what *make_text* gives, until cancelled."""
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                sock = trio.socket.from_stdlib_socket(listener)
                nursery.start_soon(self._accept, trio.SocketListener(sock), make_text, nursery)

    async def _accept(
        self,
        listener: trio.SocketListener,
        make_text: Callable[[], Awaitable[bytes]],
        nursery: trio.Nursery,
    ) -> None:
        while True:
            try:
                stream = await listener.accept()
            except OSError as exc:
                log.warning("cannot accept a client of the metrics: %s", exc.strerror)
                await trio.sleep(0.1)
                continue
            if self._clients >= _MAX_CLIENTS:
                await trio.aclose_forcefully(stream)
            else:
                self._clients += 1
                nursery.start_soon(self._serve, stream, make_text)

    async def _serve(
        self, stream: trio.SocketStream, make_text: Callable[[], Awaitable[bytes]]
    ) -> None:
        try:
            with trio.move_on_after(_REQUEST_WITHIN_S):
                await stream.send_all(await _answer(stream, make_text))
        except (trio.BrokenResourceError, OSError):
            pass  # it has gone
        except Exception:
            log.error("internal error in the metrics; the client is dropped", exc_info=True)
        finally:
            self._clients -= 1
            await trio.aclose_forcefully(stream)


async def _answer(stream: trio.SocketStream, make_text: Callable[[], Awaitable[bytes]]) -> bytes:
    """Read a request and make its answer, HTTP/1.1 with one request a connection."""
    request = b""
    while b"\r\n\r\n" not in request and b"\n\n" not in request:
        piece = await stream.receive_some(_LONGEST_REQUEST)
        request += piece
        if not piece or len(request) > _LONGEST_REQUEST:
            return _response("400 Bad Request", b"bad request\n")
    method, _, rest = request.partition(b"\r\n")[0].partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        return _response("405 Method Not Allowed", b"GET only\n", b"Allow: GET, HEAD\r\n")
    if path not in (b"/metrics", b"/"):
        return _response("404 Not Found", b"the metrics are at /metrics\n")
    body = await make_text()
    answer = _response("200 OK", body, content_type=CONTENT_TYPE_LATEST)
    return answer if method == b"GET" else answer[: -len(body)]


def _response(
    status: str, body: bytes, more: bytes = b"", content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    return head.encode() + more + b"\r\n" + body
