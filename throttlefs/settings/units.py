"""Sizes and rates as people write and read them: "1.5M" <-> 1572864, "1.2 MiB/s".

Bytes count in powers of 1024, requests in powers of 1000, as K, M, G and T in either case.
The arithmetic is in integers: no value passes through a float unless it came as one.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

MAX_VALUE: Final = 10**15
"""The largest value of a limit, that of QEMU (``THROTTLE_VALUE_MAX`` in its ``throttle.h``)."""

BYTES_BASE: Final = 1024
REQUESTS_BASE: Final = 1000

_SUFFIXES: Final = "KMGT"
_NUMBER: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTkmgt]?)")
_LONGEST: Final = 64  # characters; no sensible number is longer, and int() minds thousands
_LARGEST_TEXT: Final = {BYTES_BASE: "10^15 (about 909T)", REQUESTS_BASE: "10^15 (1000T)"}
_PLAIN_REQUESTS: Final = 1_000_000  # from here on people read 1.5M more easily than the digits


class UnitError(ValueError):
    """A size or number that cannot be used; the message is one line and says why."""


def printable(text: str) -> str:
    """*text* on one line, with nothing in it that a terminal would act on."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def quoted(text: object, longest: int = 40) -> str:
    """*text* in quotes for a message: on one line, printable, cut after *longest* characters."""
    try:
        plain = str(text)
    except ValueError:  # an int of more digits than Python prints
        return "a huge number"
    except RecursionError:
        return "a value nested too deep"
    if len(plain) > longest:
        plain = plain[: longest - 3] + "..."
    return repr(plain)


def parse_bytes(value: str | int | float) -> int:
    """Bytes (or bytes a second) from "3000", "10k", "1.5M" or a number; powers of 1024.

    A fraction of a byte is rounded to the nearest one, halves up.

    Raises `UnitError` for what is no such number, is negative or over `MAX_VALUE`, and for what
    is not 0 but would be rounded to it.
    """
    return _parse(value, BYTES_BASE)


def parse_requests(value: str | int | float) -> int:
    """Requests (or requests a second), as `parse_bytes` but in powers of 1000."""
    return _parse(value, REQUESTS_BASE)


def _parse(value: str | int | float, base: int) -> int:
    if isinstance(value, str):
        return _parse_text(value, base)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnitError(f"{quoted(value)} is not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise UnitError(f"{value} is not a number that can be used")
    if value < 0:
        raise UnitError(f"{quoted(value)} is negative; the smallest value is 0")
    if value > MAX_VALUE:
        raise _too_large(value, base)
    if isinstance(value, int):
        return value
    # repr() holds the digits that were written; below 10^15 they are exact enough to round.
    whole = int(Decimal(repr(value)).to_integral_value(ROUND_HALF_UP))
    return _not_vanished(whole, value != 0, value)


def _parse_text(text: str, base: int) -> int:
    if not text:
        raise UnitError("the value is missing; write e.g. 3000, 10K or 1.5M")
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        if re.fullmatch(r"-[0-9.]+[KMGTkmgt]?", text):
            raise UnitError(f"{quoted(text)} is negative; the smallest value is 0")
        raise UnitError(
            f"{quoted(text)} is not a number; write e.g. 3000, 10K or 1.5M (suffixes K, M, G, T)"
        )
    digits, suffix = match.groups()
    whole, _, fraction = digits.partition(".")
    unit = base ** (_SUFFIXES.index(suffix.upper()) + 1) if suffix else 1
    scale = 10 ** len(fraction)
    scaled = int(whole + fraction) * unit
    if scaled > MAX_VALUE * scale:
        raise _too_large(text, base)
    return _not_vanished((2 * scaled + scale) // (2 * scale), scaled != 0, text)


def _not_vanished(rounded: int, nonzero: bool, written: object) -> int:
    # 0 is "no limit": a limit that small must not turn into none.
    if nonzero and rounded == 0:
        raise UnitError(f"{quoted(written)} is less than a half; the smallest value is 1")
    return rounded


def _too_large(written: object, base: int) -> UnitError:
    return UnitError(f"{quoted(written)} is too large; the largest value is {_LARGEST_TEXT[base]}")


def format_bytes(value: int) -> str:
    """The shortest exact form that `parse_bytes` reads back: 1572864 is "1.5M", 1000 is "1000"."""
    return _format(value, BYTES_BASE)


def format_requests(value: int) -> str:
    """As `format_bytes` in powers of 1000; up to 999999 as plain digits."""
    return str(value) if value < _PLAIN_REQUESTS else _format(value, REQUESTS_BASE)


def _format(value: int, base: int) -> str:
    for power in range(len(_SUFFIXES), 0, -1):
        unit = base**power
        # Three decimals at most, and only if they say it exactly; no "976562500000K" either.
        thousandths, rest = divmod(value * 1000, unit)
        if unit <= value < 10 * base * unit and rest == 0:
            whole, fraction = divmod(thousandths, 1000)
            decimals = f".{fraction:03d}".rstrip("0") if fraction else ""
            return f"{whole}{decimals}{_SUFFIXES[power - 1]}"
    return str(value)


def format_size(value: float) -> str:
    """Bytes for reading only, rounded to a tenth: "512 B", "1.2 MiB", "10 GiB"."""
    return _rounded(value, BYTES_BASE, ("B", "KiB", "MiB", "GiB", "TiB"))


def format_byte_rate(value: float) -> str:
    """Bytes a second for reading only, rounded to a tenth: "1.2 MiB/s"."""
    return f"{format_size(value)}/s"


def format_request_rate(value: float) -> str:
    """Requests a second for reading only: "1 request/s", "2.5 requests/s", "3000 requests/s"."""
    if value < _PLAIN_REQUESTS:
        number = f"{value:.1f}" if value < 10 else f"{value:.0f}"
        number = number.removesuffix(".0")
    else:
        number = _rounded(value, REQUESTS_BASE, ("", "k", "M", "G", "T")).replace(" ", "")
    return f"{number} request{'' if number == '1' else 's'}/s"


def _rounded(value: float, base: int, units: tuple[str, ...]) -> str:
    position, shown = 0, f"{value:.0f}"
    # What is shown decides: 1023.97 KiB rounds to 1024.0 KiB, which is 1 MiB.
    while float(shown) >= base and position < len(units) - 1:
        value /= base
        position, shown = position + 1, f"{value:.1f}"
    return f"{shown.removesuffix('.0')} {units[position]}"
