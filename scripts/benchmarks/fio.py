"""fio as the load: job files, running it, reading what it says."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.completions import Completion
from benchmarks.errors import BenchmarkError
from benchmarks.processes import Processes, wait

OVERHEAD = 0.7
"""Seconds that starting fio and reading its report take beside the run itself (an estimate)."""


@dataclass(frozen=True)
class Job:
    """One fio job: one client of one file (or of several, taken in turn)."""

    file: Path | Sequence[Path]
    rw: str
    """fio's name: read, randread, write, randwrite, randrw …"""
    block: str = "4k"
    """fio's bs, or with a "/" its bssplit."""
    depth: int = 1
    size: int | None = None
    """Bytes of the file to work in; None for the whole of it."""
    direct: bool = True
    engine: str | None = None
    """fio's ioengine; None: psync at depth 1, else libaio."""
    repeat: bool = True
    """Go on until the time is up; else end, at the latest then, when all was done once."""
    extra: dict[str, Any] = field(default_factory=dict)

    def section(self, name: str, seconds: float) -> str:
        """Return the job as a section of a job file."""
        files = [self.file] if isinstance(self.file, Path) else list(self.file)
        options: dict[str, Any] = {
            "filename": ":".join(str(path).replace(":", r"\:") for path in files),
            "rw": self.rw,
            "bssplit" if "/" in self.block else "bs": self.block,
            "iodepth": self.depth,
            "ioengine": self.engine or ("psync" if self.depth == 1 else "libaio"),
            "direct": int(self.direct),
            "runtime": f"{round(seconds * 1000)}ms",
            **({"time_based": 1, "norandommap": 1} if self.repeat else {}),
            **({"size": self.size} if self.size else {}),
            **self.extra,
        }
        return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


GLOBAL = {
    "thread": 1,
    # The page cache of the image is the benchmark's business, not fio's.
    "invalidate": 0,
    "fallocate": "none",
    "allow_file_create": 0,
    "randrepeat": 1,
    "unlink": 0,
}

LOGGING = {
    "per_job_logs": 1,
    "log_unix_epoch": 1,
    "disable_slat": 1,
    "disable_clat": 1,
}
"""One line per request: when it completed (ms), its latency (ns), direction and size; fio(1)."""


def job_file(jobs: Sequence[Job], seconds: float, log: Path | None) -> str:
    """Return a whole job file; the jobs run at once and log to ``log``_lat.NUMBER.log."""
    options = {**GLOBAL, **({"write_lat_log": log, **LOGGING} if log else {})}
    head = "[global]\n" + "".join(f"{key}={value}\n" for key, value in options.items())
    return head + "".join(job.section(f"job{n}", seconds) for n, job in enumerate(jobs, start=1))


@dataclass(frozen=True, slots=True)
class Logged:
    """One line of fio's latency log."""

    completion: Completion
    latency: int
    """ns from fio's handing it over to its completion."""


def parse_log(text: str, offset: int = 0) -> list[Logged]:
    """Parse a latency log; ``offset`` (ns) is added to its times, which are whole ms."""
    entries = []
    for line in text.splitlines():
        time_ms, latency, direction, size = line.split(",")[:4]
        moment = int(time_ms) * 1_000_000 + offset
        # 0 and 1 are reads and writes, 2 are trims.
        completion = Completion(moment, int(direction) == 1, int(size))
        entries.append(Logged(completion, int(latency)))
    return entries


@dataclass(frozen=True, slots=True)
class Summary:
    """What fio reports of one job, reads and writes together."""

    requests: int
    seconds: float
    bytes: int

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds if self.seconds else 0.0


def parse_summaries(text: str) -> list[Summary]:
    """Parse fio's JSON report, job by job. Raises BenchmarkError with fio's words on an error."""
    start = text.find("{")
    # Warnings and errors stand before the report.
    said = text[: max(0, start)].strip() if start >= 0 else text.strip()
    try:
        report = json.loads(text[start:]) if start >= 0 else None
    except ValueError:
        report = None
    if not report or not report.get("jobs"):
        raise BenchmarkError(f"fio: {said.splitlines()[-1] if said else 'no report'}")
    summaries = []
    for job in report["jobs"]:
        if job["error"]:
            reason = (
                said.splitlines()[-1].removeprefix("fio: ") if said else f"errno {job['error']}"
            )
            raise BenchmarkError(f"fio: {reason}")
        read, write = job["read"], job["write"]
        summaries.append(
            Summary(
                requests=read["total_ios"] + write["total_ios"],
                seconds=max(read["runtime"], write["runtime"]) / 1000,
                bytes=read["io_bytes"] + write["io_bytes"],
            )
        )
    return summaries


class Fio:
    """One fio process and the directory of its files."""

    def __init__(
        self,
        processes: Processes,
        directory: Path,
        jobs: Sequence[Job],
        seconds: float,
        logged: bool = False,
    ) -> None:
        self.seconds = seconds
        self._processes = processes
        self._directory = directory
        self._jobs = len(jobs)
        directory.mkdir()
        (directory / "load.fio").write_text(
            job_file(jobs, seconds, directory / "io" if logged else None)
        )
        with (directory / "report").open("wb") as report:
            self._child = processes.start(
                ["fio", "--output-format=json", "--eta=never", directory / "load.fio"],
                report,
            )

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for fio to end, by default a little longer than it should run."""
        return wait(self._child, self.seconds + 30 if seconds is None else seconds)

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def stop(self, grace: float = 10) -> None:
        """Let fio submit nothing more and write its report when what it has out is answered."""
        self._processes.end(self._child, grace)

    def interrupt(self) -> None:
        """As stop, but do not wait."""
        if self.running:
            self._child.terminate()

    def summaries(self) -> list[Summary]:
        """Return the report's figures, job by job. Raises BenchmarkError if fio failed."""
        if self.running:
            self.stop()
            raise BenchmarkError(f"fio did not end within {self.seconds + 30:.0f} s")
        text = (self._directory / "report").read_text(errors="replace")
        return parse_summaries(text)

    def percentiles(self, kind: str) -> dict[float, int]:
        """Return the percentiles (ns) of the first job's latency; ``kind``: read, write or sync.

        Which ones the job says, by percentile_list. Raises BenchmarkError if fio failed.
        """
        self.summaries()
        text = (self._directory / "report").read_text(errors="replace")
        job = json.loads(text[text.index("{") :])["jobs"][0]
        found = job[kind]["lat_ns" if kind == "sync" else "clat_ns"].get("percentile", {})
        return {float(percent): ns for percent, ns in found.items()}

    def logs(self) -> list[list[Logged]]:
        """Return the latency logs, job by job, on CLOCK_MONOTONIC; none is a request of its own.

        A job that completed nothing has an empty list. Raises BenchmarkError without any log.
        """
        offset = time.monotonic_ns() - time.time_ns()
        logs = []
        found = False
        for number in range(1, self._jobs + 1):
            path = self._directory / f"io_lat.{number}.log"
            found = found or path.exists()
            logs.append(parse_log(path.read_text(), offset) if path.exists() else [])
        if not found:
            parse_summaries((self._directory / "report").read_text(errors="replace"))
            raise BenchmarkError("fio wrote no log")
        return logs


def version() -> str:
    """Return fio's version. Raises BenchmarkError if it is missing."""
    try:
        done = subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        raise BenchmarkError("fio is not installed: apt-get install fio") from None
    return done.stdout.strip()
