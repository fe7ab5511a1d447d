"""The commands for the power of a disk: power-cut, power-on, sync."""

from __future__ import annotations

import json
from typing import Any

import click

from throttlefs.settings.units import MAX_SEED

from .control import MountPath, whole_mount

_PATH = click.argument("path", metavar="MOUNTPOINT", type=MountPath())


@click.command(name="power-cut", short_help="Lose what was not flushed, as a disk without power.")
@_PATH
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, MAX_SEED),
    help="Chooses what is lost; default: a random one, which is printed.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be lost.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def power_cut(path: str, seed: int | None, dry_run: bool, as_json: bool) -> None:
    """Cut the power of a disk that was mounted with -o volatile, and print what was lost.

    What fsync, O_DSYNC or throttlefs sync has flushed stays. Every other sector is as it was at
    some moment since its last flush. Names, sizes and attributes are what a disk could have.
    Afterwards SRC holds what is left, and every request fails until throttlefs power-on. Files that
    were open stay dead.

    \b
    Examples:
      throttlefs power-cut mnt --dry-run
      throttlefs power-cut mnt --seed 7
      throttlefs power-on mnt
    """
    arguments: dict[str, Any] = {"dry-run": True} if dry_run else {}
    if seed is not None:
        arguments["seed"] = seed
    found = whole_mount(path, "power-cut")
    with found.session(patient=True) as client:
        report = client.run("x-throttlefs-power-cut", **arguments)
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        from .presentation import print_cut

        print_cut(report)


@click.command(name="power-on", short_help="Serve a disk again whose power was cut.")
@_PATH
def power_on(path: str) -> None:
    """Serve a disk again whose power was cut. Nothing of it waits to be flushed then."""
    with whole_mount(path, "power-on").session(patient=True) as client:
        client.run("x-throttlefs-power-on")


@click.command(short_help="Flush a disk: a power cut loses nothing of it.")
@_PATH
def sync(path: str) -> None:
    """Flush all that was written to a volatile disk, so that a power cut cannot lose it.

    sync(1) and syncfs(2) do not do that, because they do not reach a FUSE filesystem.
    """
    with whole_mount(path, "sync").session(patient=True) as client:
        client.run("x-throttlefs-sync")


COMMANDS = (power_cut, power_on, sync)
