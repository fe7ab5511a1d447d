"""What a daemon and the script in the store say to each other; see ``store.lua``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Final

from throttlefs.settings.limits import QEMU_LIMIT_NAMES, RATES, Limits
from throttlefs.throttle import NO_DEMAND, NOTHING, Demand, Rates

_HOST_FIELDS: Final = 12
_MICRO: Final = 1_000_000


class AnswerError(ValueError):
    """An answer of the store that makes no sense: another program uses the key."""


@dataclass(frozen=True, slots=True)
class ClockView:
    """What the server's clock says now (µs, between two bounds), and since when that holds."""

    low: int
    high: int
    since: int


@dataclass(frozen=True, slots=True)
class Call:
    """What a daemon says at each renewal of its lease."""

    id: str
    sequence: int
    serial: int = 0
    """The largest that an answer had: a store that has a smaller one has lost something."""
    clock: ClockView | None = None
    version: int = 0
    limits: Limits | None = None
    """The limits of *version*; None to ask for them."""
    changes: bool = False
    """Whether *limits* are new ones, which all are to share from now on."""
    weight: int = 100
    fallback: float = 0.0
    """The part of the limits that it will use without the store."""
    using: Rates = NOTHING
    """What it uses at most from now on: smaller rates are confirmed with this."""
    demand: Demand = NO_DEMAND
    used: Sequence[float] = (0.0, 0.0, 0.0, 0.0)
    """All that went so far: bytes read, written, requests read, written."""
    name: str = ""
    on_lost: str = "share"

    def arguments(self) -> list[str]:
        """The arguments of the script."""
        clock = self.clock
        flows = [
            number for flow in self.demand for number in (*flow.growing, *flow.steady, flow.full_at)
        ]
        return [
            "renew",
            self.id,
            str(self.sequence),
            str(self.serial),
            *(("", "", "") if clock is None else map(str, (clock.low, clock.high, clock.since))),
            str(self.version),
            "" if self.limits is None else encode_limits(self.limits),
            "1" if self.changes else "0",
            str(self.weight),
            *(repr(float(number)) for number in (self.fallback, *self.using, *flows, *self.used)),
            self.name,
            self.on_lost,
        ]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the store grants."""

    now: int
    """µs of the server's clock."""
    serial: int
    version: int
    limits: Limits | None
    """The limits of all hosts, None if they are those of the version that the call named."""
    fallback: float
    hosts: int
    active: int
    period_us: int
    """After how long to call again."""
    must_give: bool
    """Whether others wait for what the daemon gives up with this grant."""
    recovering_us: int
    """For how long nothing grows, since the store has lost its state; 0 if it has not."""
    granted: Rates


def decode_answer(reply: Sequence[str]) -> Answer | None:
    """The answer in the script's *reply*, None for one to a call that came too late.

    Raises `AnswerError`.
    """
    if list(reply[:1]) == ["old"]:
        return None
    try:
        now, serial, version = map(int, reply[1:4])
        return Answer(
            now=now,
            serial=serial,
            version=version,
            limits=decode_limits(reply[4]) if reply[4] else None,
            fallback=float(reply[5]),
            hosts=int(reply[6]),
            active=int(reply[7]),
            period_us=int(reply[8]),
            must_give=reply[9] == "1",
            recovering_us=int(reply[10]),
            granted=_rates(reply[11:17]),
        )
    except (ValueError, IndexError):
        raise AnswerError("the store's answer makes no sense") from None


@dataclass(frozen=True, slots=True)
class HostShare:
    """What one host holds, as the store sees it."""

    id: str
    name: str
    age_us: int
    """Since its last call."""
    weight: int
    on_lost: str
    fallback: float
    held: Rates


@dataclass(frozen=True, slots=True)
class Overview:
    """All hosts that share one limit."""

    version: int = 0
    limits: Limits | None = None
    hosts: tuple[HostShare, ...] = field(default=())


LOOK: Final = ("look",)
"""The arguments of the script that ask for an overview."""


def leave(daemon: str, sequence: int) -> list[str]:
    """The arguments of the script with which *daemon* gives up all that it holds."""
    return ["leave", daemon, str(sequence), "0"]


def decode_overview(reply: Sequence[str]) -> Overview:
    """The overview in the script's *reply* to `LOOK`. Raises `AnswerError`."""
    try:
        hosts = [
            HostShare(
                id=fields[0],
                name=fields[1],
                age_us=int(fields[2]),
                weight=int(fields[3]),
                on_lost=fields[4],
                fallback=float(fields[5]),
                held=_rates(fields[6:12]),
            )
            for fields in (
                reply[start : start + _HOST_FIELDS] for start in range(4, len(reply), _HOST_FIELDS)
            )
        ]
        limits = decode_limits(reply[3]) if reply[3] else None
        return Overview(int(reply[2]), limits, tuple(hosts))
    except (ValueError, IndexError):
        raise AnswerError("the store's answer makes no sense") from None


def encode_limits(limits: Limits) -> str:
    """*limits* as the script reads them: all numbers in the order of `QEMU_LIMIT_NAMES`."""
    return " ".join(_decimal(getattr(limits, name)) for name in QEMU_LIMIT_NAMES)


def decode_limits(words: str) -> Limits:
    """The limits that `encode_limits` wrote. Raises ValueError."""
    numbers = [_number(word) for word in words.split()]
    return Limits(**dict(zip(QEMU_LIMIT_NAMES, numbers, strict=True)))  # type: ignore[arg-type]


def whole_rates(limits: Limits) -> Rates:
    """The rates of *limits* themselves."""
    return tuple(float(getattr(limits, name)) for name in RATES)


def _decimal(value: int | Fraction) -> str:
    if isinstance(value, int):
        return str(value)
    return format(Decimal(int(value * _MICRO)) / _MICRO, "f")


def _number(word: str) -> int | Fraction:
    return Fraction(word) if "." in word else int(word)


def _rates(words: Sequence[str]) -> Rates:
    if len(words) != len(RATES):
        raise ValueError("not all rates")
    return tuple(map(float, words))
