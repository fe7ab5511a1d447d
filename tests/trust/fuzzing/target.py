"""What a target of the fuzzers is, and inputs made from valid ones."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

Check = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """`opened` gives the function; `seeds` are valid inputs, `words` what is worth inserting."""

    name: str
    opened: Callable[[], AbstractContextManager[Check]]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]
    long: int
    """Mutations in the long form, by what one takes."""


def plain(check: Check, seeds: list[bytes], words: list[bytes], long: int = 120_000) -> Target:
    """A target that keeps nothing from one input to the next; named as the function."""
    name = check.__name__
    return Target(name, lambda: nullcontext(check), tuple(seeds), tuple(words), long)


def check_line(message: str, longest: int = 1000) -> None:
    """An error is one short line that does nothing to a terminal."""
    assert message, "an error without a text"
    assert message.isprintable(), message
    assert len(message) <= longest, message


NASTY = (
    b"\0", b"\n", b"\r", b"\x1b[31m", b"\x7f", b"\xff", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\\",
    b'"', b"'", b"=", b",", b"-1", b"0", b"1e400", b"nan", b"inf", b"NaN", b"Infinity", b"-0.0",
    b"9" * 5000, b"10" * 30, b"0x" + b"f" * 5000, b"[" * 2000, b"{" * 70, b"\xc2\x85", b"%",
    b"%ff", b"../", b" ", b"\t", b"\xef\xbb\xbf", b"18446744073709551616", b"1.5", b"true", b"null",
)  # fmt: skip


class Mutator:
    """Inputs made from a target's seeds and from what it made before, the same for each seed."""

    def __init__(self, target: Target, seed: int) -> None:
        self._random = random.Random(seed)
        self._pool = list(target.seeds)
        self._fresh = len(self._pool)
        self._words = (*target.words, *target.words, *NASTY)

    def next(self) -> bytes:
        """Another input."""
        chance = self._random
        data = bytearray(chance.choice(self._pool))
        for _ in range(chance.choice((1, 1, 2, 3, 6))):
            at = chance.randrange(len(data) + 1)
            end = min(len(data), at + chance.choice((1, 1, 2, 8, 40)))
            match chance.randrange(6):
                case 0:
                    data[at:end] = chance.randbytes(end - at)
                case 1:
                    del data[at:end]
                case 2:
                    data[at:at] = data[at:end] * chance.choice((1, 2, 20))
                case 3:
                    data[at:end] = chance.choice(self._words)
                case 4:
                    data[at:at] = chance.choice(self._words)
                case _:
                    other = chance.choice(self._pool)
                    data[at:] = other[chance.randrange(len(other) + 1) :]
        made = bytes(data[: 64 << 10])
        if len(made) < 2000 and chance.random() < 0.1:
            # Some go on to be mutated again; the seeds themselves stay.
            if len(self._pool) < self._fresh + 100:
                self._pool.append(made)
            else:
                self._pool[chance.randrange(self._fresh, len(self._pool))] = made
        return made
