"""The kernel's own blk-throttle: cgroup v1's ``blkio.throttle.*`` on a loop device of one's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.allowance import RATES, Limits
from benchmarks.errors import BenchmarkError, NotMeasurableError
from benchmarks.peers.base import Peer, Served, Setup
from benchmarks.processes import Processes, wait_until
from benchmarks.scratch import Scratch

FILES = {
    "bps_rd": "read_bps_device",
    "bps_wr": "write_bps_device",
    "iops_rd": "read_iops_device",
    "iops_wr": "write_iops_device",
}
"""Limit to the file ``blkio.throttle.NAME``; kernel, admin-guide/cgroup-v1/blkio-controller.rst."""


def rules(limits: Limits) -> dict[str, int]:
    """Return what goes into which file of the cgroup, behind the number of the device.

    There is no limit on reads and writes together: a total is set for each of them.
    Raises NotMeasurableError for what there is not: bursts, iops_size.
    """
    found: dict[str, int] = {}
    for name, value in limits.items():
        if name not in RATES:
            raise NotMeasurableError(f"blk-throttle has no {name}")
        for direction in (name,) if name in FILES else (f"{name}_rd", f"{name}_wr"):
            file = FILES[direction]
            found[file] = min(value, found.get(file, value))
    return found


class Blkio(Peer):
    name = "blkio"
    shows_directories = False

    def version(self) -> str:
        self._cgroups()
        if os.geteuid() != 0:
            raise BenchmarkError("blkio needs root")
        return f"blk-throttle of Linux {os.uname().release}"

    @staticmethod
    def _cgroups() -> Path:
        """Return where cgroup v1's controller blkio is mounted. Raises BenchmarkError."""
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup ") and "blkio" in after.split(" ")[-1].split(","):
                found = Path(before.split(" ")[4])
                if (found / "blkio.throttle.read_bps_device").exists():
                    return found
        raise BenchmarkError("no cgroup v1 with blkio.throttle.* is mounted here")

    @contextmanager
    def serve(self, processes: Processes, scratch: Scratch, setup: Setup) -> Iterator[Served]:
        if setup.groups or setup.live or any(image.weight != 100 for image in setup.images):
            raise NotMeasurableError("blk-throttle has limits of devices, not of groups of them")
        wanted = [rules(image.limits) for image in setup.images]
        with ExitStack() as stack:
            group = self._cgroups() / f"throttlefs-bench-{os.getpid()}"
            group.mkdir()
            stack.callback(_remove, group)
            devices = []
            for image, rule in zip(setup.images, wanted, strict=True):
                device = stack.enter_context(_loop_device(image.path, setup.direct))
                devices.append(device)
                number = device.stat().st_rdev
                for name, value in rule.items():
                    text = f"{os.major(number)}:{os.minor(number)} {value}"
                    (group / f"blkio.throttle.{name}").write_text(text)
            # All that this process starts from now on is in the cgroup, as it is itself.
            (group / "cgroup.procs").write_text(str(os.getpid()))
            stack.callback((group.parent / "cgroup.procs").write_text, str(os.getpid()))
            yield Served(files=devices, directory=Path("/dev"))


@contextmanager
def _loop_device(path: Path, direct: bool) -> Iterator[Path]:
    """Attach an image to a loop device for the length of the block."""
    words = ["losetup", "--find", "--show", f"--direct-io={'on' if direct else 'off'}"]
    done = subprocess.run([*words, path], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"no loop device: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=False, capture_output=True)


def _remove(group: Path) -> None:
    """Remove a cgroup; its last processes leave it as they end, or go to the one above."""

    def is_gone() -> bool:
        with suppress(OSError):
            for pid in (group / "cgroup.procs").read_text().split():
                with suppress(OSError):
                    (group.parent / "cgroup.procs").write_text(pid)
            group.rmdir()
        return not group.exists()

    wait_until(is_gone, 5)
