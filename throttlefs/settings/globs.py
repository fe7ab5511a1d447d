"""Patterns on the path of a file in the mount.

``*`` and ``?`` match within one name of the path, ``**`` also matches ``/``, and ``**/`` at the
start of a name stands for any number of directories, also none. ``[a-z]`` is one character of a
set, ``[!a-z]`` or ``[^a-z]`` one outside it, never ``/``. A backslash takes the next character
literally. Upper and lower case differ. A leading dot is an ordinary character.

This module reads patterns; `throttlefs.settings.globset` matches them.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from .units import quoted

LONGEST_PATTERN: Final = 8192
"""Characters: a path (PATH_MAX) with each one escaped."""

_SPECIAL: Final = re.compile(r"([*?\[\\])")
_UNDECODABLE: Final = re.compile("[\udc80-\udcff]")


class GlobError(ValueError):
    """A pattern that cannot be used; the message is one line that says why."""


class Wildcard(Enum):
    """A step of a pattern that stands for more than one text."""

    ANY = "?"
    """One character, not ``/``."""
    STAR = "*"
    """Any characters but ``/``, also none."""
    GLOBSTAR = "**"
    """Any characters, also none."""
    DIRECTORIES = "**/"
    """Any directories, each with its ``/``, also none; stands at the start of a name only."""


class CharacterSet:
    """A step that is a bracket expression: one character of a set, or one outside it.

    *ranges* has the first and the last character of each range.
    """

    def __init__(self, ranges: list[tuple[str, str]], inverted: bool) -> None:
        self.ranges = ranges
        self._inverted = inverted

    def __contains__(self, character: str) -> bool:
        inside = any(first <= character <= last for first, last in self.ranges)
        return inside != self._inverted and character != "/"


Step = str | Wildcard | CharacterSet
"""A string is one literal character."""


class Glob:
    """One pattern; `text` is how it was written, `steps` what it means. Raises `GlobError`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = _parse(text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Glob({self.text!r})"


def literal(path: bytes) -> str:
    """A pattern that matches *path*, and nothing else if that is UTF-8."""
    text = path.decode("utf-8", "surrogateescape")
    return _UNDECODABLE.sub("?", _SPECIAL.sub(r"\\\1", text))


def _parse(text: str) -> list[Step]:
    rest = text.removeprefix("/").removeprefix("./")
    if not rest:
        raise GlobError("the pattern is empty; '**' matches every file")
    if len(rest) > LONGEST_PATTERN:
        raise GlobError(f"{quoted(text)} is longer than {LONGEST_PATTERN} characters")
    if rest.endswith("/"):
        raise GlobError(f"{quoted(text)} names a directory; its files are {quoted(text + '**')}")
    steps: list[Step] = []
    position = 0
    while position < len(rest):
        character = rest[position]
        if character == "*":
            end = position
            while rest[end : end + 1] == "*":
                end += 1
            starts_name = position == 0 or rest[position - 1] == "/"
            if end - position == 1:
                steps.append(Wildcard.STAR)
            elif end - position == 2 and starts_name and rest[end : end + 1] == "/":
                steps.append(Wildcard.DIRECTORIES)
                end += 1
            else:
                steps.append(Wildcard.GLOBSTAR)
            position = end
        elif character == "[":
            bracket, position = _parse_set(text, rest, position)
            steps.append(bracket)
        elif character == "\\":
            if position + 1 == len(rest):
                raise GlobError(f"{quoted(text)} ends in a backslash; write two for a literal one")
            steps.append(rest[position + 1])
            position += 2
        else:
            steps.append(Wildcard.ANY if character == "?" else character)
            position += 1
    return steps


def _parse_set(text: str, rest: str, opening: int) -> tuple[CharacterSet, int]:
    """The set that opens at *opening* and the position after it."""
    position = opening + 1
    inverted = rest[position : position + 1] in ("!", "^")
    if inverted:
        position += 1
    ranges: list[tuple[str, str]] = []
    first_item = True  # a ']' here is one of the set
    while first_item or rest[position : position + 1] != "]":
        first_item = False
        first, position = _parse_member(text, rest, position)
        last = first
        if rest[position : position + 1] == "-" and rest[position + 1 : position + 2] != "]":
            last, position = _parse_member(text, rest, position + 1)
        if first > last:
            raise GlobError(
                f"{quoted(text)} has the range {quoted(f'{first}-{last}')}, "
                "which is the wrong way round"
            )
        ranges.append((first, last))
    return CharacterSet(ranges, inverted), position + 1


def _parse_member(text: str, rest: str, position: int) -> tuple[str, int]:
    character = rest[position : position + 1]
    if character == "[" and rest[position + 1 : position + 2] in (":", "=", "."):
        raise GlobError(f"{quoted(text)} has a class like [:alpha:]; write a range such as a-z")
    if character == "\\":
        position += 1
        character = rest[position : position + 1]
    if not character:
        raise GlobError(f"{quoted(text)} has a '[' without its ']'; '[[]' is a literal '['")
    return character, position + 1
