"""The commands that tune and watch a running mount: show, set, stats, list, top."""

from __future__ import annotations

import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

import click

from throttlefs.errors import ThrottlefsError, UsageError

from .hints import LimitsCommand

if TYPE_CHECKING:
    from throttlefs.control.locate import Located


class MountPath(click.Path):
    """A path on a mount, taken as it stands.

    click's own type asks the file system about it, and so the mount. If the mount has no room for
    another request, the command would wait, and nobody could lift the limits.
    """

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str:
        """The path."""
        return os.fspath(value)


def whole_mount(path: str, what: str) -> Located:
    """The mount at *path*, for *what*, which no file in it has of its own.

    Raises `ThrottlefsError` if there is none, and `UsageError` if *path* lies in a mount.
    """
    from throttlefs.control.locate import locate

    found = locate(path)
    if found.device is not None:
        raise UsageError(f"{what} is for a whole mount, and {path} lies in one: use {found.point}")
    return found


_PATH = click.argument("path", metavar="PATH", type=MountPath())


class Seconds(click.FloatRange):
    """Seconds in a range, which click lets "nan" through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


_INTERVAL = Seconds(min=0.1, max=3600)


@click.command(short_help="Show the limits of a mount or of a file in it.")
@_PATH
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--toml", "as_toml", is_flag=True, help="What is in force, as a config file.")
def show(path: str, as_json: bool, as_toml: bool) -> None:
    """Show what holds at PATH: a mount point, or a file in the mount.

    On a narrow terminal long names lose their middle, and the least important columns are left
    out. In a pipe each row is one line with all columns. --json has whole names.

    \b
    Examples:
      throttlefs show mnt
      throttlefs show --json mnt/disk.img
      throttlefs show --toml mnt > limits.toml
    """
    from throttlefs.control.locate import locate

    from .presentation import mount_text, power_text, print_status
    from .text import print_utf8

    if as_json and as_toml:
        raise UsageError("--json and --toml: give one of them")
    found = locate(path)
    if as_toml and found.device is not None:
        raise UsageError(f"--toml needs a mount point, and {path} is a file: use {found.point}")
    arguments = {} if found.device is None else {"device": found.device}
    with found.session() as client:
        if as_toml:
            print_utf8(client.run("x-throttlefs-query-config")["toml"])  # as all TOML is
            return
        status = client.run("x-throttlefs-query", **arguments)
    if as_json:
        _print_json(status if found.device is None else status["images"][0])
    else:
        if found.device is None:
            print(mount_text(status["source"], status["target"]))
            if "power" in status:
                print(power_text(status["power"]))
        print_status(status, found.device is not None)
        if found.device is None:
            from .shares import shares_of

            print("".join(f"{line}\n" for line in shares_of(status["groups"])), end="")


@click.command(name="set", cls=LimitsCommand, short_help="Change limits in flight.")
@_PATH
@click.argument("words", metavar="NAME=VALUE|off...", nargs=-1, required=True)
@click.option("--all", "every", is_flag=True, help="PATH is a mount point: every image as well.")
@click.option("--group", metavar="NAME", help="Change the group NAME of the mount.")
@click.option("--create", is_flag=True, help="With --group: make the group if there is none.")
def set_limits(
    path: str, words: tuple[str, ...], every: bool, group: str | None, create: bool
) -> None:
    """Change the limits at PATH and print what has changed. One mistake, and nothing changes.

    PATH is a file in a mount, or a mount point for the default of all files. The new limits hold
    at once, also for requests that already wait. NAME is any limit of throttlefs mount -o, any
    setting of a slow disk, profile, group, weight or, with --group, parent. NAME=0 lifts one limit
    or setting; off lifts all of them, and leaves the group. With group=NAME the limits are the
    group's, as in QEMU; they make it if there is none.

    \b
    Examples:
      throttlefs set mnt/disk.img bps=2M iops_wr=500
      throttlefs set mnt bps=10M
      throttlefs set mnt latency_wr=20ms queue_depth=1
      throttlefs set mnt/disk.img group=db bps=50M
      throttlefs set --group db mnt weight=200 parent=tenant
      throttlefs set --all mnt off
    """
    from throttlefs.control.locate import locate
    from throttlefs.policy.change import Change, TuningError

    from .presentation import changes_text, parse_assignments
    from .text import in_utf8

    values, off = parse_assignments(map(in_utf8, words))
    group = None if group is None else in_utf8(group)
    if every and group is not None:
        raise UsageError("--all and --group: give one of them")
    if create and group is None:
        raise UsageError("--create makes a group: name it with --group NAME")
    try:
        # The daemon checks this as well. A value that no daemon would take is a wrong command line.
        Change.parse(values.items(), off=off, of_group=group is not None)
    except TuningError as exc:
        raise UsageError(str(exc)) from None
    found = locate(path)
    if found.device is not None and (every or group is not None):
        option = "--all" if every else "--group"
        raise UsageError(f"{option} needs a mount point, and {path} is a file: use {found.point}")
    arguments: dict[str, Any] = {"values": values}
    if off:
        arguments["off"] = True
    if group is not None:
        arguments["group-name"] = group
        arguments["create"] = create
    elif every:
        arguments["all"] = True
    elif found.device is not None:
        arguments["device"] = found.device
    with found.session() as client:
        changed = client.run("x-throttlefs-set", **arguments)
    print(changes_text(changed, found.point), end="")


@click.command(short_help="Show what was asked of images and how long it took.")
@_PATH
@click.option("--json", "as_json", is_flag=True, help="As JSON, an object a line.")
@click.option(
    "--interval",
    metavar="S",
    type=_INTERVAL,
    help="Every S seconds what happened in them, until interrupted.",
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N intervals.")
def stats(path: str, as_json: bool, interval: float | None, count: int | None) -> None:
    """Show the counters of the image at PATH, or of all images if it is a mount point.

    A wait is the time in the limiter, 0 for most requests. Service is the time in the file behind
    and in a slow disk.

    \b
    Examples:
      throttlefs stats mnt
      throttlefs stats --interval 1 mnt/disk.img
      throttlefs stats --json mnt
    """
    from throttlefs.control.locate import locate

    from .presentation import print_stats
    from .sampling import Sampler, rows

    if count is not None and interval is None:
        raise UsageError("--count counts intervals: give their length with --interval S")
    found = locate(path)
    with found.session() as client:
        sampler = Sampler(client, found.device)
        sample = sampler.sample()
        if interval is None:
            print_stats(rows(sample), as_json=as_json, rates=False)
            return
        done = 0
        while count is None or done < count:
            time.sleep(interval)
            before, sample = sample, sampler.sample()
            print_stats(rows(sample, before), as_json=as_json, rates=True)
            done += 1


@click.command(name="list", short_help="List your mounts.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_mounts(as_json: bool) -> None:
    """List this user's mounts; root sees everybody's. A mount whose daemon has died is marked."""
    from throttlefs.control.locate import own_mounts
    from throttlefs.host.liveness import is_dead

    from .presentation import mount_text

    mounts = [
        (os.fsdecode(mount.source), os.fsdecode(mount.point), is_dead(mount))
        for mount in own_mounts()
    ]
    if as_json:
        _print_json([dict(zip(("source", "target", "dead"), one, strict=True)) for one in mounts])
        return
    for source, target, dead in mounts:
        cure = " (dead: clear it away with throttlefs umount)" if dead else ""
        print(mount_text(source, target) + cure)


@click.command(short_help="Watch images live.")
@click.argument("path", metavar="[PATH]", required=False, type=MountPath())
@click.option(
    "--interval", metavar="S", type=_INTERVAL, default=1.0, help="Seconds between two looks."
)
@click.option("--count", metavar="N", type=click.IntRange(min=1), help="End after N looks.")
def top(path: str | None, interval: float, count: int | None) -> None:
    """Watch the images of the mount at PATH, or of all your mounts, live.

    Each image has a row: its rate, how much of its tightest limit it uses, requests a second, how
    many wait, and how long requests waited. Keys: r, i, w, t and n sort by rate, requests,
    waiting, time waited and name; space pauses; q quits. Without a terminal, or on a dumb one, it
    prints plain text.
    """
    from throttlefs.control.locate import Located, locate, own_mounts

    from .top import watch

    if path is not None:
        found = [locate(path)]
    else:
        found = [Located(mount, None, os.fsdecode(mount.point)) for mount in own_mounts()]
        if not found:
            raise ThrottlefsError("you have no throttlefs mount; make one with: throttlefs mount")
    watch(found, interval, count)


COMMANDS = (show, set_limits, stats, list_mounts, top)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2))
