"""When something holds, by time: ``at``, ``lasting`` and ``repeat``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import units

PERIOD_NAMES: Final = ("at", "lasting", "repeat")
"""The names of the settings of a period, in the usual order."""


class PeriodError(ValueError):
    """A period that cannot be; the message is one line that names the setting and the cure."""


@dataclass(frozen=True, slots=True)
class Period:
    """From `at` on, for `lasting`, again each `repeat`; all in ns after some beginning.

    None for `lasting` is without an end, for `repeat` it is once.
    """

    at: int = 0
    lasting: int | None = None
    repeat: int | None = None

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Period | None:
        """The period that *values* name; None if they name none. Raises `PeriodError`."""
        parsed: dict[str, int] = {}
        for name in PERIOD_NAMES:
            if name in values:
                try:
                    parsed[name] = units.parse_duration(values[name])
                except units.UnitError as error:
                    raise PeriodError(f"{name}: {error}") from None
        if not parsed:
            return None
        lasting, repeat = parsed.get("lasting"), parsed.get("repeat")
        if lasting == 0:
            raise PeriodError("lasting: 0 is no time at all; without lasting it has no end")
        if repeat is not None:
            if lasting is None:
                raise PeriodError("repeat needs lasting, or there is nothing to repeat")
            if repeat <= lasting:
                raise PeriodError(
                    f"repeat={values['repeat']} is not longer than lasting={values['lasting']}:"
                    " it would never end"
                )
        return cls(parsed.get("at", 0), lasting, repeat)

    def is_on(self, elapsed: int) -> bool:
        """Whether it holds *elapsed* ns after the beginning."""
        since = elapsed - self.at
        if since < 0:
            return False
        if self.lasting is None:
            return True
        return (since % self.repeat if self.repeat is not None else since) < self.lasting

    def next_change(self, elapsed: int) -> int | None:
        """When it next begins or ends, strictly after *elapsed* (ns); None if never again."""
        since = elapsed - self.at
        if since < 0:
            return self.at
        if self.lasting is None:
            return None
        if self.repeat is None:
            return self.at + self.lasting if since < self.lasting else None
        turn = since // self.repeat
        begin = self.at + turn * self.repeat
        return begin + (self.lasting if since % self.repeat < self.lasting else self.repeat)

    def as_dict(self) -> dict[str, str]:
        """Its settings as text, which `parse` reads back."""
        written = {}
        if self.at or self.lasting is None:
            written["at"] = units.format_duration(self.at)
        if self.lasting is not None:
            written["lasting"] = units.format_duration(self.lasting)
        if self.repeat is not None:
            written["repeat"] = units.format_duration(self.repeat)
        return written
