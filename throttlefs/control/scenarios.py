"""The commands for scenarios.

``x-throttlefs-scenario-start``
    Begin with the scenario in ``toml``. ``seconds`` ends it at the latest. It also ends with the
    connection of the client who started it. Returns its length (``length-ns``, null without an
    end) and the numbers of its fault rules.
``x-throttlefs-scenario-end``
    End it, and restore what was.

What begins and ends in it is told by the event ``X_THROTTLEFS_SCENARIO``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from throttlefs.errors import ThrottlefsError
from throttlefs.policy.loading import overlays_of
from throttlefs.policy.overlays import Overlay
from throttlefs.settings.scenario import Scenario, ScenarioError, parse_scenario

from .arguments import Parameter
from .commands import Arguments, CommandTable
from .server import at_close_of_client

SCENARIO_EVENT: Final = "X_THROTTLEFS_SCENARIO"

_MOST_SECONDS: Final = 10**6


class Scenarios(Protocol):
    """Runs one scenario at a time."""

    async def start(
        self, scenario: Scenario, overlays: Iterable[Overlay], at_most: int | None
    ) -> tuple[int, Mapping[str, Any]]:
        """Begin with *scenario*; its number, and the reply. Raises `ThrottlefsError`."""

    async def end(self, which: int | None = None) -> None:
        """End the scenario, if one runs, and restore what was; with *which* only that number."""


class GroupNames(Protocol):
    """Tells which groups there are."""

    def __call__(self) -> Collection[str]:
        """Their names."""


class ScenarioCommands:
    """The commands for the scenarios of a mount."""

    def __init__(self, scenarios: Scenarios, groups: GroupNames) -> None:
        self._scenarios = scenarios
        self._groups = groups

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        table.add(
            "x-throttlefs-scenario-start",
            self._start,
            {"toml": Parameter("string", required=True), "seconds": Parameter("integer")},
        )
        table.add("x-throttlefs-scenario-end", self._end)

    async def _start(self, arguments: Arguments) -> object:
        seconds = arguments.get("seconds")
        if seconds is not None and not 0 < seconds <= _MOST_SECONDS:
            raise ThrottlefsError(f"seconds: {seconds} is not from 1 to 10^6")
        try:
            scenario = parse_scenario(arguments["toml"])
        except ScenarioError as exc:
            raise ThrottlefsError(str(exc)) from None
        overlays = overlays_of(scenario.changes, self._groups())
        at_most = None if seconds is None else seconds * 10**9
        number, reply = await self._scenarios.start(scenario, overlays, at_most)
        at_close_of_client(partial(self._scenarios.end, number))
        return reply

    async def _end(self, _: Arguments) -> object:
        await self._scenarios.end()
        return {}
