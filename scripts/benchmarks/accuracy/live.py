"""How soon a change of the limits takes effect on what is already waiting."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from rich.console import RenderableType

from benchmarks import formats
from benchmarks.accuracy.grid import IMAGE_MIB, STARTING
from benchmarks.bench import LEAD, Bench
from benchmarks.completions import Completion
from benchmarks.errors import NotMeasurableError
from benchmarks.fio import Job
from benchmarks.measures import median
from benchmarks.peers import Image, Served, Setup, is_throttlefs
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn, of

MIB = 1024 * 1024
SLOW, FAST = 2 * MIB, 100 * MIB
BLOCK = 64 * 1024
INTERVAL = 0.4
"""Seconds between two changes."""
WINDOW = 0.2
"""Seconds after a change in which its effect is looked for."""


def delay_of_change(
    completions: Sequence[Completion], moment: int, window: float, old: float, new: float
) -> float:
    """Return after how many seconds the rate went from ``old`` to ``new`` (bytes/s).

    As if it had jumped once: the bytes of the window after ``moment`` (ns) are then
    old x delay + new x (window - delay). What one request more or less makes of that is its size
    / (old - new). Never below 0.
    """
    end = moment + round(window * 1e9)
    amount = sum(completion.size for completion in completions if moment < completion.time <= end)
    return max(0.0, (amount - new * window) / (old - new))


def measure(bench: Bench, peer: str, seconds: float) -> Figures:
    """Change the limits back and forth under load; return the delays (s) of either direction."""
    path = bench.image("image", IMAGE_MIB)
    setups = {rate: Setup([Image(path, {"bps": rate})], live=True) for rate in (SLOW, FAST)}
    changes: list[tuple[int, int, int]] = []

    def change(served: Served) -> None:
        if served.reload is None:
            raise NotMeasurableError("its limits cannot be changed here")
        end = time.monotonic() + seconds
        old, new = SLOW, FAST
        time.sleep(2 * INTERVAL)
        while time.monotonic() < end - INTERVAL:
            changes.append((time.monotonic_ns(), old, new))
            served.reload(setups[new])
            old, new = new, old
            time.sleep(INTERVAL)

    recording = bench.record(
        peer,
        setups[SLOW],
        lambda served: [Job(served.file, "randread", "64k", 16)],
        seconds,
        during=change,
    )
    delays = {
        rate: [
            delay_of_change(recording.completions, moment, WINDOW, old, new)
            for moment, old, new in changes
            if new == rate
        ]
        for rate in (FAST, SLOW)
    }
    return {"raised": delays[FAST], "lowered": delays[SLOW]}


class Live(Section):
    name = "live"
    title = "A live change takes effect after"

    def __init__(self, peers: Sequence[str], seconds: float, rounds: int) -> None:
        self._peers = list(filter(is_throttlefs, peers))
        self._rounds = rounds
        self._seconds = max(seconds, 4.0)
        self.method = (
            f"bps goes from 2M to 100M and back every {INTERVAL:g} s with 16 reads of 64 KiB "
            f"waiting: the configuration file is replaced and the daemon sent SIGHUP. From just "
            f"before that: the delay of a jump from one rate to the other that explains the "
            f"bytes of the next {WINDOW * 1000:g} ms (one request is 0.6 ms). Answers: {{clock}}."
        )

    def steps(self) -> Iterable[Step]:
        return in_turn(
            self.name,
            "change",
            self._peers,
            self._rounds,
            self._seconds + LEAD + STARTING,
            partial(measure, seconds=self._seconds),
        )

    def rows(self, result: Result) -> Iterable[Row]:
        for what in ("raised", "lowered"):
            # Less than a few requests' time cannot be told apart.
            yield Row(f"{what}, ms", max(2.0, 1e3 * median(result[what])))

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        table = formats.table(self.title, "change", "peer", "median", "worst", "changes")
        for result in of(results):
            for what in ("raised", "lowered"):
                delays = [delay * 1e9 for delay in result[what]]
                table.add_row(
                    what,
                    result.peer,
                    formats.micros(median(delays)),
                    formats.micros(max(delays, default=float("nan"))),
                    str(len(delays)),
                )
        if table.row_count:
            yield table
