"""The limits of an image or a group, valid by construction.

Names and meaning are those of QEMU's ``-drive`` and of QMP's ``block_set_io_throttle`` (QEMU's
``docs/throttle.txt``). The rules are QEMU's too (``throttle_is_valid()`` in its
``util/throttle.c``) except for one: QEMU refuses a total beside a read or write limit. Here it is
allowed; every limit holds, and the strictest decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from operator import attrgetter
from typing import Any, Final

from . import units
from .limit_names import (
    GROWTH,
    GROWTH_NAMES,
    LIMIT_HELP,
    LIMIT_NAMES,
    QEMU_DASHED_NAMES,
    QEMU_LIMIT_NAMES,
    RATES,
    canonical_name,
    qemu_name,
)
from .named_values import not_at_default, read_values
from .units import MAX_VALUE, Rate, quoted

__all__ = [
    "DEFAULT_WEIGHT",
    "GROWTH",
    "LIMIT_HELP",
    "LIMIT_NAMES",
    "MAX_GROUP_DEPTH",
    "NO_LIMITS",
    "QEMU_DASHED_NAMES",
    "QEMU_LIMIT_NAMES",
    "RATES",
    "SMALLEST_DISK",
    "Limits",
    "LimitsError",
    "canonical_name",
    "check_group_name",
    "check_weight",
    "format_limit",
    "parse_limit",
    "qemu_name",
]

_FRACTIONAL: Final = frozenset((*RATES, *(f"{rate}_max" for rate in RATES), *GROWTH_NAMES))
"""The limits that are rates, which may be fractions."""

_growth_of: Final = attrgetter(*(f"{rate}_per_gib" for rate in RATES))

GIB: Final = 1 << 30

SMALLEST_DISK: Final = GIB
"""Bytes: a smaller file has the rates of a disk of this size. Otherwise a new file, which is empty,
could hardly be written."""

DEFAULT_WEIGHT: Final = 100
MAX_WEIGHT: Final = 10_000
"""The largest weight of an image or a group; shares are in proportion to the weights."""

LONGEST_GROUP_NAME: Final = 255

MAX_GROUP_DEPTH: Final = 32
"""How many groups may be one inside the other: every decision who goes next visits each."""


class LimitsError(ValueError):
    """Limits that are not valid; the message is one line that names the option and the cure.

    `option` is the name of the culprit as the user wrote it.
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(option, message)
        self.option = option
        self.message = message

    def __str__(self) -> str:
        return self.message


def parse_limit(name: str, value: str | int | float) -> Rate:
    """The value of the limit *name* (any synonym) from text with a suffix or from a number.

    The result is in bytes or requests a second, maybe a fraction. For ``*_max_length`` it is in
    seconds and for ``iops_size`` in bytes, both whole.

    Raises `LimitsError` that names *name* and *value*.
    """
    canonical = canonical_name(name)
    if canonical is None:
        raise LimitsError(name, f"{quoted(name)} is not the name of a limit")
    try:
        if canonical.endswith("_max_length"):
            return _parse_seconds(value)
        if canonical == "iops_size":
            return units.parse_bytes(value)
        if canonical.startswith("bps"):
            return units.parse_byte_rate(value)
        return units.parse_request_rate(value)
    except units.UnitError as error:
        raise LimitsError(name, f"{name}: {error}") from None


def format_limit(name: str, value: Rate | float) -> str:
    """*value* of the limit *name* as `parse_limit` reads it back exactly: "1.5M", "3000", "0.5".

    A float is a rate from JSON.
    """
    if isinstance(value, float):
        value = parse_limit(name, value)
    if name.endswith("_max_length"):
        return str(value)
    if name.startswith("bps") or name == "iops_size":
        return units.format_bytes(value)
    return units.format_requests(value)


def _parse_seconds(value: str | int | float) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise units.UnitError(f"{quoted(value)} is not a whole number of seconds, e.g. 60")
        return int(value)
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise units.UnitError(f"{quoted(value)} is not a whole number of seconds, e.g. 60")
    return int(value)


@dataclass(frozen=True, slots=True)
class Limits:
    """One set of limits; 0 means no limit. Every instance is valid.

    Rates are in bytes or requests a second, for reads and writes together (``bps``, ``iops``),
    reads (``_rd``) or writes (``_wr``), and may be fractions (`Rate`). ``_max`` is the rate
    allowed in a burst, whose volume is ``_max`` x ``_max_length`` (whole seconds). A request
    larger than ``iops_size`` bytes counts as size / iops_size requests.

    ``_per_gib`` is what a rate has more for each GiB of the size of the disk, a fraction of one as
    well; with that it is at least ``_at_least`` and at most ``_at_most``, if that is not 0. `at`
    has the rates for one size.

    Raises `LimitsError` for a rate that is no `Rate` and another value that is no int; a negative
    one or one over 10^15; a ``_max`` without its rate or below it; a ``_max_length`` of 0, other
    than 1 without its ``_max``, or with a burst of more than 10^15 bytes or requests;
    ``iops_size`` without any iops limit; bounds without ``_per_gib`` or against each other.
    """

    bps: Rate = 0
    bps_rd: Rate = 0
    bps_wr: Rate = 0
    iops: Rate = 0
    iops_rd: Rate = 0
    iops_wr: Rate = 0
    bps_max: Rate = 0
    bps_rd_max: Rate = 0
    bps_wr_max: Rate = 0
    iops_max: Rate = 0
    iops_rd_max: Rate = 0
    iops_wr_max: Rate = 0
    bps_max_length: int = 1
    bps_rd_max_length: int = 1
    bps_wr_max_length: int = 1
    iops_max_length: int = 1
    iops_rd_max_length: int = 1
    iops_wr_max_length: int = 1
    iops_size: int = 0
    bps_per_gib: Rate = 0
    bps_at_least: Rate = 0
    bps_at_most: Rate = 0
    bps_rd_per_gib: Rate = 0
    bps_rd_at_least: Rate = 0
    bps_rd_at_most: Rate = 0
    bps_wr_per_gib: Rate = 0
    bps_wr_at_least: Rate = 0
    bps_wr_at_most: Rate = 0
    iops_per_gib: Rate = 0
    iops_at_least: Rate = 0
    iops_at_most: Rate = 0
    iops_rd_per_gib: Rate = 0
    iops_rd_at_least: Rate = 0
    iops_rd_at_most: Rate = 0
    iops_wr_per_gib: Rate = 0
    iops_wr_at_least: Rate = 0
    iops_wr_at_most: Rate = 0

    def __post_init__(self) -> None:
        _check({name: getattr(self, name) for name in LIMIT_NAMES}, spelled=lambda name: name)

    @classmethod
    def parse(cls, values: Mapping[str, str | int | float]) -> Limits:
        """Limits from names (any synonym) and values as people write them, or as numbers.

        Raises `LimitsError` as `Limits` does, and for an unknown name, an unreadable value and one
        limit under two names. The messages have the names that *values* has.
        """
        parsed, spelling = read_values(values, canonical_name, parse_limit, _given_twice)
        defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        _check(defaults | parsed, spelled=lambda name: spelling.get(name, name))
        return cls(**parsed)

    @property
    def unlimited(self) -> bool:
        """Whether nothing is limited."""
        return not any(getattr(self, rate) for rate in RATES) and not self.grows

    @property
    def grows(self) -> bool:
        """Whether any rate depends on the size of the disk."""
        return any(_growth_of(self))

    def at(self, size: int) -> Limits:
        """The limits of a disk of *size* bytes, none of which grows.

        A burst rate that the rate has outgrown is left out.
        """
        if not self.grows:
            return self
        fields: dict[str, Any] = dict.fromkeys(GROWTH_NAMES, 0)
        for rate in RATES:
            fields[rate] = self._rate_at(rate, size)
            if getattr(self, f"{rate}_max") < fields[rate]:
                fields |= {f"{rate}_max": 0, f"{rate}_max_length": 1}
        return self.changed(**fields)

    def _rate_at(self, rate: str, size: int) -> Rate:
        base: Rate = getattr(self, rate)
        more, least, most = (getattr(self, rate + suffix) for suffix in GROWTH)
        if not more:
            return base
        exact = max(base + more * Fraction(size, GIB), least, units.SMALLEST_RATE)
        return units.round_rate(min(exact, most or MAX_VALUE))

    def changed(self, **fields: Any) -> Limits:
        """These limits with some fields (canonical names) replaced. Raises `LimitsError`."""
        return dataclasses.replace(self, **fields)

    def as_dict(self) -> dict[str, Rate]:
        """The fields that are not at their default, so that ``Limits(**x.as_dict()) == x``."""
        return not_at_default(self)

    def __str__(self) -> str:
        """The form of an option string, "bps=1M,iops=100"; empty if nothing is limited."""
        return ",".join(f"{name}={format_limit(name, n)}" for name, n in self.as_dict().items())


def _given_twice(name: str, first: str) -> LimitsError:
    return LimitsError(name, f"{name} and {first} are the same limit: give one of them")


def _check(values: Mapping[str, object], spelled: Callable[[str], str]) -> None:
    """Raise `LimitsError` unless *values* (all fields) are valid; *spelled* names an option."""
    numbers: dict[str, Rate] = {}
    for name, value in values.items():
        shown = f"{spelled(name)}: {quoted(value)}"
        if name not in _FRACTIONAL or not isinstance(value, Fraction):
            if isinstance(value, bool) or not isinstance(value, int):
                raise LimitsError(spelled(name), f"{shown} is not a whole number")
        elif not units.is_rate(value):
            raise LimitsError(
                spelled(name), f"{shown} is not a rate of 0.001 or more in steps of 0.000001"
            )
        if value < 0:
            raise LimitsError(spelled(name), f"{shown} is negative; 0 means no limit")
        if value > MAX_VALUE:
            raise LimitsError(spelled(name), f"{shown} is too large; the largest value is 10^15")
        numbers[name] = value
    for rate in RATES:
        _check_burst(rate, numbers, spelled)
    if numbers["iops_size"] and not any(_has_rate(name, numbers) for name in RATES[3:]):
        raise LimitsError(
            spelled("iops_size"),
            f"{_assignment('iops_size', numbers, spelled)} has nothing to count: "
            "add iops, iops_rd or iops_wr",
        )


def _check_burst(rate: str, numbers: Mapping[str, Rate], spelled: Callable[[str], str]) -> None:
    burst, length = f"{rate}_max", f"{rate}_max_length"
    _check_growth(rate, numbers, spelled)
    if numbers[burst] and not _has_rate(rate, numbers):
        raise LimitsError(
            spelled(burst),
            f"{_assignment(burst, numbers, spelled)} needs {spelled(rate)}, the rate that bursts "
            f"may exceed: add it or leave out {spelled(burst)}",
        )
    if numbers[burst] and numbers[burst] < numbers[rate]:
        raise LimitsError(
            spelled(burst),
            f"{_assignment(burst, numbers, spelled)} is below "
            f"{_assignment(rate, numbers, spelled)}: a burst's rate must be at least that",
        )
    if numbers[length] == 0:
        raise LimitsError(
            spelled(length), f"{spelled(length)}=0: a burst lasts at least 1 second, the default"
        )
    if numbers[length] != 1 and not numbers[burst]:
        raise LimitsError(
            spelled(length),
            f"{_assignment(length, numbers, spelled)} needs {spelled(burst)}, the rate of the "
            f"burst: add it or leave out {spelled(length)}",
        )
    if numbers[burst] * numbers[length] > MAX_VALUE:
        raise LimitsError(
            spelled(length),
            f"{_assignment(length, numbers, spelled)} is too long for "
            f"{_assignment(burst, numbers, spelled)}: their product must not exceed 10^15",
        )


def _has_rate(rate: str, numbers: Mapping[str, Rate]) -> bool:
    return bool(numbers[rate] or numbers[f"{rate}_per_gib"])


def _check_growth(rate: str, numbers: Mapping[str, Rate], spelled: Callable[[str], str]) -> None:
    more, least, most = (rate + suffix for suffix in GROWTH)
    for bound in (least, most):
        if numbers[bound] and not numbers[more]:
            raise LimitsError(
                spelled(bound),
                f"{_assignment(bound, numbers, spelled)} needs {spelled(more)}, the rate that "
                f"grows with the size: add it or leave out {spelled(bound)}",
            )
    if numbers[most] and numbers[least] > numbers[most]:
        raise LimitsError(
            spelled(least),
            f"{_assignment(least, numbers, spelled)} is above "
            f"{_assignment(most, numbers, spelled)}",
        )


def _assignment(name: str, numbers: Mapping[str, Rate], spelled: Callable[[str], str]) -> str:
    return f"{spelled(name)}={format_limit(name, numbers[name])}"


NO_LIMITS: Final = Limits()


def check_weight(name: str, value: object) -> int:
    """*value* as a weight, from a number or its digits. Raises `LimitsError` with *name*."""
    try:
        return units.parse_whole(value, 1, MAX_WEIGHT)
    except units.UnitError as error:
        raise LimitsError(name, f"{name}: {error}") from None


def check_group_name(name: str, value: object) -> str:
    """*value* as the name of a group. Raises `LimitsError` with *name*."""
    if not isinstance(value, str):
        raise LimitsError(name, f"{name}: {quoted(value)} is not the name of a group")
    if not value:
        raise LimitsError(name, f"{name}: the name of the group is missing")
    if not value.isprintable() or len(value) > LONGEST_GROUP_NAME:
        raise LimitsError(
            name,
            f"{name}: {quoted(value)} cannot name a group: use at most {LONGEST_GROUP_NAME} "
            "printable characters",
        )
    return value
