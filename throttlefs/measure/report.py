"""Reads fio's JSON report, and makes the settings of a profile from it. Pure.

fio(1) reports the latency of completion of each direction (``clat_ns``) and of fsync (``sync``)
by percentiles, and requests and bytes a second. From those:

- ``latency_rd`` and ``latency_wr`` are the percentiles of the requests of the least depth, where
  none waits for another, and of the smallest size;
- ``queue_depth`` is how many times as many requests a second the greatest depth brought as a depth
  of one: Little's law (a device that works on N at once answers N / latency a second);
- ``iops_rd`` or ``iops_wr`` is a limit where a direction brings less than these places would;
- ``bps_rd`` and ``bps_wr`` come from requests of 128 KiB and more.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.units import UnitError, format_duration, parse_bytes, quoted

PERCENTILES: Final = ("50.000000", "99.000000", "99.900000")
"""fio's names of the percentiles that a latency has."""

LARGE_BLOCK: Final = 128 << 10
"""Bytes; requests of this size measure bytes a second, smaller ones latency."""

_ENOUGH: Final = 0.9
"""A direction that reaches this share of what the places allow needs no limit of its own."""


class ReportError(ThrottlefsError):
    """A report of fio's from which no profile can be made; one line with the cure."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one job did in one direction."""

    direction: str
    """``rd`` or ``wr``."""
    block: int
    """Bytes of a request."""
    depth: int
    """Requests under way at once."""
    latency: tuple[int, ...]
    """The percentiles of `PERCENTILES` in ns; the later ones may be missing."""
    per_second: float
    """Requests."""
    bytes_per_second: float
    flushed: bool
    """Whether an fsync followed each write."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says."""

    version: str
    """fio's."""
    date: str
    """The day on which it was made, as 2026-11-25."""
    runs: tuple[Run, ...]
    flushes: tuple[int, ...] = ()
    """The percentiles of fsync in ns; () if there was none."""

    @property
    def directions(self) -> list[str]:
        """Those of ``rd`` and ``wr`` that were measured."""
        return [name for name in ("rd", "wr") if any(run.direction == name for run in self.runs)]


def read_report(text: str) -> Report:
    """The report in *text*, which is what fio printed with ``--output-format=json``.

    Raises `ReportError` with fio's own words if a job failed.
    """
    # Warnings, and the eta, may stand before it.
    start = text.find("{")
    said = text[: max(start, 0)].strip()
    try:
        found = json.loads(text[start:]) if start >= 0 else None
    except (ValueError, RecursionError):
        found = None
    report: dict[str, Any] = found if isinstance(found, dict) else {}
    jobs = report.get("jobs")
    if not isinstance(jobs, list) or not jobs:
        reason = f": {said.splitlines()[-1]}" if said else ""
        raise ReportError(
            f"this is no report of fio's in JSON{reason}; make one with fio --output-format=json"
        )
    shared = report.get("global options")
    try:
        runs = [run for job in jobs for run in _runs(job, shared or {}, said)]
        flushes = max((_flushes(job) for job in jobs), key=len, default=())
        day = datetime.datetime.fromtimestamp(int(report["timestamp"]), datetime.UTC)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
        what = f"{type(error).__name__} {error}"
        raise ReportError(
            f"this is no report of fio's as fio 3 writes it: {quoted(what)}"
        ) from None
    if not runs:
        raise ReportError("the report has no reads or writes with percentiles of their latency")
    version = str(report.get("fio version", "fio"))
    return Report(version, day.date().isoformat(), tuple(runs), flushes)


def _runs(job: Mapping[str, Any], shared: Mapping[str, Any], said: str) -> Iterable[Run]:
    if job["error"]:
        reason = said.splitlines()[-1].removeprefix("fio: ") if said else f"errno {job['error']}"
        raise ReportError(f"fio: {reason}")
    options = {**shared, **job.get("job options", {})}
    depth = int(options.get("iodepth", 1)) * int(options.get("numjobs", 1))
    for direction, key in (("rd", "read"), ("wr", "write")):
        side = job[key]
        latency = _latency(side)
        if side["total_ios"] and latency:
            yield Run(
                direction,
                _block(options, key, side),
                depth,
                latency,
                float(side["iops"]),
                float(side["bw_bytes"]),
                bool(job["sync"]["total_ios"]) and direction == "wr",
            )


def _block(options: Mapping[str, Any], key: str, side: Mapping[str, Any]) -> int:
    """The size of a request: what the job says ("4k", or "4k,64k" for reads and writes)."""
    said = str(options.get("bs", options.get("blocksize", ""))).split(",")
    text = said[-1 if key == "write" else 0].strip().lower()
    try:
        return parse_bytes(text.removesuffix("b").removesuffix("i"))
    except UnitError:  # not said, or a range: an average one
        return round(int(side["io_bytes"]) / int(side["total_ios"]))


def _latency(side: Mapping[str, Any]) -> tuple[int, ...]:
    """The percentiles of ``clat_ns``, or of ``lat_ns`` if fio was told to take these."""
    for name in ("clat_ns", "lat_ns"):
        found = _percentiles(side.get(name, {}).get("percentile", {}))
        if found:
            return found
    return ()


def _flushes(job: Mapping[str, Any]) -> tuple[int, ...]:
    sync = job["sync"]
    if not sync["total_ios"]:
        return ()
    return _percentiles(sync["lat_ns"].get("percentile", {}))


def _percentiles(found: Mapping[str, Any]) -> tuple[int, ...]:
    known: list[int] = []
    for name in PERCENTILES:
        if name not in found:
            break
        known.append(max(int(found[name]), *known[-1:], 1))
    return tuple(known)


def settings_of(report: Report) -> dict[str, str | int]:
    """The settings of the profile that *report* makes, by canonical name.

    Raises `ReportError` if there are no requests small enough to tell the latency.
    """
    small = [run for run in report.runs if run.block < LARGE_BLOCK]
    if not small:
        raise ReportError(
            "all jobs have requests of 128 KiB and more, which tell the rate and not the latency:"
            " add one with bs=4k and iodepth=1"
        )
    settings: dict[str, str | int] = {}
    for direction in ("rd", "wr"):
        plain = _plain([run for run in small if run.direction == direction])
        if plain:
            settings[f"latency_{direction}"] = _latency_text(min(plain, key=_by_depth).latency)
    if report.flushes:
        settings["latency_flush"] = _latency_text(report.flushes)
    settings.update(_places(small))
    for direction in ("rd", "wr"):
        large = [r for r in report.runs if r.direction == direction and r.block >= LARGE_BLOCK]
        if large:
            settings[f"bps_{direction}"] = _rounded(max(run.bytes_per_second for run in large))
    return settings


def _by_depth(run: Run) -> tuple[int, int]:
    return run.depth, run.block


def _plain(runs: list[Run]) -> list[Run]:
    """Those of *runs* that no fsync slows down; all if there are no such."""
    return [run for run in runs if not run.flushed] or runs


def _places(small: list[Run]) -> dict[str, str | int]:
    """``queue_depth``, and a limit for a direction that brings less than so many places."""
    single: dict[str, float] = {}
    deepest: dict[str, Run] = {}
    for direction in ("rd", "wr"):
        runs = sorted(_plain([run for run in small if run.direction == direction]), key=_by_depth)
        if len(runs) > 1 and runs[-1].depth > runs[0].depth == 1 and runs[0].per_second > 0:
            single[direction], deepest[direction] = runs[0].per_second, runs[-1]
    if not deepest:
        return {}
    places = {
        direction: min(max(1, round(run.per_second / single[direction])), run.depth)
        for direction, run in deepest.items()
    }
    most = max(places.values())
    settings: dict[str, str | int] = {"queue_depth": most}
    for direction, run in deepest.items():
        if run.per_second < _ENOUGH * most * single[direction]:
            settings[f"iops_{direction}"] = _rounded(run.per_second)
    return settings


def _latency_text(latency: Iterable[int]) -> str:
    return "/".join(format_duration(_rounded(time)) for time in latency)


def _rounded(value: float) -> int:
    """*value* with three digits: fio's own percentiles are exact to 1 % or 2."""
    whole = max(1, round(value))
    step: int = 10 ** max(0, len(str(whole)) - 3)
    return (whole + step // 2) // step * step
