"""The workbench: everything a measurement needs, opened once and closed for certain."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import probe
from benchmarks.completions import Completion, span
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.fio import Fio, Job
from benchmarks.peers import Peer, Served, Setup
from benchmarks.processes import Interrupts, Processes, cpu_wait_seconds, wait
from benchmarks.results import peer_of
from benchmarks.scratch import MIB, Scratch, warm_up
from benchmarks.trace import Tracer

LEAD = 0.3
"""Seconds a load runs on after the stretch that is judged, so that it is busy to its end."""


@dataclass(frozen=True)
class Recording:
    """What a mount answered, and whether its daemon could do as it wished."""

    completions: Sequence[Completion]
    """In order of time."""
    cpu_wait: float
    """Part of the time in which the daemon was ready to run, but had no CPU; NaN: not known."""


def _cpu_wait(served: Served) -> float:
    """Return how long the daemon was ready to run, but had no CPU; NaN if there is none."""
    return cpu_wait_seconds(served.pid) if served.pid else math.nan


class Probe:
    """A probe under way."""

    def __init__(self, child: subprocess.Popen[bytes], output: Path) -> None:
        self._child = child
        self._output = output

    def result(self, seconds: float) -> dict[str, Any]:
        """Wait so long at most and return what it found. Raises BenchmarkError if it failed."""
        if not wait(self._child, seconds):
            raise BenchmarkError(f"a client was not answered within {seconds:.0f} s")
        said = self._output.read_text(errors="replace").strip().splitlines()
        if self._child.returncode or not said:
            raise BenchmarkError(f"a client failed: {said[-1] if said else self._child.returncode}")
        found: dict[str, Any] = json.loads(said[-1])
        return found


class Bench:
    """Scratch directory, children, trace; a context manager that leaves nothing behind."""

    def __init__(self, parent: Path, peers: Mapping[str, Peer]) -> None:
        self.peers = peers
        self.interrupts = Interrupts()
        self.processes = Processes(self.interrupts)
        self.scratch = Scratch(parent)
        self.tracer = Tracer()
        self._numbers = itertools.count(1)
        self._stack = ExitStack()

    def __enter__(self) -> Bench:
        try:
            with self.interrupts.held():
                self._stack.enter_context(self.scratch)
                self._stack.enter_context(self.tracer)
                self._stack.callback(self.processes.end_all)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self.interrupts.held():
            self._stack.close()

    def image(self, name: str, mebibytes: int, chunk: int = 4 * MIB) -> Path:
        """Return an image of the scratch directory: filled with data, clean and in memory.

        So no measurement pays for what an earlier one wrote, or what another program evicted.
        ``chunk`` are the bytes of a request that it is written with (see Scratch.image).
        """
        path = self.scratch.image(name, mebibytes * MIB, chunk)
        warm_up(path)
        return path

    @contextmanager
    def serve(self, way: str, setup: Setup) -> Iterator[Served]:
        """Have the peer of a way serve images for the length of the block."""
        with self.peers[peer_of(way)].serve(self.processes, self.scratch, setup) as served:
            yield served

    @contextmanager
    def load(self, jobs: Sequence[Job], seconds: float, logged: bool = False) -> Iterator[Fio]:
        """Run fio beside the block; at its end fio is told to stop, but not waited for.

        What it still waits for may be throttled: the end of the mount lets it go.
        """
        directory = self.scratch.root / f"fio{next(self._numbers)}"
        fio = Fio(self.processes, directory, jobs, seconds, logged)
        try:
            yield fio
        finally:
            fio.interrupt()

    @contextmanager
    def probe(self, name: str, *arguments: object) -> Iterator[Probe]:
        """Run a function of :mod:`benchmarks.probe` beside the block; it is ended with it."""
        with self.client([sys.executable, probe.__file__, name, *map(str, arguments)]) as client:
            yield client

    @contextmanager
    def client(self, command: Sequence[str | Path]) -> Iterator[Probe]:
        """Run a command that prints a line of JSON beside the block; it is ended with it."""
        output = self.scratch.root / f"probe{next(self._numbers)}"
        with output.open("wb") as file:
            child = self.processes.start(command, file)
        try:
            yield Probe(child, output)
        finally:
            self.processes.end(child, grace=0.1)

    def record(
        self,
        peer: str,
        setup: Setup,
        jobs: Callable[[Served], Sequence[Job]],
        seconds: float,
        during: Callable[[Served], None] | None = None,
    ) -> Recording:
        """Load a mount made for the purpose; return what was answered in ``seconds``.

        They count from the first answer; ``during`` is called once fio was started.
        The answers are the kernel's (fuse tracepoints) or, where it cannot be asked, fio's.
        """
        traced: list[Completion] | None = None
        with self.serve(peer, setup) as served:
            # What is no FUSE mount has no tracepoints of FUSE: fio's log says when.
            is_traced = self.tracer.works and bool(served.connections)
            if is_traced:
                self.tracer.start(served.connections)
            waited, begun = _cpu_wait(served), time.monotonic()
            with self.load(jobs(served), seconds + LEAD, logged=not is_traced) as fio:
                if during:
                    during(served)
                ended = fio.wait(seconds + LEAD + 1)
                waited = _cpu_wait(served) - waited
                lasted = time.monotonic() - begun
                if is_traced:
                    traced = self.tracer.stop(served.connections)
                if ended:
                    fio.summaries()
        fio.stop()
        if traced is None:
            traced = [entry.completion for log in fio.logs() for entry in log]
        if not traced:
            raise NotMeasurableError(f"no request was answered within {seconds:g} s")
        return Recording(span(traced, seconds), waited / lasted)

    @property
    def clock(self) -> str:
        """Where the times of answers come from, in words."""
        if self.tracer.works:
            return "when the kernel got each answer (fuse tracepoints, us)"
        return "when fio saw each completion (its log, ms; as root the kernel's tracepoints serve)"
