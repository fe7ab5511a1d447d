"""Patterns on the path of a file in the mount.

``*`` and ``?`` match within one name of the path, ``**`` also matches ``/``, and ``**/`` at the
start of a name stands for any number of directories, none included. ``[a-z]`` is one character
of a set, ``[!a-z]`` or ``[^a-z]`` one outside it, never ``/``. A backslash takes the next
character literally. Letters are matched by case and a leading dot is nothing special.

The matching keeps the set of positions that the pattern may be at, so that its time is at worst
the product of both lengths: a pattern with many stars costs no exponential time, as it may with
regular expressions.
"""

from __future__ import annotations

from typing import Final

from .units import quoted

LONGEST_PATTERN: Final = 8192
"""Characters: a path (PATH_MAX) with each one escaped. Matching takes pattern times path."""


class GlobError(ValueError):
    """A pattern that cannot be; the message is one line that says why."""


class _Wildcard:
    """A step of a pattern that is the same wherever it stands."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


_ANY: Final = _Wildcard("?")
_STAR: Final = _Wildcard("*")
_GLOBSTAR: Final = _Wildcard("**")
_DIRECTORIES: Final = _Wildcard("**/")  # two steps: before a directory's name, and within it
_WITHIN: Final = _Wildcard("")

_SKIPPABLE: Final = {_STAR: 1, _GLOBSTAR: 1, _DIRECTORIES: 2}  # how many steps to skip


class _Set:
    """A step that is a bracket expression."""

    def __init__(self, ranges: list[tuple[str, str]], inverted: bool) -> None:
        self._ranges = ranges
        self._inverted = inverted

    def __contains__(self, character: str) -> bool:
        inside = any(first <= character <= last for first, last in self._ranges)
        return inside != self._inverted and character != "/"


# A string is one literal character.
_Step = str | _Wildcard | _Set


class Glob:
    """One pattern; `text` is how it was written. Raises `GlobError`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._steps = _parse(text)
        length = 0
        while length < len(self._steps) and isinstance(self._steps[length], str):
            length += 1
        # Most patterns are told apart by their first characters, at the speed of startswith().
        self._prefix = "".join(str(step) for step in self._steps[:length])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Glob) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Glob({self.text!r})"

    def matches(self, path: str) -> bool:
        """Whether all of *path* matches, which is relative and has no leading ``/``.

        Of a path that is not UTF-8, ``?`` matches one character or one undecodable byte
        (surrogateescape).
        """
        if not path.startswith(self._prefix):
            return False
        start = len(self._prefix)
        steps = self._steps
        positions = self._settled({start})
        for character in path[start:]:
            following: set[int] = set()
            for position in positions:
                if position < len(steps):
                    self._advance(position, character, following)
            if not following:
                return False
            positions = self._settled(following)
        return len(steps) in positions

    def _advance(self, position: int, character: str, following: set[int]) -> None:
        """Add to *following* where *character* leads from *position*."""
        step = self._steps[position]
        if step is _STAR:
            if character != "/":
                following.add(position)
        elif step is _GLOBSTAR:
            following.add(position)
        elif step is _DIRECTORIES:
            following.add(position if character == "/" else position + 1)
        elif step is _WITHIN:
            following.add(position - 1 if character == "/" else position)
        elif step is _ANY:
            if character != "/":
                following.add(position + 1)
        elif isinstance(step, _Set):
            if character in step:
                following.add(position + 1)
        elif step == character:
            following.add(position + 1)

    def _settled(self, positions: set[int]) -> set[int]:
        """*positions* and those reached from them without a character."""
        pending = list(positions)
        while pending:
            position = pending.pop()
            step = self._steps[position] if position < len(self._steps) else None
            if isinstance(step, _Wildcard) and step in _SKIPPABLE:
                beyond = position + _SKIPPABLE[step]
                if beyond not in positions:
                    positions.add(beyond)
                    pending.append(beyond)
        return positions


def _parse(text: str) -> list[_Step]:
    rest = text.removeprefix("/").removeprefix("./")
    if not rest:
        raise GlobError("the pattern is empty; '**' matches every file")
    if len(rest) > LONGEST_PATTERN:
        raise GlobError(f"{quoted(text)} is longer than {LONGEST_PATTERN} characters")
    if rest.endswith("/"):
        raise GlobError(f"{quoted(text)} names a directory; its files are {quoted(text + '**')}")
    steps: list[_Step] = []
    position = 0
    while position < len(rest):
        character = rest[position]
        if character == "*":
            end = position
            while rest[end : end + 1] == "*":
                end += 1
            starts_name = position == 0 or rest[position - 1] == "/"
            if end - position == 1:
                steps.append(_STAR)
            elif end - position == 2 and starts_name and rest[end : end + 1] == "/":
                steps += [_DIRECTORIES, _WITHIN]
                end += 1
            else:
                steps.append(_GLOBSTAR)
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
            steps.append(_ANY if character == "?" else character)
            position += 1
    return steps


def _parse_set(text: str, rest: str, opening: int) -> tuple[_Set, int]:
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
    return _Set(ranges, inverted), position + 1


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
