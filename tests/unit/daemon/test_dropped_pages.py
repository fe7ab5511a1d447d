"""Pages of the kernel's cache, which hide faults: dropped in threads, of which there are few."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from throttlefs.daemon import faults
from throttlefs.daemon.faults import MountFaults
from throttlefs.fuse.inodes import InodeTable
from throttlefs.settings.faults import Fault


async def _no_thread(*_: object, **__: object) -> None:
    raise AssertionError


@pytest.fixture
def mount_faults(tmp_path: Path) -> MountFaults:
    """Rules of a mount whose one file is its root."""
    inodes = InodeTable(os.open(tmp_path, os.O_PATH), 10)
    made = MountFaults(inodes, _no_thread, None, auto_cache=True)
    operations: Any = SimpleNamespace(injector=None)
    made._operations = operations
    made.use_descriptor(os.open("/dev/null", os.O_WRONLY))
    return made


def test_reads_that_hang_keep_few_threads(
    mount_faults: MountFaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    begun: list[Sequence[int]] = []

    def hang(fd: int, inodes: Sequence[int]) -> None:
        os.close(fd)
        begun.append(inodes)
        released.wait(60)

    monkeypatch.setattr(faults, "drop_pages", hang)
    monkeypatch.setattr(faults, "_DROP_WITHIN_S", 0.01)
    fault = Fault.parse({"error": "EIO", "op": "read"})

    async def until_begun(count: int) -> None:
        while len(begun) < count:
            await mount_faults.add(fault)
            await trio.sleep(0.001)

    async def main() -> None:
        with trio.fail_after(60):
            await until_begun(faults._MOST_DROPS)
            for _ in range(5):
                await mount_faults.add(fault)
            assert begun == [[1]] * faults._MOST_DROPS
            released.set()
            await until_begun(faults._MOST_DROPS + 1)

    trio.run(main)
