"""What a disk says of itself: its counters, and what a change has changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_NS = 1e9


@dataclass(frozen=True, slots=True)
class Quantiles:
    """How long requests took, in seconds; None if there was none.

    Half of them took at most `p50`, 99 % at most `p99`. They are exact to 19 %.
    """

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None


@dataclass(frozen=True, slots=True)
class RequestStats:
    """The reads or the writes of an image since it was mounted."""

    requests: int
    """Requests that succeeded."""
    bytes: int
    """Bytes that they moved."""
    errors: int
    """Requests that failed."""
    delayed: int
    """Requests that had to wait for a limit."""
    waiting: int
    """Requests that wait now."""
    waiting_most: int
    """The most that ever waited at once."""
    wait_s: float
    """Seconds that requests waited for limits, in all."""
    service_s: float
    """Seconds that requests took after that, in all."""
    wait: Quantiles
    """The wait of each request for its limits; 0 for most."""
    service: Quantiles
    """The time of each request after that, in the disk behind the limits."""

    @property
    def p50(self) -> float | None:
        """`service.p50`."""
        return self.service.p50

    @property
    def p90(self) -> float | None:
        """`service.p90`."""
        return self.service.p90

    @property
    def p99(self) -> float | None:
        """`service.p99`."""
        return self.service.p99

    @property
    def p99_9(self) -> float | None:
        """`service.p99_9`."""
        return self.service.p99_9


@dataclass(frozen=True, slots=True)
class ImageStats:
    """What was asked of one image since it was mounted."""

    name: str
    """Its path in the mount."""
    handles: int
    """How often it is open."""
    limits: Mapping[str, float]
    """Its own limits that are not 0, by name, in bytes or requests a second; empty if not open."""
    group: str | None
    """The group that it is in."""
    read: RequestStats
    write: RequestStats
    flushes: int
    """How often it was flushed (fsync)."""
    flush_s: float
    """Seconds that this took, in all."""
    raw: Mapping[str, Any] = field(repr=False)
    """The answer of ``x-throttlefs-query-stats``, with what has no name here."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a change has changed for an image, a group or the default."""

    kind: str
    """``image``, ``group`` or ``default``."""
    name: str
    """The path of the image or the name of the group; empty for the default."""
    before: Mapping[str, float | str]
    after: Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class LostFile:
    """What a power cut has lost of one file."""

    file: str
    """Its path in the mount before the cut."""
    lost_bytes: int
    """Bytes of the sectors that are not as they were last."""
    size: int
    """Bytes before the cut."""
    size_after: int
    """Bytes after it."""


@dataclass(frozen=True, slots=True)
class PowerCut:
    """What a power cut has lost, or, as a dry run, would lose."""

    seed: int
    """With the same one, after the same requests, the same is lost."""
    dry_run: bool
    lost_bytes: int
    """Of all files."""
    undone_changes: int
    """Changes of names, sizes and attributes that were undone."""
    files: tuple[LostFile, ...]
    names: tuple[str, ...]
    """The names that were undone, in words: ``create db/y``, ``rename a -> b``."""
    not_rolled_back: tuple[str, ...]
    """What the cut could not undo, because it was changed in SRC behind the mount."""


def power_cut(report: Mapping[str, Any]) -> PowerCut:
    """A power cut from the daemon's *report*."""
    return PowerCut(
        seed=report["seed"],
        dry_run=report["dry-run"],
        lost_bytes=report["lost-bytes"],
        undone_changes=report["undone-changes"],
        files=tuple(
            LostFile(one["file"], one["lost-bytes"], one["size"], one["size-after"])
            for one in report["files"]
        ),
        names=tuple(report["names"]),
        not_rolled_back=tuple(report["not-rolled-back"]),
    )


def image_stats(answer: Mapping[str, Any]) -> ImageStats:
    """The figures of an image from the daemon's *answer*."""
    return ImageStats(
        name=answer["device"],
        handles=answer["handles"],
        limits=answer["limits"],
        group=answer["group"],
        read=_requests(answer["read"]),
        write=_requests(answer["write"]),
        flushes=answer["flushes"],
        flush_s=answer["flush-ns"] / _NS,
        raw=answer,
    )


def _requests(answer: Mapping[str, Any]) -> RequestStats:
    return RequestStats(
        requests=answer["requests"],
        bytes=answer["bytes"],
        errors=answer["errors"],
        delayed=answer["delayed"],
        waiting=answer["waiting"],
        waiting_most=answer["waiting-most"],
        wait_s=answer["wait-ns"] / _NS,
        service_s=answer["service-ns"] / _NS,
        wait=_quantiles(answer["wait"]),
        service=_quantiles(answer["service"]),
    )


def _quantiles(answer: Mapping[str, float | None]) -> Quantiles:
    def seconds(name: str) -> float | None:
        value = answer[name]
        return None if value is None else value / _NS

    return Quantiles(seconds("p50"), seconds("p90"), seconds("p99"), seconds("p99.9"))


def change(answer: Mapping[str, Any]) -> Change:
    """A change from the daemon's *answer*."""
    return Change(answer["kind"], answer["name"], answer["before"], answer["after"])
