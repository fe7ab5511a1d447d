"""Names in messages and tables: whole if short, without their middle else, and always shown."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from throttlefs.cli.text import (
    LONGEST_NAME,
    can_show,
    elided,
    message_text,
    name_text,
    write_anything,
)


@given(st.text(max_size=60), st.integers(4, 50))
def test_what_is_too_wide_loses_its_middle_and_nothing_else(text: str, longest: int) -> None:
    short = elided(text, longest)
    assert cell_len(short) <= max(longest, 3)
    if cell_len(text) <= longest:
        assert short == text
    else:
        head, _, tail = short.rpartition("...")
        assert text.startswith(head)
        assert text.endswith(tail)
        # A wide character may leave a column empty on either side.
        assert cell_len(short) >= longest - 2


def test_the_beginning_and_the_end_stay() -> None:
    assert elided("/srv/images/vm/disk.img", 15) == "/srv/i...sk.img"
    assert elided("/日本/日本/日本/disk.img", 15) == "/日本/...sk.img"


def test_a_name_is_shown_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert name_text("bild-ü.img") == "bild-\\xfc.img"
    assert name_text("a\x1b[31m") == "a\\x1b[31m"
    assert not can_show("█")
    write_anything(sys.stdout, None)
    print("ü", flush=True)
    assert written.getvalue() == b"\\xfc\n"


def test_a_name_is_itself_where_it_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert name_text("bild-ü.img") == "bild-ü.img"
    assert name_text("a\udcff") == "a\\udcff"
    assert name_text("a\udcc3\udcbc") == "aü", "Python took it for ASCII"
    assert name_text("a\ud800") == "a\\ud800"
    assert can_show("█")


def test_a_message_is_one_line_of_moderate_length() -> None:
    long, spaced = "/x" * 3000, "/a b" * 1500
    line = message_text(f"DST {long}: is\nno {spaced}; use {spaced}", ["mount", spaced])
    assert "\n" not in line
    assert len(line) < 4 * LONGEST_NAME
    assert line.startswith("DST /x/x")
    assert line.endswith("/a b")
    assert message_text("SRC a\udcc3\udcbc\x07: no", []) == "SRC aü\\x07: no"
    short = "d" * LONGEST_NAME
    assert message_text(f"DST {short}", [short]) == f"DST {short}"


def test_a_relative_path_is_shortened_where_it_is_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    path = "a b/" * 100 + "c"
    assert len(message_text(f"/{path} is no mount", ["umount", path])) < 2 * LONGEST_NAME
