"""Makes text for people: names fit on a line, and the terminal can show them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from typing import Final, TextIO

from throttlefs.settings.units import printable

LONGEST_NAME: Final = 200
"""Columns of a path in a line of text; a longer one loses its middle."""

_GAP: Final = "..."
_LONG_WORD: Final = re.compile(rf"\S{{{LONGEST_NAME + 1},}}")


def write_anything(*streams: TextIO | None) -> None:
    """Let *streams* take any character: those that their encoding lacks are escaped.

    In a locale such as C, or with PYTHONIOENCODING=ascii, printing a name would fail otherwise.
    """
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def print_utf8(text: str) -> None:
    """Print *text* in UTF-8, whatever the encoding of stdout."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # no file
        sys.stdout.write(text)
    else:
        sys.stdout.flush()
        binary.write(text.encode())


def print_now(text: str) -> None:
    """Print *text* on one line, at once, without characters that a terminal would act on."""
    print(printable(text), flush=True)


def in_utf8(text: str) -> str:
    """*text* with its undecoded bytes (surrogateescape) decoded as UTF-8, as far as possible.

    In some locales Python decodes arguments and paths as ASCII.
    """
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text


def can_show(text: str) -> bool:
    """Whether the encoding of stdout has all of *text*."""
    try:
        text.encode(_encoding())
    except UnicodeEncodeError:
        return False
    return True


def name_text(name: str, longest: int = LONGEST_NAME) -> str:
    """*name* as stdout shows it: printable, in its encoding, at most *longest* columns wide."""
    encoding = _encoding()
    shown = printable(in_utf8(name)).encode(encoding, "backslashreplace").decode(encoding)
    return elided(shown, longest)


def _encoding() -> str:
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def elided(text: str, longest: int) -> str:
    """*text* without its middle if it takes more than *longest* columns (at least 4).

    The end of a path tells files apart, and its beginning mounts, so both stay.
    """
    if text.isascii():
        if len(text) <= longest:
            return text
        half = (longest - len(_GAP)) // 2
        return text[: longest - len(_GAP) - half] + _GAP + text[len(text) - half :]
    from rich.cells import cell_len

    if cell_len(text) <= longest:
        return text
    room = longest - len(_GAP)
    tail = text[len(text) - _fitting(reversed(text), room // 2) :]
    head = text[: _fitting(text, room - cell_len(tail))]
    return head + _GAP + tail


def _fitting(characters: Iterable[str], columns: int) -> int:
    """How many of *characters* fit into *columns*."""
    from rich.cells import cell_len

    count = 0
    for character in characters:
        columns -= cell_len(character)
        if columns < 0:
            break
        count += 1
    return count


def message_text(message: str, arguments: Iterable[str]) -> str:
    """*message* as one line of moderate length for stderr.

    Paths in it that are too long lose their middle. These are the *arguments* of the command, also
    in their absolute form, and all other words.
    """
    for argument in arguments:
        for path in (os.path.abspath(argument), argument):
            if len(path) > LONGEST_NAME:
                message = message.replace(path, elided(path, LONGEST_NAME))
    line = printable(in_utf8(" ".join(message.split())))
    return _LONG_WORD.sub(lambda word: elided(word[0], LONGEST_NAME), line)
