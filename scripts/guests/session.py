"""One guest on one image: write, read, change the limit in flight, trim, check."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from guests.initramfs import make_initramfs
from guests.machine import Guest, boot
from guests.packages import guest_files
from throttlefs.settings.units import parse_bytes

_MIB = 1 << 20
_THROTTLEFS = (sys.executable, "-m", "throttlefs")
_UPTIMES = re.compile(r"from ([0-9.]+) to ([0-9.]+)")


@dataclass(frozen=True)
class Plan:
    """What to do: rates as in ``bps=``, *mebibytes* moved in each step."""

    image_format: str
    aio: str
    limit: str
    then: str
    mebibytes: int
    accelerators: Sequence[str]


@dataclass(frozen=True)
class Step:
    """A transfer: how long it took by the guest's clock, and should have by the limits.

    *least* is less than *expected* where it is not known to the instant when a limit changed.
    """

    what: str
    seconds: float
    expected: float
    least: float


@dataclass
class Report:
    """What happened."""

    accelerator: str = ""
    steps: list[Step] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)


def run_session(plan: Plan, scratch: Path, cache: Path) -> Report:
    """Do as planned in the empty directory *scratch*.

    Raises `GuestError`, `PackageError` and `subprocess.CalledProcessError`; nothing stays
    mounted or running.
    """
    files = guest_files(cache)
    initramfs = scratch / "initramfs"
    initramfs.write_bytes(make_initramfs(files))
    images, target = scratch / "images", scratch / "mnt"
    images.mkdir()
    target.mkdir()
    name = f"disk.{plan.image_format}"
    _make_image(images / name, plan)
    report = Report()
    with _mounted(images, target, plan.limit):
        drive = (
            f"file={target / name},format={plan.image_format},if=virtio,"
            f"cache=none,aio={plan.aio},discard=unmap"
        )
        with boot(files.kernel, initramfs, drive, plan.accelerators, scratch / "qemu.log") as guest:
            report.accelerator = guest.accelerator
            _use(guest, plan, target, report)
            report.checks.append(_trim(guest, images / name))
            guest.power_off()
    report.checks += _check_image(images / name, plan, scratch)
    return report


def _make_image(path: Path, plan: Plan) -> None:
    """An image with an ext4 of room enough on it."""
    raw = path.with_suffix(".raw")
    with open(raw, "wb") as file:
        file.truncate((64 + 2 * plan.mebibytes) * _MIB)
    # Nothing left to initialise later: only what the steps move is to be counted.
    _run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", raw)
    if plan.image_format == "qcow2":
        # Clusters allocated beforehand; else every first write is two.
        options = ("-o", "preallocation=metadata")
        _run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
        raw.unlink()


@contextmanager
def _mounted(images: Path, target: Path, limit: str) -> Iterator[None]:
    _run(*_THROTTLEFS, "mount", images, target, "-o", f"bps={limit}")
    try:
        yield
    finally:
        _run(*_THROTTLEFS, "umount", target)


def _use(guest: Guest, plan: Plan, target: Path, report: Report) -> None:
    first, then = parse_bytes(plan.limit), parse_bytes(plan.then)
    size = plan.mebibytes * _MIB
    count = plan.mebibytes * 16
    guest.run("mount /dev/vda /disk")
    write = _timed(f"dd if=/dev/zero of=/disk/file bs=64k count={count} oflag=direct")
    read = _timed(f"dd if=/disk/file of=/dev/null bs=64k count={count} iflag=direct")
    for what, command in (("written, beside the journal,", write), ("read", read)):
        seconds = _seconds(guest.run(command))
        report.steps.append(
            Step(f"{plan.mebibytes} MiB {what} at {plan.limit}/s", seconds, *[size / first] * 2)
        )

    # The limit changes while a read is under way: between the start and the end of `set`.
    began = time.monotonic()
    guest.start(read)
    time.sleep(size / first / 2)
    earliest = time.monotonic() - began
    _run(*_THROTTLEFS, "set", target, f"bps={plan.then}")
    latest = time.monotonic() - began
    seconds = _seconds(guest.finish(read))

    def expected(changed: float) -> float:
        slow = min(changed, size / first)
        return slow + (size - slow * first) / then

    what = f"{plan.mebibytes} MiB read, after {latest:.2f} s at {plan.then}/s"
    bounds = sorted((expected(latest), expected(earliest)), reverse=True)
    report.steps.append(Step(what, seconds, *bounds))


def _trim(guest: Guest, image: Path) -> str:
    """Remove the file and trim the filesystem; says what that has freed of the image in SRC."""
    guest.run("rm /disk/file; sync")
    before = image.stat().st_blocks * 512
    guest.run("fstrim /disk; umount /disk")
    freed = before - image.stat().st_blocks * 512
    return f"fstrim: {freed / _MIB:.1f} MiB freed of {before / _MIB:.1f} MiB"


def _timed(command: str) -> str:
    """*command* with the guest's uptime before and after it, in seconds."""
    return f"read a x </proc/uptime; {command} && read b x </proc/uptime && echo from $a to $b"


def _seconds(output: str) -> float:
    found = _UPTIMES.search(output)
    assert found is not None, output
    return float(found[2]) - float(found[1])


def _check_image(path: Path, plan: Plan, scratch: Path) -> list[str]:
    """Check image and filesystem with the tools of their own; returns what they said."""
    said = []
    raw = path
    if plan.image_format == "qcow2":
        raw = scratch / "checked.raw"
        said.append("qemu-img check: " + _run("qemu-img", "check", path).splitlines()[0])
        _run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
    said.append("e2fsck -fn: " + _run("e2fsck", "-fn", raw).splitlines()[-1].split(": ", 1)[1])
    return said


def _run(*command: object) -> str:
    return subprocess.run(
        list(map(str, command)),
        check=True,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"},
    ).stdout
