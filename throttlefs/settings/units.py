"""Sizes, rates and times as people write and read them: "1.5M" <-> 1572864, "1.2 MiB/s", "5ms".

Bytes count in powers of 1024, requests in powers of 1000, as K, M, G and T in either case.
The arithmetic is exact: no value passes through a float unless it came as one.

Sizes are whole numbers of bytes. Rates may be fractions: 0.5 requests a second is one in two
seconds. A rate is a multiple of a millionth, and from 10^9 on a whole number. So it has at most
15 digits, and a number of JSON or TOML (an IEEE double) carries it exactly.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Final

MAX_VALUE: Final = 10**15
"""The largest value of a limit, that of QEMU (``THROTTLE_VALUE_MAX`` in its ``throttle.h``)."""

Rate = int | Fraction
"""Bytes or requests a second as `round_rate` makes it: a whole rate is an int."""

RATE_STEPS: Final = 1_000_000
"""A rate below `WHOLE_RATES_FROM` is a multiple of one part in so many."""

WHOLE_RATES_FROM: Final = 10**9

SMALLEST_RATE: Final = Fraction(1, 1000)
"""The smallest rate but 0: one request in 1,000 seconds."""

BYTES_BASE: Final = 1024
REQUESTS_BASE: Final = 1000

MAX_SEED: Final = 2**63 - 1
"""The largest seed of a fault rule or a power cut."""

_SUFFIXES: Final = "KMGT"
_NUMBER: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTkmgt]?)")
_LONGEST: Final = 64  # characters; no sensible number is longer, and int() refuses thousands
_LARGEST_TEXT: Final = {BYTES_BASE: "10^15 (about 909T)", REQUESTS_BASE: "10^15 (1000T)"}
_LARGE_NUMBERS: Final = {10**9: "10^9", 10**15: "10^15", MAX_SEED: "2^63 - 1"}
_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "\N{MICRO SIGN}s": 10**3,
    "\N{GREEK SMALL LETTER MU}s": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TIME_UNITS: Final = "units ns, us, ms, s, min, h"
_DURATION: Final = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+) ?([^\W0-9_]*)")
_PLAIN_REQUESTS: Final = 1_000_000  # from here on people read 1.5M more easily than the digits


class UnitError(ValueError):
    """A size or number that cannot be used; the message is one line that says why."""


def printable(text: str) -> str:
    """*text* on one line, without characters that a terminal would act on."""
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
    """Bytes from "3000", "10k", "1.5M" or a number; powers of 1024.

    A fraction of a byte is rounded to the nearest one, halves up.

    Raises `UnitError` if the value is no such number, is negative or over `MAX_VALUE`, or is not 0
    but would be rounded to 0.
    """
    exact = _parse(value, BYTES_BASE)
    rounded = math.floor(exact + Fraction(1, 2))
    if exact and not rounded:
        raise UnitError(f"{quoted(value)} is less than a half; the smallest value is 1")
    return rounded


def parse_byte_rate(value: str | int | float) -> Rate:
    """Bytes a second from "3000", "10k", "1.5M", "0.5" or a number; powers of 1024.

    Raises `UnitError` if the value is no such number, is negative or over `MAX_VALUE`, or is below
    `SMALLEST_RATE` but not 0, which means no limit.
    """
    return _parse_rate(value, BYTES_BASE)


def parse_request_rate(value: str | int | float) -> Rate:
    """Requests a second, as `parse_byte_rate` but in powers of 1000."""
    return _parse_rate(value, REQUESTS_BASE)


def _parse_rate(value: str | int | float, base: int) -> Rate:
    exact = _parse(value, base)
    if 0 < exact < SMALLEST_RATE:
        raise UnitError(f"{quoted(value)} is too small; the smallest rate is 0.001 a second")
    return round_rate(exact)


def round_rate(exact: int | Fraction) -> Rate:
    """The rate that is nearest to *exact*, halves up."""
    steps = RATE_STEPS if exact < WHOLE_RATES_FROM else 1
    rounded = Fraction(math.floor(exact * steps + Fraction(1, 2)), steps)
    return int(rounded) if rounded.denominator == 1 else rounded


def is_rate(fraction: Fraction) -> bool:
    """Whether *fraction* is a rate: not whole, not too small, and with no digit too many."""
    if fraction.denominator == 1 or fraction < SMALLEST_RATE:
        return False
    return fraction == round_rate(fraction)


def _parse(value: str | int | float, base: int) -> int | Fraction:
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
    # repr() holds the digits that were written.
    return Fraction(repr(value))


def _parse_text(text: str, base: int) -> Fraction:
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
    exact = Fraction(int(whole + fraction) * unit, 10 ** len(fraction))
    if exact > MAX_VALUE:
        raise _too_large(text, base)
    return exact


def _too_large(written: object, base: int) -> UnitError:
    return UnitError(f"{quoted(written)} is too large; the largest value is {_LARGEST_TEXT[base]}")


def parse_whole(value: object, smallest: int, largest: int) -> int:
    """A whole number from its digits or as it is. Raises `UnitError` if it is out of range."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        limit = _LARGE_NUMBERS.get(largest, largest)
        raise UnitError(f"{quoted(value)} is not a whole number from {smallest} to {limit}")
    return value


def parse_duration(value: str | int | float) -> int:
    """Nanoseconds from "5ms", "1.5s" or "200us"; 0 needs no unit.

    A fraction of a nanosecond is rounded to the nearest one, halves up.

    Raises `UnitError` if the value is no such time, has no unit, is negative or over `MAX_VALUE`
    ns, or is not 0 but would be rounded to 0.
    """
    text = value if isinstance(value, str) else repr(value)
    if not text:
        raise UnitError(f"the value is missing; write e.g. 5ms ({_TIME_UNITS})")
    match = _DURATION.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None or (match[2] and match[2] not in _NANOSECONDS):
        if re.fullmatch(r"-[0-9.]+[a-z]*", text):
            raise UnitError(f"{quoted(text)} is negative; the smallest value is 0")
        raise UnitError(f"{quoted(value)} is not a time; write e.g. 5ms ({_TIME_UNITS})")
    exact = Fraction(match[1])
    if not match[2] and exact:
        raise UnitError(f"{quoted(value)} has no unit; write e.g. {match[1]}ms ({_TIME_UNITS})")
    exact *= _NANOSECONDS.get(match[2], 0)
    if exact > MAX_VALUE:
        raise UnitError(f"{quoted(value)} is too long; the longest time is 10^15 ns (277h)")
    rounded = math.floor(exact + Fraction(1, 2))
    if exact and not rounded:
        raise UnitError(f"{quoted(value)} is less than half a nanosecond")
    return rounded


def format_duration(nanoseconds: int) -> str:
    """The shortest exact form of a time, which `parse_duration` reads back: "1.5ms", "0"."""
    if not nanoseconds:
        return "0"
    for unit in ("h", "min", "s", "ms", "us"):
        thousandths, rest = divmod(nanoseconds * 1000, _NANOSECONDS[unit])
        # Fractions of minutes are hard to read.
        if nanoseconds >= _NANOSECONDS[unit] and not rest:
            whole, fraction = divmod(thousandths, 1000)
            if not fraction or unit not in ("h", "min"):
                return f"{whole}" + (f".{fraction:03d}".rstrip("0") if fraction else "") + unit
    return f"{nanoseconds}ns"


def format_bytes(value: Rate) -> str:
    """The shortest exact form of bytes or bytes a second: 1572864 is "1.5M", 1000 is "1000".

    `parse_bytes` and `parse_byte_rate` read it back.
    """
    return _format(value, BYTES_BASE)


def format_requests(value: Rate) -> str:
    """As `format_bytes` in powers of 1000; below a million as plain digits, "0.5" or "3000"."""
    return _digits(value) if value < _PLAIN_REQUESTS else _format(value, REQUESTS_BASE)


def _format(value: Rate, base: int) -> str:
    for power in range(len(_SUFFIXES), 0, -1):
        unit = base**power
        # Three decimals at most, and only if they say it exactly; no "976562500000K" either.
        thousandths, rest = divmod(value * 1000, unit)
        if unit <= value < 10 * base * unit and rest == 0:
            whole, fraction = divmod(thousandths, 1000)
            decimals = f".{fraction:03d}".rstrip("0") if fraction else ""
            return f"{whole}{decimals}{_SUFFIXES[power - 1]}"
    return _digits(value)


def _digits(value: Rate) -> str:
    if isinstance(value, int):
        return str(value)
    whole, millionths = divmod(int(value * RATE_STEPS), RATE_STEPS)
    return f"{whole}.{millionths:06d}".rstrip("0")


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
    # The rounded number decides: 1023.97 KiB rounds to 1024.0 KiB, which is 1 MiB.
    while float(shown) >= base and position < len(units) - 1:
        value /= base
        position, shown = position + 1, f"{value:.1f}"
    return f"{shown.removesuffix('.0')} {units[position]}"
