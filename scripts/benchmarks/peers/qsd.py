"""qemu-storage-daemon: its FUSE export of an image behind its throttle filter."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.allowance import RATES, Limits
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.peers.base import Peer, Served, Setup, daemon
from benchmarks.processes import Processes
from benchmarks.scratch import Scratch

_DASHED = {"bps": "bps-total", "iops": "iops-total"} | {
    f"{kind}_{short}": f"{kind}-{long}"
    for kind in ("bps", "iops")
    for short, long in (("rd", "read"), ("wr", "write"))
}


def throttle_limits(limits: Limits) -> dict[str, int]:
    """Return limits under the names of QEMU's ThrottleLimits (qapi/block-core.json).

    Raises NotMeasurableError for what QEMU rejects: a total beside a direction of its own.
    """
    renamed = {}
    for name, value in limits.items():
        base = name.removesuffix("_max_length").removesuffix("_max")
        if name == "iops_size":
            renamed["iops-size"] = value
        else:
            renamed[_DASHED[base] + name.removeprefix(base).replace("_", "-")] = value
    for kind in ("bps", "iops"):
        if kind in limits and any(name.startswith(f"{kind}_") for name in limits if name in RATES):
            raise NotMeasurableError(f"QEMU does not take {kind} beside {kind}_rd or {kind}_wr")
    return renamed


def command_line(setup: Setup, points: Sequence[Path], threads: int = 0) -> list[str]:
    """Return the command that serves every image of a setup at its mount point (a file).

    ``threads``: so many iothreads serve each of them; 0: the main loop does.
    """
    groups: dict[str, Limits] = dict(setup.groups)
    words = ["qemu-storage-daemon"]
    iothreads = [f"thread{number}" for number in range(threads)]
    for name in iothreads:
        words += _option("object", {"qom-type": "iothread", "id": name})
    members = []
    for number, image in enumerate(setup.images):
        if image.group and image.limits:
            raise NotMeasurableError("QEMU has no limits of an image inside a group")
        if image.weight != 100:
            raise NotMeasurableError("QEMU has no weights")
        name = image.group or f"own{number}"
        groups.setdefault(name, image.limits)
        members.append(name)
    for name, limits in groups.items():
        words += _option(
            "object",
            {"qom-type": "throttle-group", "id": name, "limits": throttle_limits(limits)},
        )
    for number, (image, group, point) in enumerate(zip(setup.images, members, points, strict=True)):
        words += _option(
            "blockdev",
            {
                "driver": "file",
                "node-name": f"file{number}",
                "filename": str(image.path),
                # Several peers serve one image, never two of them at once.
                "locking": "off",
                "cache": {"direct": setup.direct, "no-flush": False},
            },
        )
        words += _option(
            "blockdev",
            {
                "driver": "throttle",
                "node-name": f"throttled{number}",
                "file": f"file{number}",
                "throttle-group": group,
            },
        )
        words += _option(
            "export",
            {
                "type": "fuse",
                "id": f"export{number}",
                "node-name": f"throttled{number}",
                "mountpoint": str(point),
                "writable": True,
                # Requests are dealt out among them: BlockExportIothreads, QEMU 10.1.
                **({"iothread": iothreads} if iothreads else {}),
            },
        )
    return words


def _option(name: str, value: Mapping[str, Any]) -> list[str]:
    return [f"--{name}", json.dumps(value)]


@dataclass(frozen=True)
class Qsd(Peer):
    shows_directories = False
    threads: int = 0
    """How many iothreads serve an image; 0: the main loop does."""

    @property
    def name(self) -> str:  # type: ignore[override]
        return "qsd-threads" if self.threads else "qsd"

    def version(self) -> str:
        version = self._version()
        if not self.threads:
            return version
        return f"{version} with {self.threads} iothreads"

    def _has_threads(self) -> bool:
        found = re.search(r"(\d+)\.(\d+)", self._version())
        return found is not None and (int(found[1]), int(found[2])) >= (10, 1)

    @staticmethod
    def _version() -> str:
        try:
            done = subprocess.run(
                ["qemu-storage-daemon", "--version"], check=True, capture_output=True, text=True
            )
        except (OSError, subprocess.CalledProcessError):
            raise BenchmarkError(
                "qemu-storage-daemon is not installed: apt-get install qemu-system-common"
            ) from None
        found = re.search(r"version (\S+)", done.stdout)
        return f"qemu-storage-daemon {found[1] if found else '(of unknown version)'}"

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        if self.threads and not self._has_threads():
            raise NotMeasurableError("FUSE exports have several iothreads from QEMU 10.1 on")
        directory = scratch.root / f"qsd{setup.apart}"
        directory.mkdir(exist_ok=True)
        points = [
            directory / f"{number}-{image.path.name}" for number, image in enumerate(setup.images)
        ]
        for point in points:
            point.touch()
        log = scratch.root / f"qsd{setup.apart}.log"
        try:
            # At SIGTERM the filter is drained, which lets go what waits in it; but a request that
            # it handles while it handles another can hold that up for as long as the limit says.
            command = command_line(setup, points, self.threads)
            with daemon(self, processes, command, points, log, 2) as (child, minors):
                yield Served(files=points, directory=directory, pid=child.pid, connections=minors)
        finally:
            for point in points:
                point.unlink(missing_ok=True)
