"""``scripts/guest``: the whole scenario, from making the image to checking it afterwards."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from guests.machine import GuestError
from guests.packages import PackageError, default_cache
from guests.session import Plan, Report, run_session


def main(arguments: list[str] | None = None) -> int:
    """Run the scenario for every choice; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="guest",
        description="Boot a small Linux in QEMU with its disk on a throttled image: dd in the "
        "guest shows the limit, the limit is changed while it reads, and the filesystem is "
        "checked at the end. Needs Debian on amd64, whose kernel the guest boots.",
    )
    parser.add_argument("--limit", default="4M", metavar="RATE", help="bps at first (%(default)s)")
    parser.add_argument("--then", default="16M", metavar="RATE", help="bps later (%(default)s)")
    parser.add_argument("--format", choices=("raw", "qcow2", "both"), default="both")
    parser.add_argument("--aio", choices=("native", "io_uring", "threads", "all"), default="native")
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--mebibytes", type=int, default=8, help="moved in each step (%(default)s)")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="DIRECTORY")
    given = parser.parse_args(arguments)
    formats = ("raw", "qcow2") if given.format == "both" else (given.format,)
    aios = ("native", "io_uring", "threads") if given.aio == "all" else (given.aio,)
    accelerators = [given.accel]
    if given.accel == "auto":
        accelerators = ["kvm", "tcg"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["tcg"]
    status = 0
    for image_format in formats:
        for aio in aios:
            plan = Plan(image_format, aio, given.limit, given.then, given.mebibytes, accelerators)
            scratch = Path(tempfile.mkdtemp(prefix="throttlefs-guest-"))
            try:
                _print(plan, run_session(plan, scratch, given.cache))
            except (GuestError, PackageError) as exc:
                print(f"guest: {image_format}, aio={aio}: {exc}", file=sys.stderr)
                status = 1
            except subprocess.CalledProcessError as exc:
                said = (exc.stderr or exc.stdout or "").strip().splitlines()
                words = " ".join(map(str, exc.cmd))
                print(f"guest: {words} failed: {said[-1] if said else ''}", file=sys.stderr)
                status = 1
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return status


def _print(plan: Plan, report: Report) -> None:
    print(f"{plan.image_format}, cache=none, aio={plan.aio}, {report.accelerator}")
    for step in report.steps:
        print(f"  {step.what:<50} {step.seconds:6.2f} s, expected {step.expected:6.2f} s")
    for line in report.checks:
        print(f"  {line}")
