"""The processes a benchmark starts: none outlives it, however it ends."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

from benchmarks.errors import BenchmarkError, InterruptedRunError

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into InterruptedRunError and ignores the others.

    The others would break into the cleaning up, which is bounded in time by itself.
    """

    def __init__(self) -> None:
        self.number = 0
        """The signal that came; 0 for none."""
        self._held = 0
        self._pending = False

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Handle the signals while the block runs; restore their handlers afterwards."""
        before = {number: signal.signal(number, self._handle) for number in ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait for the end of the block: nothing in it is torn in two."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._pending and not self._held:
            self._pending = False
            raise InterruptedRunError

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        for ending in ENDING_SIGNALS:
            signal.signal(ending, signal.SIG_IGN)
        self.number = number
        # Not print(): it may be what was interrupted.
        os.write(2, "\nEnding: unmounting, removing the scratch files …\n".encode())
        if self._held:
            self._pending = True
            return
        raise InterruptedRunError


class Processes:
    """All children of one benchmark, so that the end of it can end them."""

    def __init__(self, interrupts: Interrupts) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._interrupts = interrupts

    def start(
        self, command: Sequence[str | Path], output: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a child whose stdout and stderr go to ``output``.

        It gets a session of its own: a Ctrl-C in the terminal is for the benchmark alone, which
        ends its children in the order that leaves no request and no mount behind.
        Raises BenchmarkError if there is no such program.
        """
        # A signal between fork and append would lose a child.
        with self._interrupts.held():
            try:
                child = subprocess.Popen(
                    [os.fspath(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise BenchmarkError(f"{command[0]} is not installed") from None
            self._running.append(child)
        return child

    def end(
        self,
        child: subprocess.Popen[bytes],
        grace: float,
        first: signal.Signals = signal.SIGTERM,
    ) -> bool:
        """End a child: ``first``, after ``grace`` seconds SIGKILL. Return if it ended by itself."""
        if child.poll() is None:
            child.send_signal(first)
        ended = wait(child, grace)
        if not ended:
            child.kill()
            wait(child, 5)
        if child.poll() is not None and child in self._running:
            self._running.remove(child)
        return ended

    def end_all(self) -> None:
        """End whatever still runs, the last started first."""
        for child in reversed(self._running.copy()):
            self.end(child, grace=3)


def wait(child: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a child to end, so many seconds at most; return whether it has."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(max(0.0, seconds))
    return child.poll() is not None


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.01) -> bool:
    """Call ``condition`` until it is true, so many seconds at most; return whether it was."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process, those that have ended included.

    utime and stime of /proc/PID/stat, in clock ticks (10 ms); proc_pid_stat(5).
    """
    # The name in parentheses may hold anything, spaces and parentheses too.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cpu_wait_seconds(pid: int) -> float:
    """Return how long a process's first thread was ready to run, but had no CPU.

    The second field of /proc/PID/schedstat, in ns (kernel, scheduler/sched-stats.rst); NaN if
    the kernel does not count it.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return math.nan


def memory(pid: int, field: str = "VmRSS") -> int:
    """Return memory of a process in bytes: VmRSS (resident now), VmHWM (its peak) or Pss.

    /proc/PID/status, and smaps_rollup for Pss, which shares out what several processes have.
    """
    source = "smaps_rollup" if field == "Pss" else "status"
    for line in Path(f"/proc/{pid}/{source}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise BenchmarkError(f"/proc/{pid}/{source} has no {field}: the process has ended")
