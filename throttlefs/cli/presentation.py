"""Answers of the control socket as text for people, and their words as arguments."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from throttlefs.errors import UsageError
from throttlefs.settings.limits import format_limit
from throttlefs.settings.units import format_size, quoted
from throttlefs.settings.units import printable as plain
from throttlefs.stats import QUANTILES, quantile_ns, upper_bound_ns

from .sampling import Activity, Row

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_WIDE = 10_000
"""The width of a table that nobody looks at on a screen: nothing is cut off."""


def parse_assignments(words: Iterable[str]) -> tuple[dict[str, str], bool]:
    """The values of NAME=VALUE words, and whether "off" is among them. Raises `UsageError`."""
    values: dict[str, str] = {}
    off = False
    for word in words:
        for part in word.split(",") if "=" in word else (word,):
            name, equals, value = part.partition("=")
            if part == "off":
                off = True
            elif not equals or not name:
                raise UsageError(f"{quoted(part)} is neither NAME=VALUE, e.g. bps=2M, nor off")
            elif name in values:
                raise UsageError(f"{name} is given twice")
            else:
                values[name] = value
    return values, off


def limits_text(limits: Mapping[str, int]) -> str:
    """ "bps=1M,iops=100", or "-" if there are none."""
    return ",".join(f"{name}={format_limit(name, n)}" for name, n in limits.items()) or "-"


def _state_text(state: Mapping[str, Any], key: str) -> str:
    value = state.get(key)
    if value is None:
        if key in ("group", "parent"):
            return "none"
        return "1" if key.endswith("_length") else "off"
    return plain(str(value)) if key in ("group", "parent", "weight") else format_limit(key, value)


def changes_text(changed: Sequence[Mapping[str, Any]], point: str) -> str:
    """What a change has done, a line for each value: "disk.img: bps 1M -> 2M"."""
    lines = []
    for one in changed:
        before, after = one["before"], one["after"]
        name = plain(one["name"])
        what = {"image": name, "group": f"group {name}", "default": plain(point)}
        for key in dict.fromkeys([*before, *after]):
            if before.get(key) != after.get(key):
                old, new = _state_text(before, key), _state_text(after, key)
                lines.append(f"{what[one['kind']]}: {key} {old} -> {new}\n")
    return "".join(lines) or "nothing has changed\n"


def duration_text(ns: float | None) -> str:
    """ "12 us", "3.4 ms", "1.2 s"; "-" for none."""
    if ns is None:
        return "-"
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            value = ns / size
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
    return f"{ns:.0f} ns" if ns else "0"


def mount_text(status: Mapping[str, Any]) -> str:
    """What is mounted where."""
    return plain(f"{status['source']} on {status['target']}")


def show_table(status: Mapping[str, Any], one_image: bool) -> Table:
    """The default, the groups and the images of a mount, or one image alone."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for name in ("", "limits", "group"):
        table.add_column(name, overflow="fold")
    for name in ("weight", "open", "waiting", "read", "written"):
        table.add_column(name, justify="right", no_wrap=True)
    if not one_image:
        default = status["default"]
        table.add_row("(default)", *_said(default, "group"))
        for group in status["groups"]:
            members = f"{group['members']} members" if group["members"] != 1 else "1 member"
            table.add_row(Text(plain(f"(group {group['name']})")), *_said(group, "parent"), members)
    for image in status["images"]:
        waiting = image["waiting"]["read"] + image["waiting"]["write"]
        table.add_row(
            Text(plain(image["device"])),
            *_said(image, "group"),
            str(image["handles"]),
            str(waiting),
            format_size(image["bytes"]["read"]),
            format_size(image["bytes"]["write"]),
        )
    return table


def _said(state: Mapping[str, Any], group: str) -> tuple[str, Text, str]:
    from rich.text import Text

    return limits_text(state["limits"]), Text(plain(state[group] or "-")), str(state["weight"])


def stats_table(rows: Sequence[Row], rates: bool) -> Table:
    """What images did: *rates* a second, else in all."""
    from rich.table import Table
    from rich.text import Text

    per = "/s" if rates else ""
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    for name in (
        "",
        f"requests{per}",
        f"bytes{per}",
        "errors",
        "delayed",
        "waiting",
        "most",
        "wait p50",
        "p99",
        "service p50",
        "p99",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        for name, activity in (("read", row.read), ("write", row.write)):
            seconds = row.seconds if rates else 1.0
            table.add_row(
                Text(plain(row.device)) if name == "read" else "", name, *_cells(activity, seconds)
            )
    return table


def _cells(activity: Activity, seconds: float) -> list[str]:
    return [
        f"{activity.requests / seconds:.0f}",
        format_size(activity.bytes / seconds),
        str(activity.errors),
        str(activity.delayed),
        str(activity.waiting),
        str(activity.waiting_most),
        duration_text(activity.wait_quantile(0.5)),
        duration_text(activity.wait_quantile(0.99)),
        duration_text(activity.service_quantile(0.5)),
        duration_text(activity.service_quantile(0.99)),
    ]


def print_table(table: Table) -> None:
    """Print *table* to stdout, whole: on a terminal that is too narrow its lines go on below."""
    from rich.console import Console

    width = _WIDE
    if sys.stdout.isatty():
        needed = Console(width=_WIDE).measure(table).maximum
        width = max(shutil.get_terminal_size().columns, needed)
    console = Console(width=width, highlight=False, soft_wrap=False)
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()), flush=True)


def print_stats(rows: Sequence[Row], *, as_json: bool, rates: bool) -> None:
    """Print what images did, as a table or as JSON."""
    if as_json:
        for row in rows:
            print(json.dumps(_as_json(row, rates)), flush=True)
    else:
        print_table(stats_table(rows, rates))


def _as_json(row: Row, rates: bool) -> dict[str, Any]:
    interval = {"seconds": row.seconds} if rates else {}
    return {
        "device": row.device,
        **interval,
        "handles": row.handles,
        "group": row.group,
        "limits": dict(row.limits),
        "read": _activity_json(row.read),
        "write": _activity_json(row.write),
    }


def _activity_json(activity: Activity) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: getattr(activity, name)
        for name in (
            "requests",
            "bytes",
            "errors",
            "delayed",
            "wait_ns",
            "service_ns",
            "waiting",
            "waiting_most",
        )
    }
    for name, histogram in (("wait", activity.wait), ("service", activity.service)):
        found[f"{name}_quantiles_ns"] = {
            label: quantile_ns(histogram, fraction) for label, fraction in QUANTILES.items()
        }
        # Each bucket by the duration (ns) that all in it and before it are below.
        found[f"{name}_histogram_ns"] = {
            f"{upper_bound_ns(bucket):.0f}": count
            for bucket, count in enumerate(histogram)
            if count
        }
    return found
