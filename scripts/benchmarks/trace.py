"""When the kernel got each answer: the fuse tracepoints, in a trace instance of one's own.

fio's log says when *fio* noticed that a request was done: in whole ms, and late when fio was
asleep or blocked in io_submit because the mount's background queue (max_background) was full.
The tracepoints fuse_request_send and fuse_request_end (recent kernels) say when the kernel handed
a request over and when the daemon answered it, for every daemon alike, to the us. They need root
and tracefs (kernel, trace/ftrace.rst); without them fio's log has to do.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from benchmarks.completions import Completion
from benchmarks.errors import BenchmarkError

_READ, _WRITE = 15, 16
"""FUSE_READ and FUSE_WRITE; linux/fuse.h."""
_REPLY_HEADER = 16
"""sizeof(struct fuse_out_header)."""
_WRITE_HEADER = 40 + 40
"""sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in)."""
_BUFFER_KIB = 24 * 1024
"""Per CPU: two events of about 50 bytes for each of some 250,000 requests."""

_LINE = re.compile(
    r" (\d+)\.(\d{6}): fuse_request_(send|end): connection (\d+) req (\d+) "
    r"(?:opcode (\d+) \(\w*\) )?len (\d+)(?: error (-?\d+))?"
)


def parse_trace(text: str, connections: Iterable[int]) -> list[Completion]:
    """Return the reads and writes of some connections that were answered without an error."""
    wanted = set(connections)
    under_way: dict[tuple[int, int], tuple[bool, int]] = {}
    completions = []
    for match in _LINE.finditer(text):
        seconds, micros, event, number, unique, opcode, length, error = match.groups()
        connection = int(number)
        if connection not in wanted:
            continue
        key = (connection, int(unique))
        if event == "send":
            if int(opcode) in (_READ, _WRITE):
                under_way[key] = int(opcode) == _WRITE, int(length) - _WRITE_HEADER
            continue
        sent = under_way.pop(key, None)
        if sent is None or int(error) != 0:
            continue
        write, size = sent
        if not write:
            size = int(length) - _REPLY_HEADER
        moment = int(seconds) * 1_000_000_000 + int(micros) * 1000
        completions.append(Completion(moment, write, size))
    return completions


class Tracer:
    """The fuse tracepoints, recorded into an instance that goes with the ``with`` block."""

    def __init__(self) -> None:
        self._mounted: Path | None = None
        self._instance: Path | None = None

    def __enter__(self) -> Tracer:
        root = self._tracefs()
        if root is not None and (root / "events/fuse/fuse_request_end").is_dir():
            instance = root / "instances" / f"throttlefs-bench-{os.getpid()}"
            with suppress(OSError):
                instance.mkdir()
                self._instance = instance
                (instance / "trace_clock").write_text("mono")
                (instance / "buffer_size_kb").write_text(str(_BUFFER_KIB))
                return self
            self._remove_instance()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_instance()
        if self._mounted is not None:
            subprocess.run(["umount", self._mounted], check=False, capture_output=True)
            with suppress(OSError):
                self._mounted.rmdir()

    @property
    def works(self) -> bool:
        """Whether there is a trace to record."""
        return self._instance is not None

    def start(self, connections: Iterable[int]) -> None:
        """Forget what was recorded and record the requests of these connections from now on."""
        assert self._instance is not None
        chosen = " || ".join(f"connection == {number}" for number in connections)
        (self._instance / "tracing_on").write_text("0")
        (self._instance / "trace").write_text("")
        for event in ("fuse_request_send", "fuse_request_end"):
            (self._instance / "events/fuse" / event / "filter").write_text(chosen)
            (self._instance / "events/fuse" / event / "enable").write_text("1")
        (self._instance / "tracing_on").write_text("1")

    def stop(self, connections: Iterable[int]) -> list[Completion]:
        """Stop recording; return the completions. Raises BenchmarkError if the buffer overran."""
        assert self._instance is not None
        (self._instance / "tracing_on").write_text("0")
        for event in ("fuse_request_send", "fuse_request_end"):
            (self._instance / "events/fuse" / event / "enable").write_text("0")
        for stats in self._instance.glob("per_cpu/cpu*/stats"):
            if not re.search(r"^overrun: 0$", stats.read_text(), re.MULTILINE):
                raise BenchmarkError("the kernel's trace buffer overran: try fewer --seconds")
        text = (self._instance / "trace").read_text(errors="replace")
        (self._instance / "trace").write_text("")
        return parse_trace(text, connections)

    def _tracefs(self) -> Path | None:
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            if " - tracefs " in line:
                point = Path(line.split(" ")[4])
                return point if os.access(point / "instances", os.W_OK) else None
        if os.geteuid() != 0:
            return None
        point = Path(tempfile.mkdtemp(prefix="throttlefs-bench-tracefs-"))
        done = subprocess.run(
            ["mount", "-t", "tracefs", "tracefs", point], check=False, capture_output=True
        )
        if done.returncode:
            point.rmdir()
            return None
        self._mounted = point
        return point

    def _remove_instance(self) -> None:
        if self._instance is not None:
            with suppress(OSError):
                self._instance.rmdir()
            self._instance = None
