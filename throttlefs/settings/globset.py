"""Finds the first of many patterns that matches a path.

All patterns are matched at once. Each step of each pattern has one bit of a large integer, and a
set bit means that the pattern may be at that step: the Shift-And method of Baeza-Yates and Gonnet
("A new approach to text searching", 1992), with bits that stay set for ``*`` and ``**`` (Navarro
and Raffinot, "Flexible Pattern Matching in Strings", 2002, chapter 4). A character costs a few
operations on integers that have as many bits as all patterns have steps. So the time is at most
proportional to the length of the path times the length of the patterns. Nothing is tried twice, as
regular expressions may do.

The state after each directory is remembered, so a further file in it costs its own name only.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import Final

from .globs import CharacterSet, Glob, Wildcard

_MOST_KEPT: Final = 8 << 20
"""Bytes that the states of directories may take; beyond this all of them are forgotten."""

_MOST_CHARACTERS: Final = 4096
"""How many characters have their steps remembered, for the same reason."""

_PER_ENTRY: Final = 250
"""About how many bytes Python takes for an entry beside its text."""


class _State:
    """Where the patterns may be after some directories, and after one more directory."""

    __slots__ = ("bits", "inner")

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.inner: dict[str, _State] = {}


class GlobSet:
    """Finds the first of *globs* that matches a path."""

    def __init__(self, globs: Sequence[Glob]) -> None:
        steps = _Steps()
        for glob in globs:
            steps.add(glob)
        self._ends = steps.ends
        self._end_bits = steps.mask(steps.ends)
        self._accepts = _Accepts(steps)
        self._accepts_slash = steps.mask(steps.literals.get("/", ()))
        self._stays_in_name = steps.mask(steps.stars + steps.globstars + steps.directories)
        self._stays_at_slash = steps.mask(steps.globstars + steps.directories)
        self._directories = steps.mask(steps.directories)
        self._begin = self._at_name(steps.mask(steps.starts))
        self._forget()

    def first(self, path: str) -> int | None:
        """The number of the first pattern that matches all of *path*; None if none does.

        *path* is relative and has no leading ``/``. If it is not UTF-8, ``?`` matches one character
        or one undecodable byte (surrogateescape).
        """
        *directories, name = path.split("/")
        state = self._root
        for directory in directories:
            state = state.inner.get(directory) or self._enter(state, directory)
            if not state.bits:
                return None
        matching = self._through(state.bits, name) & self._end_bits
        if not matching:
            return None
        # The patterns have their bits in order.
        lowest = (matching & -matching).bit_length() - 1
        return bisect_left(self._ends, lowest)

    def _through(self, bits: int, name: str) -> int:
        """*bits* after the characters of *name*, none of which is ``/``."""
        accepts, stays = self._accepts, self._stays_in_name
        for character in name:
            bits = (bits & accepts[character]) << 1 | bits & stays
            if not bits:
                break
        return bits

    def _enter(self, state: _State, directory: str) -> _State:
        """The state after *directory* and its ``/``; it is remembered."""
        bits = self._through(state.bits, directory)
        bits = self._at_name((bits & self._accepts_slash) << 1 | bits & self._stays_at_slash)
        if self._kept > _MOST_KEPT:
            self._forget()
        inner = self._states.get(bits)
        if inner is None:
            inner = self._states[bits] = _State(bits)
            self._kept += sys.getsizeof(bits) + _PER_ENTRY
        state.inner[directory] = inner
        self._kept += sys.getsizeof(directory) + _PER_ENTRY
        return inner

    def _at_name(self, bits: int) -> int:
        """*bits* at the start of a name, where ``**/`` may end."""
        return bits | (bits & self._directories) << 1

    def _forget(self) -> None:
        self._root = _State(self._begin)
        self._states = {self._begin: self._root}
        self._kept = 0


def _no_bits() -> array[int]:
    return array("I")  # a file of 100,000 patterns has millions of steps


class _Steps:
    """The numbers of the bits of all patterns, by what each step takes.

    A step that takes one character has a bit, and each pattern has one more for its end. ``*``
    and ``**`` have none of their own: the bit at which they stand stays set. ``**/`` has one that
    stays set, and at the start of a name the bit after it is set as well.
    """

    def __init__(self) -> None:
        self._next = 0
        self.starts = _no_bits()
        self.ends = _no_bits()
        self.literals: dict[str, array[int]] = {}
        self.any = _no_bits()
        self.sets: list[tuple[int, CharacterSet]] = []
        self.stars = _no_bits()
        self.globstars = _no_bits()
        self.directories = _no_bits()

    def add(self, glob: Glob) -> None:
        """Give the steps of *glob* the bits after those of the patterns before."""
        self.starts.append(self._next)
        before = None
        for step in glob.steps:
            if step is Wildcard.STAR:
                self.stars.append(self._next)
            elif step is Wildcard.GLOBSTAR:
                self.globstars.append(self._next)
            elif step is not Wildcard.DIRECTORIES:
                self._takes(step)
                self._next += 1
            elif before is not Wildcard.DIRECTORIES:  # "**/**/" means the same as "**/"
                self.directories.append(self._next)
                self._next += 1
            before = step
        self.ends.append(self._next)
        self._next += 1

    def _takes(self, step: str | Wildcard | CharacterSet) -> None:
        if isinstance(step, str):
            self.literals.setdefault(step, _no_bits()).append(self._next)
        elif isinstance(step, CharacterSet):
            self.sets.append((self._next, step))
        else:
            self.any.append(self._next)

    def mask(self, bits: Iterable[int]) -> int:
        """The integer in which *bits* are set."""
        octets = bytearray(self._next // 8 + 1)
        for bit in bits:
            octets[bit >> 3] |= 1 << (bit & 7)
        return int.from_bytes(octets, "little")


class _Accepts(dict[str, int]):
    """The bits of the steps that take a character, for each character but ``/``.

    Characters that no pattern tells apart share one integer.
    """

    def __init__(self, steps: _Steps) -> None:
        super().__init__()
        self._steps = steps
        edges = {ord(character) + after for character in steps.literals for after in (0, 1)}
        for _, members in steps.sets:
            for first, last in members.ranges:
                edges |= {ord(first), ord(last) + 1}
        self._edges = sorted(edges)
        self._masks: dict[int, int] = {}

    def __missing__(self, character: str) -> int:
        alike = bisect_right(self._edges, ord(character))
        mask = self._masks.get(alike)
        if mask is None:
            mask = self._masks[alike] = self._mask(character)
        if len(self) >= _MOST_CHARACTERS:
            self.clear()
        self[character] = mask
        return mask

    def _mask(self, character: str) -> int:
        steps = self._steps
        bits = [*steps.any, *steps.literals.get(character, ())]
        bits += [bit for bit, members in steps.sets if character in members]
        return steps.mask(bits)
