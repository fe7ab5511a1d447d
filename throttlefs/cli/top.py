"""The live view of ``throttlefs top``: a row per image, keys to sort, pause and quit."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from throttlefs.control.locate import Located
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.limits import format_limit
from throttlefs.settings.units import format_byte_rate
from throttlefs.settings.units import printable as plain

from .presentation import duration_text
from .sampling import Answer, Row, Sampler, Use, rows

_BAR: Final = 20
_NARROW: Final = 100
"""Columns below which the bars are shorter."""

_BESIDE_BAR: Final = 66
"""Columns that all else takes."""

_SORTS: Final[dict[str, tuple[str, Callable[[Row], Any]]]] = {
    "r": ("rate", lambda row: (-row.byte_rate, row.device)),
    "i": ("requests", lambda row: (-row.request_rate, row.device)),
    "w": ("waiting", lambda row: (-row.waiting, row.device)),
    "t": ("time waited", lambda row: (-(row.wait_quantile(0.99) or 0), row.device)),
    "n": ("name", lambda row: row.device),
}


@dataclass
class View:
    """What the user has chosen."""

    sort: str = "r"
    paused: bool = False
    ended: bool = False

    def press(self, key: str) -> None:
        """Act on a key; others do nothing."""
        key = key.lower()
        if key in _SORTS:
            self.sort = key
        elif key in (" ", "p"):
            self.paused = not self.paused
        elif key in ("q", "\x03", "\x04"):
            self.ended = True


class _Watched:
    """One mount under watch."""

    def __init__(self, located: Located, sampler: Sampler) -> None:
        self.point = located.point
        self._sampler = sampler
        self._before: Answer | None = None

    def look(self) -> list[Row]:
        """What its images did since the last look. Raises `ThrottlefsError`."""
        now = self._sampler.sample()
        found = rows(now, self._before or now)
        self._before = now
        return found


Rows = list[tuple[str, list[Row]]]
"""The rows of each mount point."""


def watch(mounts: Sequence[Located], interval: float, count: int | None) -> None:
    """Show the images of *mounts* every *interval* seconds, until the user quits.

    *count* looks at most. Raises `ThrottlefsError`, also when the last of the mounts is gone.
    """
    with ExitStack() as stack:
        watched = []
        for mount in mounts:
            try:
                session = stack.enter_context(mount.session())
            except ThrottlefsError as exc:
                # One dead mount is not to hide the others.
                if len(mounts) == 1:
                    raise
                print(f"throttlefs: {plain(str(exc))}", file=sys.stderr)
            else:
                watched.append(_Watched(mount, Sampler(session, mount.device)))
        if not watched:
            raise ThrottlefsError("none of the mounts answers")
        _look(watched)  # what was before the first interval does not count
        if sys.stdin.isatty() and sys.stdout.isatty():
            _watch_live(watched, interval, count)
        else:
            _watch_plain(watched, interval, count)


def _unlimited(row: Row) -> str:
    """What is said of an image that no limit is known of: of a closed one nothing is known."""
    return "no limit" if row.handles else "not open"


def _look(watched: list[_Watched]) -> Rows:
    """One look at each; those that are gone are dropped from *watched*."""
    found: Rows = []
    for one in list(watched):
        try:
            found.append((one.point, one.look()))
        except ThrottlefsError:
            watched.remove(one)
            if not watched:
                raise
    return found


def _watch_plain(watched: list[_Watched], interval: float, count: int | None) -> None:
    done = 0
    while count is None or done < count:
        time.sleep(interval)
        for point, found in _look(watched):
            for row in sorted(found, key=_SORTS["r"][1]):
                print(_plain_line(point, row))
        sys.stdout.flush()
        done += 1


def _plain_line(point: str, row: Row) -> str:
    use = (
        f"{row.tightest.share:.0%} of {_limit_text(row.tightest)}"
        if row.tightest
        else _unlimited(row)
    )
    waits = " ".join(
        f"{name} {duration_text(row.wait_quantile(part))}"
        for name, part in (("p50", 0.5), ("p99", 0.99))
    )
    return (
        f"{plain(os.path.join(point, row.device))}: {format_byte_rate(row.byte_rate)}"
        f" {row.request_rate:.0f} requests/s, {use}, {row.waiting} waiting, wait {waits}"
    )


def _limit_text(use: Use) -> str:
    shared = "" if use.group is None else f" (group {plain(use.group)})"
    return f"{use.limit}={format_limit(use.limit, use.value)}{shared}"


def _watch_live(watched: list[_Watched], interval: float, count: int | None) -> None:
    view = View()
    console = Console()
    found = [(one.point, list[Row]()) for one in watched]
    done = 0
    with (
        _keys() as wait_for_key,
        Live(render(found, view), console=console, screen=True, auto_refresh=False) as live,
    ):
        due = time.monotonic() + interval
        while not view.ended and (count is None or done < count):
            key = wait_for_key(max(0.0, due - time.monotonic()))
            if key is not None:
                view.press(key)
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                if not view.paused:
                    found = _look(watched)
                    done += 1
            live.update(render(found, view, *console.size), refresh=True)


@contextmanager
def _keys() -> Iterator[Callable[[float], str | None]]:
    """Take single keys from the terminal; gives a function that waits for one, in seconds."""
    fd = sys.stdin.fileno()
    saved = termios.tcgetattr(fd)

    def wait(seconds: float) -> str | None:
        if not select.select([fd], [], [], seconds)[0]:
            return None
        data = os.read(fd, 64)
        return data[:1].decode("ascii", "replace") if data else "q"

    try:
        tty.setcbreak(fd)
        yield wait
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def render(mounts: Rows, view: View, width: int = 120, height: int = 50) -> RenderableType:
    """The whole screen of *width* columns, as many images as fit into *height* lines."""
    name, order = _SORTS[view.sort]
    state = Text(" paused ", style="reverse") if view.paused else Text("")
    head = Text.assemble(
        ("throttlefs top ", "bold"), state, " ", ", ".join(plain(p) for p, _ in mounts)
    )
    head.no_wrap, head.overflow = True, "ellipsis"
    parts: list[RenderableType] = [head]
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("image", overflow="ellipsis", no_wrap=True, ratio=1, min_width=12)
    table.add_column("rate", justify="right", no_wrap=True)
    room = max(6, width - _BESIDE_BAR)
    table.add_column("of its tightest limit", no_wrap=True, overflow="ellipsis", max_width=room)
    for title in ("req/s", "waiting", "wait p50", "p99"):
        table.add_column(title, justify="right", no_wrap=True)
    every = [(point, row) for point, found in mounts for row in found]
    every.sort(key=lambda item: order(item[1]))
    fitting = max(1, height - 4)
    for point, row in every[:fitting]:
        label = row.device if len(mounts) == 1 else os.path.join(point, row.device)
        table.add_row(
            Text(plain(label)),
            format_byte_rate(row.byte_rate),
            _use(row, _BAR if width >= _NARROW else _BAR // 4),
            f"{row.request_rate:.0f}",
            Text(str(row.waiting), style="yellow" if row.waiting else ""),
            duration_text(row.wait_quantile(0.5)),
            duration_text(row.wait_quantile(0.99)),
        )
    parts.append(table)
    more = f"{len(every) - fitting} more   " if len(every) > fitting else ""
    parts.append(
        Text(
            f"{more}sorted by {name}   r rate  i requests  w waiting  t time  n name"
            "   space pause  q quit",
            style="dim",
            no_wrap=True,
            overflow="ellipsis",
        )
    )
    return Group(*parts)


def _use(row: Row, length: int) -> Text:
    """A bar of how much of its tightest limit an image uses, and which that is."""
    use = row.tightest
    if use is None:
        return Text(_unlimited(row), style="dim")
    filled = min(length, round(use.share * length))
    style = "red" if use.share > 0.9 else "green"
    return Text.assemble(
        ("█" * filled, style),
        ("░" * (length - filled), "dim"),
        f" {use.share:4.0%} ",
        (_limit_text(use), "dim"),
    )
