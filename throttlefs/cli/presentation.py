"""Turns answers of the control socket into text, and words of the command line into arguments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from throttlefs.errors import UsageError
from throttlefs.settings.device import DEVICE_NAMES
from throttlefs.settings.limits import format_limit
from throttlefs.settings.units import format_size, printable, quoted
from throttlefs.stats import QUANTILES, quantile_ns, upper_bound_ns

from .sampling import Activity, Row
from .table import Column, Wide, print_table
from .text import name_text


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


def limits_text(limits: Mapping[str, float]) -> str:
    """ "bps=1M,iops=100", or "-" if there are none."""
    return ",".join(f"{name}={format_limit(name, n)}" for name, n in limits.items()) or "-"


def _disk_text(state: Mapping[str, Any]) -> str:
    """The settings of a device, "latency=5ms,queue_depth=4", or "-" if there are none."""
    return ",".join(f"{name}={value}" for name, value in state.get("disk", {}).items()) or "-"


def _limits_in_force(state: Mapping[str, Any]) -> str:
    """The limits, and the rates that follow from the size: "iops_per_gib=3 (iops=300)"."""
    text = limits_text(state["limits"])
    in_force = state.get("in-force")
    if in_force is None:
        return text
    grown = {
        name.removesuffix("_per_gib"): in_force[name.removesuffix("_per_gib")]
        for name in state["limits"]
        if name.endswith("_per_gib")
    }
    return f"{text} ({limits_text(grown)})"


def _state_text(state: Mapping[str, Any], key: str) -> str:
    value = state.get(key)
    if value is None:
        if key in ("group", "parent"):
            return "none"
        return "1" if key.endswith("_length") else "off"
    if key in ("group", "parent", "weight", *DEVICE_NAMES):
        return name_text(str(value))
    return format_limit(key, value)


def changes_text(changed: Sequence[Mapping[str, Any]], point: str) -> str:
    """The result of a change, a line for each value: "disk.img: bps 1M -> 2M"."""
    lines = []
    for one in changed:
        before, after = one["before"], one["after"]
        name = name_text(one["name"])
        what = {"image": name, "group": f"group {name}", "default": name_text(point)}
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


def mount_text(source: str, target: str) -> str:
    """What is mounted where."""
    return f"{name_text(source)} on {name_text(target)}"


def power_text(power: Mapping[str, Any]) -> str:
    """Whether a volatile disk has power, and what it would lose."""
    if power["state"] == "off":
        return "volatile: power is off"
    return (
        f"volatile: power is on; {format_size(power['dirty-bytes'])} and"
        f" {_counted(power['changes'], 'change')} are not flushed,"
        f" undo log {format_size(power['log-bytes'])}"
    )


_SHOW_COLUMNS: Final = (
    Column("", wide=Wide.ELIDED),
    Column("limits", wide=Wide.FOLDED),
    Column("device", wide=Wide.FOLDED),
    Column("group", wide=Wide.ELIDED),
    Column("weight", right=True, spare=2),
    Column("open", right=True),
    Column("waiting", right=True),
    Column("read", right=True, spare=1),
    Column("written", right=True, spare=1),
)
_DEVICE: Final = 2
"""The column of devices, which is left out if there is none."""


def print_status(status: Mapping[str, Any], one_image: bool) -> None:
    """Print the default, the groups and the images of a mount, or one image alone."""
    rows: list[list[str]] = []
    if not one_image:
        rows.append(["(default)", *_said(status["default"], "group")])
        for group in status["groups"]:
            members = _counted(group["members"], "member")
            name = name_text(f"(group {group['name']})")
            rows.append([name, *_said(group, "parent"), members])
    for image in status["images"]:
        waiting = image["waiting"]["read"] + image["waiting"]["write"]
        rows.append(
            [
                name_text(image["device"]),
                *_said(image, "group"),
                str(image["handles"]),
                str(waiting),
                format_size(image["bytes"]["read"]),
                format_size(image["bytes"]["write"]),
            ]
        )
    columns = list(_SHOW_COLUMNS)
    if all(row[_DEVICE] == "-" for row in rows):
        del columns[_DEVICE]
        for row in rows:
            del row[_DEVICE]
    print_table(columns, rows)


def _said(state: Mapping[str, Any], group: str) -> tuple[str, str, str, str]:
    return (
        _limits_in_force(state),
        _disk_text(state),
        name_text(state[group] or "-"),
        str(state["weight"]),
    )


def _stats_columns(per: str) -> tuple[Column, ...]:
    """The columns of statistics; *per* is the unit of counts."""
    return (
        Column("image", wide=Wide.ELIDED),
        Column("", right=True),
        Column(f"requests{per}", right=True),
        Column(f"bytes{per}", right=True),
        Column("errors", right=True),
        Column("delayed", right=True, spare=3),
        Column("waiting", right=True),
        Column("most", right=True, spare=4),
        Column("wait p50", right=True),
        Column("p99", right=True),
        Column("service p50", right=True, spare=2),
        Column("p99", right=True, spare=1),
    )


def _print_figures(rows: Sequence[Row], rates: bool) -> None:
    """Print what images did: *rates* says a second, else in all."""
    lines = []
    for row in rows:
        for name, activity in (("read", row.read), ("write", row.write)):
            device = name_text(row.device) if name == "read" else ""
            lines.append([device, name, *_cells(activity, row.seconds if rates else 1.0)])
    print_table(_stats_columns("/s" if rates else ""), lines)


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


_RULE_COLUMNS: Final = (
    Column("rule", right=True),
    Column("what", wide=Wide.ELIDED),
    Column("matched", right=True),
    Column("fired", right=True),
    Column("waiting", right=True, spare=1),
    Column("now", spare=2),
)


def print_rules(rules: Sequence[Mapping[str, Any]]) -> None:
    """Print fault rules, each with its counts and whether its time is now."""
    cells = [
        [
            str(rule["rule"]),
            printable(rule["text"]),
            str(rule["matched"]),
            str(rule["fired"]),
            str(rule["waiting"]),
            "on" if rule["active"] else "off",
        ]
        for rule in rules
    ]
    print_table(_RULE_COLUMNS, cells)


_LOST_COLUMNS: Final = (
    Column("file", wide=Wide.ELIDED),
    Column("lost", right=True),
    Column("size", right=True),
    Column("size after", right=True),
)


def print_cut(report: Mapping[str, Any]) -> None:
    """Print what a power cut has lost, or would."""
    files, names = report["files"], report["names"]
    lost = f"{format_size(report['lost-bytes'])} of {_counted(len(files), 'file')}"
    undone = _counted(report["undone-changes"], "change")
    if not report["lost-bytes"] and not report["undone-changes"]:
        lost, undone = "nothing", "nothing"
    if report["dry-run"]:
        print(f"a power cut with seed {report['seed']} would lose {lost} and undo {undone}")
    else:
        print(f"power is off, seed {report['seed']}: lost {lost}, undid {undone}")
    if files:
        print_table(
            _LOST_COLUMNS,
            [
                [
                    name_text(one["file"]),
                    format_size(one["lost-bytes"]),
                    str(one["size"]),
                    str(one["size-after"]),
                ]
                for one in files
            ],
        )
    for text in names:
        print(f"undone: {name_text(text)}")
    for text in report["not-rolled-back"]:
        print(f"not rolled back: {name_text(text)}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def print_stats(rows: Sequence[Row], *, as_json: bool, rates: bool) -> None:
    """Print what images did, as a table or as JSON."""
    if as_json:
        for row in rows:
            print(json.dumps(_as_json(row, rates)), flush=True)
    else:
        _print_figures(rows, rates)


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
        # The key of a bucket is the duration (ns) that all counts up to it are below.
        found[f"{name}_histogram_ns"] = {
            f"{upper_bound_ns(bucket):.0f}": count
            for bucket, count in enumerate(histogram)
            if count
        }
    return found
