"""Prints tables of text that fit the terminal: first cells get narrower, then columns go."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from rich.cells import cell_len

from .text import elided

_BETWEEN: Final = 2
"""Columns between two cells."""

_LONGEST_NAME: Final = 100
"""The width of a name when the output is not a terminal."""

_NARROW_NAME: Final = 24
"""Other columns give way until a name has this width."""

_NARROWEST_NAME: Final = 14


class Wide(Enum):
    """What happens to a cell that is too wide."""

    STAYS = "stays"
    ELIDED = "elided"
    """It loses its middle."""
    FOLDED = "folded"
    """It goes on in the next line, after a comma."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    right: bool = False
    """Whether cells are aligned to the right."""
    wide: Wide = Wide.STAYS
    spare: int = 0
    """The column with the highest number is left out first; one with 0 stays."""


Row = Sequence[str]


def terminal_width() -> int | None:
    """How many columns the terminal has; None if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(columns: Sequence[Column], rows: Sequence[Row]) -> None:
    """Print a table to stdout. If that is not a terminal, it gets everything, one line per row."""
    print("\n".join(table_lines(columns, rows, terminal_width())), flush=True)


def table_lines(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[str]:
    """The lines of a table, titles first, in *width* columns if possible; None is no bound.

    A row that is shorter than *columns* has empty cells at its end.
    """
    kept = list(range(len(columns)))
    cells = [[*row, *[""] * (len(columns) - len(row))] for row in rows]
    widths = [
        max(map(cell_len, (column.title, *(row[number] for row in cells))))
        for number, column in enumerate(columns)
    ]
    for number, column in enumerate(columns):
        if column.wide is Wide.ELIDED and width is None:
            widths[number] = min(widths[number], max(_LONGEST_NAME, cell_len(column.title)))
    least_name = _NARROW_NAME
    while width is not None and (excess := _total(widths, kept) - width) > 0:
        if _narrow(columns, cells, kept, widths, excess, least_name):
            continue
        spare = max(kept, key=lambda number: columns[number].spare)
        if columns[spare].spare:
            kept.remove(spare)
        elif least_name > _NARROWEST_NAME:
            least_name = _NARROWEST_NAME
        else:
            break  # the terminal has to wrap the lines
    lines = _laid_out(columns, [column.title for column in columns], kept, widths)
    for row in cells:
        lines += _laid_out(columns, row, kept, widths)
    return lines


def _total(widths: Sequence[int], kept: Sequence[int]) -> int:
    return sum(widths[number] for number in kept) + _BETWEEN * (len(kept) - 1)


def _narrow(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    kept: Sequence[int],
    widths: list[int],
    excess: int,
    least_name: int,
) -> bool:
    """Take as much of *excess* as possible from one column; False if no column gives any.

    Names keep *least_name* columns.
    """
    for wide in (Wide.FOLDED, Wide.ELIDED):
        for number in kept:
            if columns[number].wide is not wide:
                continue
            least = cell_len(columns[number].title)
            if wide is Wide.ELIDED:
                least = max(least, least_name)
            else:
                parts = (part for row in cells for part in _parts(row[number]))
                least = max(least, max(map(cell_len, parts), default=0))
            given = min(excess, widths[number] - least)
            if given > 0:
                widths[number] -= given
                return True
    return False


def _laid_out(
    columns: Sequence[Column], row: Row, kept: Sequence[int], widths: Sequence[int]
) -> list[str]:
    """The lines of one row."""
    stacks = []
    for number in kept:
        text, width = row[number], widths[number]
        if columns[number].wide is Wide.ELIDED:
            stacks.append([elided(text, width)])
        else:
            stacks.append(_folded(text, width))
    lines = []
    for level in range(max(map(len, stacks))):
        cells = []
        for number, stack in zip(kept, stacks, strict=True):
            text = stack[level] if level < len(stack) else ""
            fill = " " * (widths[number] - cell_len(text))
            cells.append(fill + text if columns[number].right else text + fill)
        lines.append((" " * _BETWEEN).join(cells).rstrip())
    return lines


def _parts(text: str) -> list[str]:
    """The parts of *text*, cut after each comma."""
    *parts, last = text.split(",")
    return [*(f"{part}," for part in parts), last]


def _folded(text: str, width: int) -> list[str]:
    lines = [""]
    for part in _parts(text):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines
