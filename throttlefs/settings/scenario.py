"""Scenarios: faults, and changes of limits and latencies, each for its time.

::

    [[change]]                  # a brown-out
    path = "db/*.img"           # or group = "db"; neither is the default of the mount
    bps = "100K"                # what throttlefs set takes
    at = "10s"
    lasting = "5s"

    [[fault]]                   # a flapping disk; see faults.py
    error = "EIO"
    lasting = "1s"
    repeat = "10s"

A configuration file may have these tables as well.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from . import suggest
from .fault_words import FaultError
from .faults import Fault, read_paths, read_rules
from .globs import Glob
from .timeline import PERIOD_NAMES, Period, PeriodError
from .units import quoted

MOST_SCENARIO_BYTES: Final = 1 << 19
"""The longest scenario, in bytes: it is sent as one command."""

_TABLES: Final = ("fault", "change")


class ScenarioError(ValueError):
    """A scenario that cannot be used; the message is one line that says where and why."""


@dataclass(frozen=True, slots=True)
class TimedChange:
    """What holds for some images, a group or the default of the mount, for a time."""

    values: Mapping[str, Any]
    """Limits and all else that can change in flight, by name, as they are written."""
    globs: tuple[Glob, ...] = ()
    """Patterns of the paths of the images; none if it is not for images."""
    group: str | None = None
    period: Period | None = None
    """None: as long as the scenario runs."""

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> TimedChange:
        """The change in a ``[[change]]`` table. Raises `ScenarioError`.

        Whether its values can be is for `throttlefs.policy` to say.
        """
        try:
            globs, period = read_paths(table), Period.parse(table)
        except (FaultError, PeriodError) as exc:
            raise ScenarioError(str(exc)) from None
        group = table.get("group")
        if group is not None and (not isinstance(group, str) or not group):
            raise ScenarioError(f"group: {quoted(group)} is not the name of a group")
        if group is not None and globs:
            raise ScenarioError("path and group: give one of them")
        others = ("path", "group", *PERIOD_NAMES)
        values = {name: value for name, value in table.items() if name not in others}
        if not values:
            raise ScenarioError('it changes nothing: add a limit, e.g. bps = "100K"')
        return cls(values, globs, group, period)

    def __str__(self) -> str:
        """As it is written at a shell: "bps=100K of db/*.img"."""
        words = " ".join(f"{name}={value}" for name, value in self.values.items())
        if self.group is not None:
            return f"{words} of group {self.group}"
        if self.globs:
            return f"{words} of {', '.join(glob.text for glob in self.globs)}"
        return words


@dataclass(frozen=True, slots=True)
class Scenario:
    """Faults and changes, whose times count from one beginning."""

    faults: tuple[Fault, ...] = ()
    changes: tuple[TimedChange, ...] = ()

    @property
    def periods(self) -> list[Period | None]:
        """When each of them holds; None stands for always."""
        return [*(one.period for one in self.faults), *(one.period for one in self.changes)]

    @property
    def length(self) -> int | None:
        """ns until the last of them has ended; None if one has no end."""
        longest = 0
        for period in self.periods:
            if period is None or period.lasting is None or period.repeat is not None:
                return None
            longest = max(longest, period.at + period.lasting)
        return longest


def read_changes(tables: object) -> tuple[TimedChange, ...]:
    """The changes in the ``[[change]]`` tables of a file. Raises `ScenarioError`."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ScenarioError("change is not an array of tables: write [[change]]")
    changes = []
    for number, table in enumerate(tables, 1):
        try:
            changes.append(TimedChange.parse(table))
        except ScenarioError as exc:
            raise ScenarioError(f"[[change]] number {number}: {exc}") from None
    return tuple(changes)


def parse_scenario(text: str) -> Scenario:
    """The scenario in *text*. Raises `ScenarioError`."""
    try:
        top = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        reason = "nested too deep" if isinstance(exc, RecursionError) else str(exc)
        raise ScenarioError(f"is not valid TOML: {reason}") from None
    for key in top:
        if key not in _TABLES:
            raise ScenarioError(suggest.unknown("table", key, _TABLES))
    try:
        scenario = Scenario(read_rules(top.get("fault", [])), read_changes(top.get("change", [])))
    except FaultError as exc:
        raise ScenarioError(str(exc)) from None
    if not scenario.faults and not scenario.changes:
        raise ScenarioError("nothing happens in it: add a table [[fault]] or [[change]]")
    return scenario
