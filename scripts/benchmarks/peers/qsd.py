"""qemu-storage-daemon: its FUSE export of an image behind its throttle filter."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


def command_line(setup: Setup, points: Sequence[Path]) -> list[str]:
    """Return the command that serves every image of a setup at its mount point (a file)."""
    groups: dict[str, Limits] = dict(setup.groups)
    words = ["qemu-storage-daemon"]
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
            },
        )
    return words


def _option(name: str, value: Mapping[str, Any]) -> list[str]:
    return [f"--{name}", json.dumps(value)]


class Qsd(Peer):
    name = "qsd"

    def version(self) -> str:
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
        directory = scratch.root / "qsd"
        directory.mkdir(exist_ok=True)
        points = [
            directory / f"{number}-{image.path.name}" for number, image in enumerate(setup.images)
        ]
        for point in points:
            point.touch()
        log = scratch.root / "qsd.log"
        try:
            # At SIGTERM the filter is drained, which lets go what waits in it; but a request that
            # it handles while it handles another can hold that up for as long as the limit says.
            command = command_line(setup, points)
            with daemon(self, processes, command, points, log, 2) as (child, minors):
                yield Served(files=points, directory=directory, pid=child.pid, connections=minors)
        finally:
            for point in points:
                point.unlink(missing_ok=True)
