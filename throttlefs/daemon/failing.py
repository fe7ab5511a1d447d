"""Puts together what makes a device fail or change by time: fault rules, changes, scenarios."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import trio

from throttlefs.control.faults import FAULT_EVENT
from throttlefs.control.scenarios import SCENARIO_EVENT
from throttlefs.fuse.in_thread import RunInThread
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.operations import Operations
from throttlefs.policy.governor import Governor
from throttlefs.policy.loading import overlays_of
from throttlefs.policy.overlays import Overlays
from throttlefs.policy.policy import Policy
from throttlefs.settings.options import MountOptions

from .fault_log import FaultLog
from .faults import MountFaults
from .scenarios import Scenarios


class FailingDevice:
    """The faults and scenarios of a mount. *log* is the file of ``fault_log``, if it has one."""

    def __init__(
        self,
        governor: Governor,
        inodes: InodeTable,
        in_thread: RunInThread,
        log: FaultLog | None,
        options: MountOptions,
    ) -> None:
        self._governor = governor
        self._inodes = inodes
        self._overlays = Overlays(governor)
        self.faults = MountFaults(inodes, in_thread, log, options.auto_cache)
        self.scenarios = Scenarios(self._overlays, self.faults)

    def attach(
        self, operations: Operations, announce: Callable[[str, Mapping[str, Any]], None]
    ) -> None:
        """Let what the policy says happen to *operations*; *announce* sends events."""
        self.faults.announce = partial(announce, FAULT_EVENT)
        self.scenarios.announce = partial(announce, SCENARIO_EVENT)
        self.faults.attach(operations)
        self._use(self._governor.policy)

    def reload(self, policy: Policy) -> None:
        """Restore what *policy* says, beside a scenario that runs."""
        self._overlays.around(lambda: self._governor.reload(policy, self._inodes.path_of))
        self._use(policy)

    def _use(self, policy: Policy) -> None:
        self.faults.use_file(policy.config.faults, self.scenarios.rules)
        self.scenarios.use_file(overlays_of(policy.config.changes, policy.groups))

    def open_gates(self) -> None:
        """Let everything through at once that waits for a limit or in a fault."""
        self._governor.throttle.open_gates()
        self.faults.open_gates()

    def close_gates(self) -> None:
        """Hold everything to its limits and faults again."""
        self._governor.throttle.close_gates()
        self.faults.close_gates()

    async def run(self) -> None:
        """Let everything happen in its time; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.faults.run)
            nursery.start_soon(self.scenarios.run)
