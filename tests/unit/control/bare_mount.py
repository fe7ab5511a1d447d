"""A mount but for FUSE: its commands on a real limiter, with a clock of the test's own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from throttlefs.control.commands import CommandTable, MountFacts, QemuCommands
from throttlefs.control.extensions import ExtensionCommands
from throttlefs.control.faults import FaultCommands
from throttlefs.control.images import Images
from throttlefs.control.objects import ObjectCommands
from throttlefs.daemon.faults import MountFaults
from throttlefs.device import Disk
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.inodes import InodeTable
from throttlefs.policy.governor import Governor
from throttlefs.policy.policy import make_policy
from throttlefs.policy.tuning import Tuner
from throttlefs.settings.config import parse_config
from throttlefs.settings.limits import RATES
from throttlefs.settings.options import parse_options
from throttlefs.stats import ImageStatistics, Statistics
from throttlefs.throttle import Image, Throttle

NO_LIMIT = dict.fromkeys(RATES, 0)
TOML = """
[[image]]
path = "ruled.img"
iops = 50

[group.tenant]
bps = "30M"
"""


class NoAlarm:
    def set(self, instant: int | None) -> None:
        pass

    async def wait(self) -> None:
        raise AssertionError

    def fileno(self) -> int:
        raise AssertionError

    def close(self) -> None:
        pass


async def _not_in_a_thread(*_: object, **__: object) -> None:
    raise AssertionError("there is no mount")


class Mount:
    """What a mount of *source* with ``-o bps=4M`` consists of, but for FUSE."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.now = 10**12
        self.policy = make_policy(parse_options(["bps=4M"]), parse_config(TOML, "limits.toml"))
        self.inodes = InodeTable(os.open(source, os.O_PATH), 100)
        self.statistics = Statistics()
        self.governor = Governor(
            Throttle(clock=lambda: self.now, alarm=NoAlarm(), new_model=Disk), self.policy
        )
        images = Images(self.inodes, self.governor, self.statistics)
        tuner = Tuner(self.governor, images.is_open)
        facts = MountFacts(str(source), "/mnt")
        self.ended = 0
        self.reload_error: ThrottlefsError | None = None
        self.table = CommandTable()
        QemuCommands(facts, images, tuner, self._end).register(self.table)
        ObjectCommands(self.governor, tuner).register(self.table)
        self.counts: dict[str, int | None] = {"inodes": 1, "handles": 0}
        self.faults = MountFaults(self.inodes, _not_in_a_thread, None, auto_cache=False)
        FaultCommands(images, self.faults).register(self.table)
        ExtensionCommands(
            facts,
            images,
            self.governor,
            tuner,
            self._reload,
            lambda: self.counts,
            lambda: {"shared-mmap": True},
            lambda: [rule.fault for rule in self.faults.rules()],
            dict,
            dict,
        ).register(self.table)

    def _end(self) -> None:
        self.ended += 1

    def restore(self) -> None:
        """Hold everything to the policy again, as a reload does."""
        self.governor.reload(self.policy, self.inodes.path_of)

    async def _reload(self) -> None:
        if self.reload_error is not None:
            raise self.reload_error
        self.restore()

    def open(self, name: str) -> tuple[Image, ImageStatistics]:
        st = os.stat(self.source / name)
        key = (st.st_dev, st.st_ino)
        path = os.fsencode(name)
        return self.governor.image(key, path), self.statistics.opened(key, path)

    def close(self, image: Image) -> None:
        self.statistics.closed(image.key)
        self.governor.release(image.key)  # type: ignore[arg-type]

    def run(self, command: str, **arguments: Any) -> Any:
        named = {name.replace("__", "-"): value for name, value in arguments.items()}
        return trio.run(self.table.run, command, named)

    def set_image(self, device: str, **values: Any) -> Any:
        return self.run("x-throttlefs-set", device=device, values=values)

    def limits(self, device: str) -> dict[str, Any]:
        (image,) = self.run("x-throttlefs-query", device=device)["images"]
        return {"group": image["group"], "weight": image["weight"], **image["limits"]}

    def error(self, command: str, **arguments: Any) -> str:
        before = self.run("x-throttlefs-query")
        with pytest.raises(ThrottlefsError) as caught:
            self.run(command, **arguments)
        assert self.run("x-throttlefs-query") == before, "something was changed"
        text = str(caught.value)
        assert "\n" not in text
        return text
