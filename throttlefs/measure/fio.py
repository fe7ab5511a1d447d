"""Runs fio on a target, step by step, and joins what it reports."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from throttlefs.errors import ThrottlefsError

from .report import ReportError, read_report
from .target import Progress, Target

_GRACE: Final = 60
"""Seconds that fio may take beyond its runtime, e.g. for requests that are under way."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Step:
    """One run of fio."""

    name: str
    """For people."""
    rw: str
    """fio's name."""
    block: str
    depth: int
    fsync: bool = False

    def job(self, target: Target, seconds: float) -> str:
        """The job file (fio(1))."""
        options: dict[str, Any] = {
            "filename": target.path,
            "size": target.size,
            "rw": self.rw,
            "bs": self.block,
            "iodepth": self.depth,
            # psync takes less time for each request, and one is all that it can have under way.
            "ioengine": "psync" if self.depth == 1 else "libaio",
            "direct": 1,
            "thread": 1,  # a job that is a process of its own outlives an fio that is killed
            "runtime": f"{round(seconds * 1000)}ms",
            "time_based": 1,
            "norandommap": 1,
            "randrepeat": 0,
            "percentile_list": "50:99:99.9",
            "allow_file_create": 0,
            "invalidate": 0,
            "fallocate": "none",
            "unlink": 0,
            **({"fsync": 1} if self.fsync else {}),
        }
        return "[measure]\n" + "".join(f"{key}={value}\n" for key, value in options.items())


def steps(depth: int, writable: bool) -> list[Step]:
    """What is measured; *depth* is the greatest number of requests under way."""
    found = []
    for what, random, in_order in (("reads", "randread", "read"), ("writes", "randwrite", "write")):
        if what == "writes" and not writable:
            break
        found.append(Step(f"{what} of 4 KiB, one at a time", random, "4k", 1))
        if depth > 1:
            found.append(Step(f"{what} of 4 KiB, {depth} at a time", random, "4k", depth))
        found.append(Step(f"{what} of 1 MiB in order", in_order, "1M", min(depth, 8)))
    if writable:
        found.append(Step("writes of 4 KiB with an fsync after each", "randwrite", "4k", 1, True))
    return found


def measure(target: Target, depth: int, seconds: float, progress: Progress) -> str:
    """Measure *target*, each step for *seconds*; returns the joined report of fio's, in JSON.

    fio ends with this process, also when that is killed. Raises `ThrottlefsError` if fio is
    missing or fails.
    """
    program = shutil.which("fio")
    if program is None:
        raise ThrottlefsError("fio does the measuring, and is not installed: apt-get install fio")
    joined: dict[str, Any] = {}
    plan = steps(depth, target.writable)
    for number, step in enumerate(plan, 1):
        progress(f"[{number}/{len(plan)}] {step.name}, {seconds:g} s")
        text = _run(program, step, target, seconds)
        read_report(text)  # raises fio's own words
        report = json.loads(text[text.find("{") :])
        if joined:
            joined["jobs"] += report["jobs"]
        else:
            joined = report
    return json.dumps(joined)


def _run(program: str, step: Step, target: Target, seconds: float) -> str:
    command = [program, "--output-format=json", "--eta=never", "-"]
    if not target.writable:
        command.insert(1, "--readonly")
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd="/",
        preexec_fn=_end_with_parent(os.getpid()),  # noqa: PLW1509  # there are no threads
    )
    try:
        said, _ = child.communicate(step.job(target, seconds), timeout=seconds + _GRACE)
    except subprocess.TimeoutExpired:
        raise ThrottlefsError(
            f"fio did not end within {seconds + _GRACE:g} s ({step.name})"
        ) from None
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if "{" not in said:
        lines = [line for line in said.splitlines() if line.strip()]
        raise ReportError(f"fio: {lines[-1].removeprefix('fio: ') if lines else 'no report'}")
    return said


def _end_with_parent(parent: int) -> Any:
    """A function for the child between fork and exec: it is killed when *parent* dies."""
    prctl = ctypes.CDLL(None).prctl  # looked up before the fork

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died meanwhile
            os._exit(1)

    return prepare
