"""Looking for files deleted in SRC, where that hangs."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import trio

from throttlefs.fuse import deleted
from throttlefs.fuse.inode import Inode
from throttlefs.fuse.inodes import InodeTable


def test_a_filesystem_that_never_answers_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(_: list[Inode]) -> tuple[list[Inode], float]:
        asked.set()
        answer.wait(60)
        return [], 0.0

    async def close(*_: object) -> None:
        raise AssertionError("nothing was deleted")

    async def main() -> None:
        inodes = InodeTable(os.open(tmp_path, os.O_PATH), 100)
        (tmp_path / "image").touch()
        fd = inodes.open_now(inodes.root, b"image")
        inodes.adopt(inodes.root, b"image", fd, os.fstat(fd))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(deleted.let_go_of_deleted, inodes, close)
                await trio.to_thread.run_sync(asked.wait)
                nursery.cancel_scope.cancel()
        assert not inodes.held()[0].pins
        inodes.close()

    monkeypatch.setattr(deleted, "SWEEP_S", 0.0)
    monkeypatch.setattr(deleted, "deleted_among", hang)
    try:
        trio.run(main)
    finally:
        answer.set()
