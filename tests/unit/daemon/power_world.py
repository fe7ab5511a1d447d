"""A disk that can lose power, with its handlers and its power, but without a mount."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trio

from tests.unit.fuse.names_world import ROOT, NamesWorld
from throttlefs.backing.undo_log import UndoLog
from throttlefs.daemon.volatile import Reserve, VolatileDisk
from throttlefs.host.paths import MountPaths
from throttlefs.host.stash import STASH_NAME, open_stash
from throttlefs.settings.options import parse_options


class PowerWorld:
    """The files are in ``source``, the undo log and the plan in ``log``, both below *path*."""

    def __init__(self, path: Path, stack: Any, monkeypatch: Any) -> None:
        self.source, self.log = path / "src", path / "log"
        for directory in (self.source, self.log):
            directory.mkdir()
        self.names = NamesWorld(self.source, stack, monkeypatch, filesystem="ext4")
        inodes = self.names.inodes
        stash = open_stash(str(self.source), inodes.root.fd, STASH_NAME, make=True)
        assert stash is not None
        self.stash = stash
        self.undo_log = UndoLog(str(self.log))
        stack.callback(self.undo_log.close)
        disk = VolatileDisk(
            Reserve(stash, inodes.root.fd, self.undo_log),
            MountPaths(str(self.source), "/mnt"),
            parse_options(["volatile"]),
            inodes,
            self.names.presentation,
            self.names.engine,
            self.names.in_thread,
        )
        disk.attach(self.names.operations)
        self.disk, self.power = disk, disk.power
        self.power.guard()

    def run(self, handler: str, *args: Any) -> Any:
        """The result of a handler."""
        return self.names.run(handler, *args)

    def change(self, handler: str, *args: Any) -> Callable[[], Any]:
        """That handler, to be run by a caller later on."""
        return lambda: getattr(self.names.operations, handler)(*args)

    def unlink(self, name: bytes) -> tuple[int, bytes, Any]:
        """The arguments of that handler."""
        return ROOT, name, self.names.caller

    def cut(self, seed: int, *, dry_run: bool = False) -> Mapping[str, Any]:
        """Cut the power. Raises `ThrottlefsError`."""
        return self._wait(lambda: self.power.cut(seed, dry_run=dry_run))

    def power_on(self) -> None:
        """Serve again."""
        self._wait(self.power.power_on)

    def tidy(self) -> None:
        """Let go of what no power cut can bring back."""
        self._wait(self.power._tidy)

    def _wait(self, call: Callable[[], Any]) -> Any:
        async def main() -> Any:
            with trio.fail_after(20):
                return await call()

        return trio.run(main)

    def hidden(self) -> list[str]:
        """What lies in the hidden directory, but for its mark."""
        return sorted(
            set(os.listdir(self.source / os.fsdecode(STASH_NAME))) - {"made-by-throttlefs"}
        )
