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
from dataclasses import dataclass, replace
from typing import Any, Final

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from throttlefs.control.locate import Located
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.limits import format_limit
from throttlefs.settings.units import format_byte_rate

from .presentation import duration_text
from .sampling import Answer, Row, Sampler, Use, rows
from .shares import shares_of
from .text import can_show, message_text, name_text

_LABEL: Final = 24
"""Columns for the name of an image; to give it more, nothing else gets narrower."""

_NARROWEST_LABEL: Final = 4

_SORTS: Final[dict[str, tuple[str, Callable[[Row], Any]]]] = {
    "r": ("rate", lambda row: (-row.byte_rate, row.device)),
    "i": ("requests", lambda row: (-row.request_rate, row.device)),
    "w": ("waiting", lambda row: (-row.waiting, row.device)),
    "t": ("time waited", lambda row: (-(row.wait_quantile(0.99) or 0), row.device)),
    "n": ("name", lambda row: row.device),
}


@dataclass
class View:
    """The choices of the user."""

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
        self.notes: list[str] = []
        """A line for each group that shares its limits with other hosts."""

    def look(self) -> list[Row]:
        """The rows of its images since the last look. Raises `ThrottlefsError`."""
        now = self._sampler.sample()
        found = rows(now, self._before or now)
        self._before = now
        self.notes = shares_of(now["groups"])
        return found


Rows = list[tuple[str, list[Row]]]
"""The rows of each mount point."""


def watch(mounts: Sequence[Located], interval: float, count: int | None) -> None:
    """Show the images of *mounts* every *interval* seconds, until the user quits.

    It ends after *count* looks. Raises `ThrottlefsError`, also when the last mount is gone.
    """
    with ExitStack() as stack:
        watched = []
        for mount in mounts:
            try:
                session = stack.enter_context(mount.session())
            except ThrottlefsError as exc:
                # One dead mount must not hide the others.
                if len(mounts) == 1:
                    raise
                print(f"throttlefs: {message_text(str(exc), ())}", file=sys.stderr)
            else:
                watched.append(_Watched(mount, Sampler(session, mount.device)))
        if not watched:
            raise ThrottlefsError("none of the mounts answers")
        _look(watched)  # what happened before the first interval does not count
        if _is_screen():
            _watch_live(watched, interval, count)
        else:
            _watch_plain(watched, interval, count)


def _is_screen() -> bool:
    """Whether stdin and stdout are a terminal that can place text on its screen."""
    dumb = os.environ.get("TERM", "") in ("", "dumb", "unknown")
    return sys.stdin.isatty() and sys.stdout.isatty() and not dumb


def _unlimited(row: Row) -> str:
    """The text for an image without a known limit; the limits of a closed one are unknown."""
    if "profile" in row.disk:
        return f"profile={name_text(row.disk['profile'], 40)}"
    if row.disk:
        return ",".join(f"{name}={value}" for name, value in row.disk.items())
    return "no limit" if row.handles else "not open"


def _look(watched: list[_Watched]) -> Rows:
    """Look at each mount once; mounts that are gone are dropped from *watched*."""
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
        for note in _notes(watched):
            print(note)
        sys.stdout.flush()
        done += 1


def _notes(watched: list[_Watched]) -> list[str]:
    return [note for one in watched for note in one.notes]


def _plain_line(point: str, row: Row) -> str:
    use = (
        f"{row.tightest.share:.0%} of {_limit_text(row, row.tightest)}"
        if row.tightest
        else _unlimited(row)
    )
    waits = " ".join(
        f"{name} {duration_text(row.wait_quantile(part))}"
        for name, part in (("p50", 0.5), ("p99", 0.99))
    )
    return (
        f"{name_text(os.path.join(point, row.device))}: {format_byte_rate(row.byte_rate)}"
        f" {row.request_rate:.0f} requests/s, {use}, {row.waiting} waiting, wait {waits}"
        + (f", service p99 {duration_text(row.service_quantile(0.99))}" if row.disk else "")
    )


def _limit_text(row: Row, use: Use, whole: bool = True) -> str:
    """The limit; if *whole* with the group that has it, and the profile of the image's disk."""
    whose = []
    if whole and use.group is not None:
        whose.append(f"group {name_text(use.group, 40)}")
    if whole and "profile" in row.disk:
        whose.append(name_text(row.disk["profile"], 40))
    names = f" ({', '.join(whose)})" if whose else ""
    return f"{use.limit}={format_limit(use.limit, use.value)}{names}"


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
            screen = render(found, view, *console.size, _notes(watched))
            live.update(screen, refresh=True)


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


def render(
    mounts: Rows, view: View, width: int = 120, height: int = 50, notes: Sequence[str] = ()
) -> RenderableType:
    """The whole screen of *width* columns, as many images as fit into *height* lines.

    *notes* are lines that stand above the images.
    """
    name, order = _SORTS[view.sort]
    state = Text(" paused ", style="reverse") if view.paused else Text("")
    room = max(_LABEL, (width - len("throttlefs top  paused  ")) // len(mounts) - len(", "))
    points = ", ".join(name_text(point, room) for point, _ in mounts)
    head = Text.assemble(("throttlefs top ", "bold"), state, " ", points)
    every = [(point, row) for point, found in mounts for row in found]
    every.sort(key=lambda item: order(item[1]))
    above = [Text(note) for note in notes[: max(0, height - 6)]]
    fitting = max(1, height - 4 - len(above))
    shown = [
        (row.device if len(mounts) == 1 else os.path.join(point, row.device), row)
        for point, row in every[:fitting]
    ]
    more = f"{len(every) - fitting} more   " if len(every) > fitting else ""
    keys = Text(
        f"{more}sorted by {name}   q quit  space pause"
        "   r rate  i requests  w waiting  t time  n name",
        style="dim",
    )
    for line in (head, *above, keys):
        line.no_wrap, line.overflow = True, "crop"
    return Group(head, *above, _table(shown, width), keys)


@dataclass(frozen=True, slots=True)
class _Layout:
    """A choice of what is shown for each image."""

    bar: int
    """Columns of the bar; 0 for none."""
    group: bool
    """Whether a limit is shown with the names of its group and of the profile."""
    figures: tuple[str, ...]
    """Keys of `_FIGURES`."""

    @property
    def title(self) -> str:
        """The title of the bar and the limit."""
        return "of its tightest limit" if self.bar else "limit"


_FIGURES: Final[dict[str, Callable[[Row], str]]] = {
    "req/s": lambda row: f"{row.request_rate:.0f}",
    "waiting": lambda row: str(row.waiting),
    "wait p50": lambda row: duration_text(row.wait_quantile(0.5)),
    "p99": lambda row: duration_text(row.wait_quantile(0.99)),
    "service p99": lambda row: duration_text(row.service_quantile(0.99)),
}

_OF_A_DEVICE: Final = "service p99"
"""The figure that is shown if any image has a slow device."""

_USUAL: Final = tuple(name for name in _FIGURES if name != _OF_A_DEVICE)

_LAYOUTS: Final = (
    *(_Layout(bar, True, _USUAL) for bar in (20, 10, 5, 0)),
    *(_Layout(0, group, ("req/s", "waiting", "p99")) for group in (True, False)),
    _Layout(0, False, ("waiting", "p99")),
    _Layout(0, False, ("waiting",)),
    _Layout(0, False, ()),
)
"""From the widest to the narrowest."""


def _table(images: Sequence[tuple[str, Row]], width: int) -> Table:
    """The rows of *images*, each with its label, in the widest layout that fits *width*."""
    rates = [format_byte_rate(row.byte_rate) for _, row in images]
    longest = max((cell_len(name_text(label)) for label, _ in images), default=0)
    layouts = list(_LAYOUTS)
    if any(row.disk for _, row in images):
        full = [layout for layout in _LAYOUTS if layout.figures == _USUAL]
        layouts = [replace(layout, figures=(*_USUAL, _OF_A_DEVICE)) for layout in full] + layouts
    for layout in layouts:
        uses = [_use(row, layout) for _, row in images]
        columns = [["rate", *rates], [layout.title, *(use.plain for use in uses)]]
        columns += [[name, *(_FIGURES[name](row) for _, row in images)] for name in layout.figures]
        others = sum(2 + max(map(cell_len, column)) for column in columns)
        room = max(_NARROWEST_LABEL, width - others)
        if others + min(longest, _LABEL) <= width:
            break
    table = Table(box=None, pad_edge=False, expand=True, header_style="bold")
    table.add_column("image", overflow="crop", no_wrap=True, ratio=1, min_width=_NARROWEST_LABEL)
    table.add_column("rate", justify="right", overflow="crop", no_wrap=True)
    table.add_column(layout.title, overflow="crop", no_wrap=True)
    for name in layout.figures:
        table.add_column(name, justify="right", overflow="crop", no_wrap=True)
    for (label, row), rate, use in zip(images, rates, uses, strict=True):
        figures = [Text(_FIGURES[name](row), _style(name, row)) for name in layout.figures]
        table.add_row(Text(name_text(label, room)), rate, use, *figures)
    return table


def _style(figure: str, row: Row) -> str:
    return "yellow" if figure == "waiting" and row.waiting else ""


def _use(row: Row, layout: _Layout) -> Text:
    """How much of its tightest limit an image uses, and which limit that is."""
    use = row.tightest
    if use is None:
        return Text(_unlimited(row), style="dim")
    full, empty = ("█", "░") if can_show("█░") else ("#", ".")
    filled = min(layout.bar, round(use.share * layout.bar))
    style = "red" if use.share > 0.9 else "green"
    return Text.assemble(
        (full * filled, style),
        (empty * (layout.bar - filled), "dim"),
        (
            f" {use.share:4.0%} " if layout.bar else f"{use.share:4.0%} ",
            "" if layout.bar else style,
        ),
        (_limit_text(row, use, layout.group), "dim"),
    )
