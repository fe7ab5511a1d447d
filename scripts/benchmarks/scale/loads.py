"""The loads: each asks for 3,000 requests/s in all, from ever more of something."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOTAL = 3000.0
"""Requests/s of a case, all images together."""
WAITING = 1000.0
"""Of these, the requests/s of images that wait nearly all the time; busy ones have the rest."""


@dataclass(frozen=True)
class Load:
    """One case: files, which of them are read, and what holds them to their rates."""

    files: Sequence[str] = ()
    """Relative to the directory of images; those of no limit are open, and nobody reads them."""
    limited: Sequence[Mapping[str, Any]] = ()
    """Arguments of `benchmarks.crowd.Limited`."""
    config: str = ""
    """The configuration file."""
    mounts: int = 1
    waiting: int = 0
    """How many requests wait nearly all the time."""


@dataclass(frozen=True)
class Kind:
    """A series of cases."""

    name: str
    title: str
    method: str
    sizes: Sequence[int]
    make: Callable[[int], Load] = field(repr=False)


def _names(directory: str, count: int) -> list[str]:
    return [f"{directory}/{number:05}" for number in range(count)]


def images(count: int) -> Load:
    """One in ten images waits all the time, one in a hundred is busy, the others are idle."""
    waiting, busy = max(1, count // 10), max(1, count // 100)
    slow, fast = WAITING / waiting, (TOTAL - WAITING) / busy
    groups = {
        "waiting": _names("waiting", waiting),
        "busy": _names("busy", busy),
        "idle": _names("idle", count - waiting - busy),
    }
    return Load(
        files=[name for names in groups.values() for name in names],
        limited=[
            *({"files": [name], "depth": 1, "rate": slow} for name in groups["waiting"]),
            *({"files": [name], "depth": 4, "rate": fast} for name in groups["busy"]),
        ],
        config=_image("waiting/*", iops=slow) + _image("busy/*", iops=fast),
        waiting=waiting + 4 * busy,
    )


def depths(depth: int) -> Load:
    """One image, with so many requests under way."""
    names = _names("one", 1)
    return Load(
        files=names,
        limited=[{"files": names, "depth": depth, "rate": TOTAL}],
        config=_image("one/*", iops=TOTAL),
        waiting=depth,
    )


GROUPED = 100
"""Images in all groups together."""
LEVELS = 4
"""Groups within one another, in the last of these cases."""


def groups(count: int) -> Load:
    """A hundred images, in so many groups; 0: none, each image has its own limit."""
    names = _names("grouped", GROUPED)
    if not count:
        rate = TOTAL / GROUPED
        limited = [{"files": [name], "depth": 2, "rate": rate} for name in names]
        return Load(names, limited, _image("grouped/*", iops=rate), waiting=2 * GROUPED)
    each = GROUPED // count
    config, limited, renamed = "", [], []
    for number in range(count):
        members = [f"grouped{number:02}/{member:05}" for member in range(each)]
        renamed += members
        rate = TOTAL / count
        limited.append({"files": members, "depth": 2, "rate": rate})
        config += f"[group.g{number:02}]\niops = {_number(rate)}\n"
        if count > 1:
            config += 'parent = "all"\n'
        config += "\n"
    if count > 1:
        above = [f"above{level}" for level in range(LEVELS - 2)]
        chain = ["all", *above]
        for name, parent in zip(chain, [*chain[1:], None], strict=True):
            config += f"[group.{name}]\niops = {_number(2 * TOTAL)}\n"
            config += f'parent = "{parent}"\n\n' if parent else "\n"
    for number in range(count):
        config += _image(f"grouped{number:02}/*", group=f"g{number:02}")
    return Load(renamed, limited, config, waiting=2 * GROUPED)


def mounts(count: int) -> Load:
    """One image in each of so many mounts."""
    names = _names("one", 1)
    rate = TOTAL / count
    return Load(
        files=names,
        limited=[{"files": names, "depth": 1, "rate": rate}],
        config=_image("one/*", iops=rate),
        mounts=count,
        waiting=count,
    )


def _number(value: float) -> str:
    return repr(value) if value % 1 else str(int(value))


def _image(pattern: str, *, iops: float | None = None, group: str | None = None) -> str:
    lines = ["[[image]]", f'path = "{pattern}"']
    if iops is not None:
        lines.append(f"iops = {_number(iops)}")
    if group is not None:
        lines.append(f'group = "{group}"')
    return "\n".join([*lines, "", ""])


IMAGES = Kind(
    "images",
    "Images open",
    "one in ten waits nearly all the time (depth 1, 1,000 requests/s of all these together), one in"
    " a hundred is busy (depth 4, 2,000 requests/s together), the others are open",
    (100, 1000, 10_000),
    images,
)
DEPTHS = Kind("depths", "Requests under way on one image", "one image", (1, 16, 256, 1024), depths)
GROUPS = Kind(
    "groups",
    f"Groups of {GROUPED} images",
    "depth 2 each; without groups each image has a limit of its own; several groups are in three"
    " more, one within the other, of twice the rate",
    (0, 1, 10, 50),
    groups,
)
MOUNTS = Kind("mounts", "Mounts", "each with one image, depth 1", (1, 16, 64), mounts)
