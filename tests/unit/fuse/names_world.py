"""All handlers of a mount without the mount: what runs in a thread is noted, and runs at once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from throttlefs.backing import create_engine
from throttlefs.fuse import devices, inode_operations, quick_names
from throttlefs.fuse.arguments import Caller
from throttlefs.fuse.attributes import Presentation, WireAttributes
from throttlefs.fuse.handle import Handle
from throttlefs.fuse.holes import KernelPages
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.operations import Operations
from throttlefs.host import filesystems
from throttlefs.policy.governor import Governor
from throttlefs.policy.policy import Policy
from throttlefs.settings.cachemode import CacheMode
from throttlefs.stats import Statistics
from throttlefs.throttle import Throttle, TimerfdAlarm

ROOT = 1


class NamesWorld:
    """A directory, its handlers, and how often something ran in a thread."""

    def __init__(self, source: Path, stack: Any, monkeypatch: Any, *, filesystem: str) -> None:
        monkeypatch.setattr(filesystems, "filesystem_type", lambda fd: filesystem)
        monkeypatch.setattr(filesystems, "may_be_exported", lambda: False)
        # Time stands still: a busy machine has stalls, of which nothing is to be learned here.
        for module in (quick_names, devices, inode_operations):
            monkeypatch.setattr(module, "monotonic", lambda: 1000.0)
        self.source = source
        self.calls = 0
        self.stuck = False
        self.during: Callable[[], Any] | None = None
        inodes = InodeTable(os.open(source, os.O_PATH), 1000)
        alarm = TimerfdAlarm()
        engine = create_engine("threads", logging.getLogger("throttlefs"))
        for close in (inodes.close, alarm.close, engine.close):
            stack.callback(close)
        self.inodes, self.engine = inodes, engine
        self.presentation = Presentation(1, 1)
        self.operations = Operations(
            inodes,
            WireAttributes(self.presentation),
            None,  # type: ignore[arg-type]
            Governor(Throttle(alarm=alarm), Policy()),
            Statistics(),
            engine,
            self.in_thread,
            KernelPages(self.in_thread),
            cache=CacheMode.WRITEBACK,
            auto_cache=False,
            noatime=False,
            nodiratime=False,
            max_inflight=1 << 20,
            discard_costs_bytes=False,
            source=str(source),
            covers_source=False,
            on_init=lambda: None,
            threads_are_stuck=lambda: self.stuck,
        )
        stack.callback(self.operations.close)
        self.caller = Caller(os.geteuid(), os.getegid(), os.getpid())

    async def in_thread(
        self, fn: Callable[..., Any], /, *args: Any, owner: int | None = None
    ) -> Any:
        """Call *fn* here and now; before it ``during``, once."""
        self.calls += 1
        if self.during is not None:
            during, self.during = self.during, None
            await during()
        return fn(*args)

    def run(self, handler: str, *args: Any) -> Any:
        """The result of a handler."""

        async def main() -> Any:
            with trio.fail_after(20):
                return await getattr(self.operations, handler)(*args)

        return trio.run(main)

    def look_up(self, name: bytes) -> int:
        number: int = self.run("lookup", ROOT, name, self.caller).number
        return number

    def create(self, name: bytes, flags: int = os.O_WRONLY) -> tuple[int, int]:
        """A new file's inode and handle."""
        file, entry = self.run("create", ROOT, name, 0o100644, flags, self.caller)
        return entry.number, file.fh

    def handle(self, fh: int) -> Handle:
        return self.operations._handles[fh]

    def calls_of(self, handler: str, *args: Any) -> int:
        """How much of a handler ran in threads."""
        before = self.calls
        self.run(handler, *args)
        return self.calls - before
