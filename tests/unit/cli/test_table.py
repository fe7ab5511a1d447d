"""Tables on terminals of any width, and without one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from throttlefs.cli.presentation import _SHOW_COLUMNS, _stats_columns
from throttlefs.cli.table import Column, Wide, table_lines

COLUMNS = (
    Column("name", wide=Wide.ELIDED),
    Column("limits", wide=Wide.FOLDED),
    Column("size", right=True),
    Column("more", right=True, spare=1),
    Column("most", right=True, spare=2),
)
ROWS = [
    ["disk.img", "bps=1M,iops=500", "1.2 MiB", "5", "7"],
    ["a-long-name-of-an-image.qcow2", "-", "0 B", "17", "1"],
    ["(default)", "bps=20M"],
]


def test_with_room_each_row_is_a_line() -> None:
    assert table_lines(COLUMNS, ROWS, 100) == [
        "name                           limits              size  more  most",
        "disk.img                       bps=1M,iops=500  1.2 MiB     5     7",
        "a-long-name-of-an-image.qcow2  -                    0 B    17     1",
        "(default)                      bps=20M",
    ]


def test_limits_are_folded_first_then_names_lose_their_middle() -> None:
    narrow = table_lines(COLUMNS, ROWS, 56)
    assert narrow[1].split() == ["disk.img", "bps=1M,", "1.2", "MiB", "5", "7"]
    assert narrow[2].split() == ["iops=500"]
    assert narrow[3].startswith("a-long-nam")
    assert "..." in narrow[3]
    assert max(map(len, narrow)) == 56


def test_then_columns_are_left_out_the_least_needed_first() -> None:
    assert table_lines(COLUMNS, ROWS, 54)[0].split() == ["name", "limits", "size", "more"]
    assert table_lines(COLUMNS, ROWS, 48)[0].split() == ["name", "limits", "size"]
    assert table_lines(COLUMNS, ROWS, 33)[3].startswith("a-long...qcow2  -  ")
    assert table_lines(COLUMNS, ROWS, 5)[0].split() == ["name", "limits", "size"]


def test_what_is_no_terminal_gets_every_column_and_a_line_a_row() -> None:
    rows = [["d" * 6000, "bps=1M,iops=500", "1", "2", "3"], *ROWS]
    lines = table_lines(COLUMNS, rows, None)
    assert len(lines) == 1 + len(rows)
    assert lines[0].split() == ["name", "limits", "size", "more", "most"]
    assert max(map(len, lines)) < 150
    assert lines[1].startswith("ddd")
    assert "..." in lines[1]


_CELLS = st.text("ab,/日", max_size=30)


@given(st.lists(st.lists(_CELLS, max_size=5), max_size=5), st.integers(1, 120) | st.none())
def test_lines_fit_wherever_they_can(rows: list[list[str]], width: int | None) -> None:
    lines = table_lines(COLUMNS, rows, width)
    assert len(lines) >= 1 + len(rows)
    if width is None:
        assert len(lines) == 1 + len(rows)
        return
    parts = [part for row in rows for cell in row[1:2] for part in cell.split(",")]
    limits = max([6, *(1 + cell_len(part) for part in parts)])
    size = max([4, *(cell_len(row[2]) for row in rows if len(row) > 2)])
    assert max(map(cell_len, lines)) <= max(width, 14 + 2 + limits + 2 + size)


@pytest.mark.parametrize("columns", [_SHOW_COLUMNS, _stats_columns("/s")])
def test_the_tables_of_commands_fit_80_columns(columns: tuple[Column, ...]) -> None:
    """With figures as wide as they commonly get."""
    wide = {
        "limits": "bps=20.5M,iops=20000,bps_max=100M",
        "group": "tenant-production",
        "": "write",
        "requests/s": "123456",
        "bytes/s": "999.9 MiB",
        "errors": "12",
        "waiting": "1000",
        "wait p50": "5.9 ms",
        "p99": "5.9 ms",
    }
    row = ["vm/" + "x" * 60 + ".qcow2"]
    row += [wide.get(column.title, "99.9 MiB") for column in columns[1:]]
    lines = table_lines(columns, [row], 80)
    assert max(map(len, lines)) <= 80
    assert lines[1].split()[0].endswith(".qcow2")
