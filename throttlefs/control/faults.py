"""The commands for fault rules: ``x-throttlefs-fault-...``.

``x-throttlefs-fault-add``
    Add a rule; ``values`` has what it says, by the names of the config file. ``device`` (a file or
    a directory in the mount) stands for its path. Returns its number (``rule``).
``x-throttlefs-fault-list``
    All rules in their order: what each says, how many requests matched it, how often it fired, and
    how many requests wait in it.
``x-throttlefs-fault-remove``
    Remove the rule of that number (``rule``); what hangs in it goes on.
``x-throttlefs-fault-clear``
    Remove all rules. Returns how many there were.

Each firing is an event, ``X_THROTTLEFS_FAULT``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from throttlefs.device.faults import NoSuchRuleError, Rule
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.fault_words import FaultError
from throttlefs.settings.faults import Fault

from .arguments import Parameter
from .commands import Arguments, CommandTable
from .images import Images

FAULT_EVENT: Final = "X_THROTTLEFS_FAULT"

_MOST_RULES: Final = 1000


class Faults(Protocol):
    """The fault rules of a mount."""

    def rules(self) -> Sequence[Rule]:
        """All rules in their order."""

    def is_on(self, rule: Rule) -> bool:
        """Whether its period, if it has one, holds now."""

    def waiting(self, number: int) -> int:
        """How many requests wait in the rule *number*."""

    async def add(self, fault: Fault) -> Rule:
        """Add a rule. Raises `ThrottlefsError` if the kernel would end the mount for it."""

    async def remove(self, numbers: Sequence[int]) -> None:
        """Remove rules. Raises `NoSuchRuleError` if one is missing; none is removed then."""


class FaultCommands:
    """The commands for the fault rules of a mount."""

    def __init__(self, images: Images, faults: Faults) -> None:
        self._images = images
        self._faults = faults

    def register(self, table: CommandTable) -> None:
        """Add them all to *table*."""
        table.add(
            "x-throttlefs-fault-add",
            self._add,
            {"device": Parameter("string"), "values": Parameter("object", required=True)},
        )
        table.add("x-throttlefs-fault-list", self._list)
        table.add(
            "x-throttlefs-fault-remove", self._remove, {"rule": Parameter("integer", required=True)}
        )
        table.add("x-throttlefs-fault-clear", self._clear)

    async def _add(self, arguments: Arguments) -> object:
        values: dict[str, Any] = dict(arguments["values"])
        device = arguments.get("device")
        if device is not None:
            if "path" in values:
                raise ThrottlefsError("path and a file are given: leave one out")
            values["path"] = await self._images.patterns(device)
        if len(self._faults.rules()) >= _MOST_RULES:
            raise ThrottlefsError(f"there are {_MOST_RULES} rules, and no more can be: remove some")
        try:
            fault = Fault.parse(values)
        except FaultError as exc:
            raise ThrottlefsError(str(exc)) from None
        return {"rule": (await self._faults.add(fault)).number}

    async def _list(self, _: Arguments) -> object:
        return [self._described(rule) for rule in self._faults.rules()]

    def _described(self, rule: Rule) -> Mapping[str, object]:
        return {
            "rule": rule.number,
            "values": rule.fault.as_dict(),
            "text": str(rule.fault),
            "active": self._faults.is_on(rule),
            "matched": rule.matched,
            "fired": rule.fired,
            "waiting": self._faults.waiting(rule.number),
            "damaged": sum(pieces.size for pieces in rule.damaged.values()),
        }

    async def _remove(self, arguments: Arguments) -> object:
        number = arguments["rule"]
        try:
            await self._faults.remove([number])
        except NoSuchRuleError:
            numbers = ", ".join(str(rule.number) for rule in self._faults.rules())
            has = f"the rules are {numbers}" if numbers else "there are none"
            raise ThrottlefsError(f"there is no fault rule {number}; {has}") from None
        return {}

    async def _clear(self, _: Arguments) -> object:
        numbers = [rule.number for rule in self._faults.rules()]
        await self._faults.remove(numbers)
        return {"removed": len(numbers)}
