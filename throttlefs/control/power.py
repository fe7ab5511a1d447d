"""The commands for the power of a disk, on a mount with ``-o volatile``.

``x-throttlefs-power-cut``
    Cut the power: what was not flushed is lost, as ``seed`` has it (default: a random one), and
    every request fails from then on. Returns what was lost. With ``dry-run`` nothing happens.
``x-throttlefs-power-on``
    Serve again after a cut.
``x-throttlefs-sync``
    Flush everything, as sync(2) does on a disk.

The event ``X_THROTTLEFS_POWER`` says that the power is off or on again.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from throttlefs.errors import ThrottlefsError
from throttlefs.settings.units import MAX_SEED

from .arguments import Parameter
from .commands import Arguments, CommandTable, MountFacts

log = logging.getLogger("throttlefs")

POWER_EVENT: Final = "X_THROTTLEFS_POWER"


class Power(Protocol):
    """The power of a volatile disk."""

    async def cut(self, seed: int | None, *, dry_run: bool) -> Mapping[str, Any]:
        """Cut it; what was lost, or with *dry_run* would be.

        Raises `ThrottlefsError` if it is off.
        """

    async def power_on(self) -> None:
        """Serve again. Raises `ThrottlefsError` if it is on."""

    async def sync(self) -> None:
        """Flush everything. Raises `ThrottlefsError` if that fails, or it is off."""

    def state(self) -> Mapping[str, Any]:
        """Whether it is on, and what would be lost now."""


class PowerCommands:
    """The commands for the power of a mount; *power* is None if that cannot be cut.

    *announce* sends events to all clients.
    """

    def __init__(
        self,
        facts: MountFacts,
        power: Power | None,
        announce: Callable[[str, Mapping[str, Any]], None],
    ) -> None:
        self._facts = facts
        self._power = power
        self._announce = announce

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        table.add(
            "x-throttlefs-power-cut",
            self._cut,
            {"seed": Parameter("integer"), "dry-run": Parameter("boolean")},
        )
        table.add("x-throttlefs-power-on", self._power_on)
        table.add("x-throttlefs-sync", self._sync)

    def state(self) -> Mapping[str, object]:
        """What ``x-throttlefs-query`` says of the power: nothing if it cannot be cut."""
        return {} if self._power is None else {"power": self._power.state()}

    async def _cut(self, arguments: Arguments) -> object:
        power = self._volatile()
        seed, dry_run = arguments.get("seed"), arguments.get("dry-run", False)
        if seed is not None and not 0 <= seed <= MAX_SEED:
            raise ThrottlefsError(f"seed: {seed} is not from 0 to {MAX_SEED}")
        report = await power.cut(seed, dry_run=dry_run)
        if not dry_run:
            log.info("the power is off; the seed of the cut is %d", report["seed"])
            self._announce(POWER_EVENT, {"state": "off", "seed": report["seed"]})
        return report

    async def _power_on(self, _: Arguments) -> object:
        await self._volatile().power_on()
        log.info("the power is on")
        self._announce(POWER_EVENT, {"state": "on"})
        return {}

    async def _sync(self, _: Arguments) -> object:
        await self._volatile().sync()
        return {}

    def _volatile(self) -> Power:
        if self._power is None:
            target = self._facts.target
            raise ThrottlefsError(
                f"{target} does not keep what it could lose: unmount it with throttlefs umount"
                f" {shlex.quote(target)}, and mount it again with -o volatile"
            )
        return self._power
