"""Counters and histograms of the requests of each image; they are always on.

This module reads no clock and knows nothing of FUSE. Each request costs a call and three additions;
nothing is allocated on the way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Final

BUCKETS_PER_OCTAVE: Final = 4
BUCKET_COUNT: Final = 64 * BUCKETS_PER_OCTAVE + 1
"""Enough for every duration below 2^64 ns, which is 584 years."""

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""The quantiles that are shown, by name."""

_CLOSED_KEPT: Final = 1000
"""How many closed images keep their figures: those that were closed last."""


def bucket_of(duration_ns: int) -> int:
    """The bucket of a duration (ns, below 2^64): 0 for 0, else floor(4 * log2(duration)) + 1.

    The number of bits of the fourth power is the logarithm in quarter octaves, exactly and
    without a float.
    """
    square = duration_ns * duration_ns
    return (square * square).bit_length()


def upper_bound_ns(bucket: int) -> float:
    """The bound (ns) that all durations in *bucket* and in the buckets before it are below."""
    return float(2 ** (bucket / BUCKETS_PER_OCTAVE))


def quantile_ns(histogram: Sequence[int], fraction: float) -> float | None:
    """The duration (ns) that *fraction* (0 to 1) of those counted did not exceed.

    It is linear within a bucket, so it is never more than 19 % off. None if nothing was counted.
    """
    total = sum(histogram)
    if not total:
        return None
    rank = fraction * total
    seen = 0
    last = 0
    for bucket, count in enumerate(histogram):
        if not count:
            continue
        last = bucket
        if seen + count >= rank:
            break
        seen += count
    if last == 0:
        return 0.0
    lower, upper = upper_bound_ns(last - 1), upper_bound_ns(last)
    return lower + (upper - lower) * max(0.0, rank - seen) / histogram[last]


class DirectionStatistics:
    """The reads or the writes of one image.

    Requests that succeeded moved ``bytes`` in ``service_ns``. ``delayed`` requests had to wait in
    the limiter, ``wait_ns`` in all, at most ``waiting_most`` of them at a time. ``errors`` requests
    failed.
    """

    __slots__ = (
        "_services",
        "_waits",
        "bytes",
        "delayed",
        "errors",
        "service_ns",
        "wait_ns",
        "waiting_most",
    )

    def __init__(self) -> None:
        self.bytes = 0
        self.service_ns = 0
        self.errors = 0
        self.delayed = 0
        self.wait_ns = 0
        self.waiting_most = 0
        # Made with the first request and the first wait: most images never need both.
        self._services: list[int] = []
        self._waits: list[int] = []

    def served(self, nbytes: int, service_ns: int) -> None:
        """Count a request that moved *nbytes* in *service_ns*, without its wait in the limiter."""
        self.bytes += nbytes
        self.service_ns += service_ns
        square = service_ns * service_ns  # bucket_of(), without the call
        try:
            self._services[(square * square).bit_length()] += 1
        except IndexError:
            self._services = [0] * BUCKET_COUNT
            self._services[bucket_of(service_ns)] += 1

    def waited(self, wait_ns: int, waiting_most: int) -> None:
        """Count a request that waited *wait_ns*; *waiting_most* is the most that ever waited."""
        if wait_ns <= 0:
            return
        if not self._waits:
            self._waits = [0] * BUCKET_COUNT
        self.delayed += 1
        self.wait_ns += wait_ns
        self._waits[bucket_of(wait_ns)] += 1
        self.waiting_most = max(self.waiting_most, waiting_most)

    @property
    def is_unused(self) -> bool:
        """Whether no request succeeded or failed."""
        return not self._services and not self.errors

    @property
    def service(self) -> list[int]:
        """How long requests took, by `bucket_of`."""
        return list(self._services) or [0] * BUCKET_COUNT

    @property
    def requests(self) -> int:
        """How many requests succeeded."""
        return sum(self._services)

    @property
    def wait(self) -> list[int]:
        """The waits of all requests by `bucket_of`; requests that did not wait are in bucket 0."""
        waits = list(self._waits) or [0] * BUCKET_COUNT
        # At times a request has left the limiter and is not yet served, so this could be negative.
        waits[0] = max(0, self.requests + self.errors - self.delayed)
        return waits


class ImageStatistics:
    """One image's figures. ``path`` is the last one it was opened by, relative to the mount."""

    __slots__ = ("flush_ns", "flushes", "handles", "key", "path", "read", "write")

    def __init__(self, key: Hashable, path: bytes) -> None:
        self.key = key
        self.path = path
        self.handles = 0
        self.read = DirectionStatistics()
        self.write = DirectionStatistics()
        self.flushes = 0
        self.flush_ns = 0

    def had_waited(self, direction: int, wait_ns: int) -> None:
        """Count a read (0) or write (1) that had been waiting for *wait_ns* when it was read."""
        (self.write if direction else self.read).waited(wait_ns, 1)

    def flushed(self, service_ns: int) -> None:
        """Count an fsync that succeeded in *service_ns*."""
        self.flushes += 1
        self.flush_ns += service_ns

    @property
    def used(self) -> bool:
        """Whether anything was counted."""
        read, write = self.read, self.write
        return bool(
            read.bytes or write.bytes or read.errors or write.errors or self.flushes
        ) or any(direction.requests for direction in (read, write))


class Statistics:
    """The figures of all images of a mount: of every open one and of the last ones closed."""

    def __init__(self) -> None:
        self._open: dict[Hashable, ImageStatistics] = {}
        self._closed: dict[Hashable, ImageStatistics] = {}  # the longest closed first

    def opened(self, key: Hashable, path: bytes) -> ImageStatistics:
        """Note one more handle of the image *key*; returns its figures."""
        image = self._open.get(key)
        if image is None:
            image = self._closed.pop(key, None) or ImageStatistics(key, path)
            self._open[key] = image
        image.path = path
        image.handles += 1
        return image

    def closed(self, key: Hashable) -> None:
        """Note one handle less."""
        image = self._open[key]
        image.handles -= 1
        if image.handles:
            return
        del self._open[key]
        if image.used:
            self._closed[key] = image
            if len(self._closed) > _CLOSED_KEPT:
                del self._closed[next(iter(self._closed))]

    def removed(self, key: Hashable) -> None:
        """Forget a file that is gone for good: another file may get its *key*."""
        self._closed.pop(key, None)

    def get(self, key: Hashable) -> ImageStatistics | None:
        """The figures of the image *key*, if there are any."""
        return self._open.get(key) or self._closed.get(key)

    def images(self) -> Iterator[ImageStatistics]:
        """The figures of all images that have any."""
        return iter([*self._open.values(), *self._closed.values()])


def since(now: Sequence[int], before: Sequence[int]) -> list[int]:
    """What was added to a histogram since *before*; an empty *before* has no counts."""
    if not before:
        return list(now)
    return [max(0, late - early) for late, early in zip(now, before, strict=True)]
