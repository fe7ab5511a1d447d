"""Puts together what tunes and watches a mount."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from throttlefs.cluster.member import Cluster
from throttlefs.fuse.inodes import InodeTable
from throttlefs.policy.governor import Governor
from throttlefs.policy.tuning import Tuner
from throttlefs.stats import Statistics

from .commands import CommandTable, MountFacts, QemuCommands
from .extensions import ExtensionCommands
from .faults import FaultCommands, Faults
from .images import Images
from .objects import ObjectCommands
from .power import Power, PowerCommands
from .scenarios import ScenarioCommands, Scenarios
from .server import ControlServer
from .sharing import SharingCommands

BY_COMMAND = "host-qmp-quit"
BY_SIGNAL = "host-signal"
BY_UNMOUNT = "host-ui"
"""Why a mount ends: QEMU's ``ShutdownCause``."""


class Failing(Protocol):
    """What makes the device of a mount fail or change by time."""

    @property
    def faults(self) -> Faults:
        """The fault rules."""

    @property
    def scenarios(self) -> Scenarios:
        """What runs scenarios."""


class Control:
    """The control of one mount: its images, its `Tuner` and its QMP server."""

    def __init__(
        self,
        facts: MountFacts,
        inodes: InodeTable,
        governor: Governor,
        statistics: Statistics,
        reload: Callable[[], Awaitable[None]],
        counts: Callable[[], Mapping[str, int | None]],
        features: Callable[[], Mapping[str, bool]],
        failing: Failing,
        cluster: Cluster,
        power: Power | None,
    ) -> None:
        self.images = Images(inodes, governor, statistics)
        self.tuner = Tuner(governor, self.images.is_open)
        self.cluster = cluster
        self.quit_asked = False
        """Whether a client has ended the mount."""
        table = CommandTable()
        self.server = ControlServer(table.run)
        QemuCommands(facts, self.images, self.tuner, self._quit).register(table)
        ObjectCommands(governor, self.tuner).register(table)
        sharing = SharingCommands(governor.throttle, cluster)
        sharing.register(table)
        powering = PowerCommands(facts, power, self.server.broadcast)
        powering.register(table)
        ExtensionCommands(
            facts,
            self.images,
            governor,
            self.tuner,
            reload,
            counts,
            features,
            lambda: [rule.fault for rule in failing.faults.rules()],
            sharing.shares,
            powering.state,
        ).register(table)
        FaultCommands(self.images, failing.faults).register(table)
        ScenarioCommands(
            failing.scenarios, lambda: [group.name for group in governor.throttle.groups()]
        ).register(table)
        cluster.tell(self.server.broadcast)

    def _quit(self) -> None:
        self.quit_asked = True
        os.kill(os.getpid(), signal.SIGTERM)  # the command does what the signal does

    async def announce_end(self, by_signal: bool) -> None:
        """Send ``SHUTDOWN`` to the clients."""
        reason = BY_SIGNAL if by_signal else BY_UNMOUNT
        if self.quit_asked:
            reason = BY_COMMAND
        await self.server.announce_end(reason)
