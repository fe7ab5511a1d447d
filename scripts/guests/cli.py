"""``scripts/guest``: the whole scenario, from making the image to checking it afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from guests.machine import GuestError
from guests.packages import PackageError, default_cache
from guests.session import Plan, Report, run_session
from throttlefs.settings.units import UnitError, parse_bytes

FORMATS = ("raw", "qcow2")
AIOS = ("native", "io_uring", "threads")


def _rate(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        parse_bytes(value)
    except UnitError as error:
        raise click.BadParameter(str(error)) from None
    return value


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Needs Debian on amd64, whose kernel the guest boots.",
)
@click.option("--limit", default="4M", metavar="RATE", callback=_rate, help="bps at first.")
@click.option("--then", default="16M", metavar="RATE", callback=_rate, help="bps later.")
@click.option("--format", "image_format", type=click.Choice([*FORMATS, "both"]), default="both")
@click.option("--aio", type=click.Choice([*AIOS, "all"]), default="native")
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto")
@click.option("--mebibytes", type=click.IntRange(1), default=8, help="Moved in each step.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=default_cache,
    help="Where the guest's kernel and programs are kept.",
    show_default=False,
)
def main(
    limit: str, then: str, image_format: str, aio: str, accel: str, mebibytes: int, cache: Path
) -> int:
    """Boot a small Linux in QEMU with its disk on a throttled image.

    dd in the guest shows the limit, the limit is changed while it reads, and the filesystem is
    checked at the end.
    """
    accelerators = [accel]
    if accel == "auto":
        accelerators = ["kvm", "tcg"] if os.access("/dev/kvm", os.R_OK | os.W_OK) else ["tcg"]
    status = 0
    for kind in FORMATS if image_format == "both" else [image_format]:
        for way in AIOS if aio == "all" else [aio]:
            plan = Plan(kind, way, limit, then, mebibytes, accelerators)
            scratch = Path(tempfile.mkdtemp(prefix="throttlefs-guest-"))
            try:
                _print(plan, run_session(plan, scratch, cache))
            except (GuestError, PackageError) as exc:
                print(f"guest: {kind}, aio={way}: {exc}", file=sys.stderr)
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
