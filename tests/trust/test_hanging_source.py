"""A file of SRC whose server does not answer: whoever uses it waits, and nobody else."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.failing_fs import failing_filesystem
from tests.support import MountFactory

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can unmount SRC")

PAGE = b"data" * 1024
"""A whole page: to write a part of one is not tried on the loop in any case."""


def at_once(path: Path, size: int) -> bytes:
    """What is read of *path* by a thread, so that a mount that hangs fails the test."""
    result: list[bytes] = []

    def read() -> None:
        fd = os.open(path, os.O_RDONLY)
        result.append(os.pread(fd, size, 0))
        os.close(fd)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(30)
    assert result, f"{path} cannot be read"
    return result[0]


@pytest.mark.parametrize("engine", ["uring", "threads"])
@pytest.mark.parametrize("what", ["read", "write"])
def test_the_others_go_on(make_mount: MountFactory, tmp_path: Path, what: str, engine: str) -> None:
    """Reads and writes of a FUSE filesystem are never done on the loop: it may hang at each."""
    with failing_filesystem(tmp_path, 0) as (source, switch):
        mounted = make_mount(f"engine={engine}", source=source)
        (mounted.path / "g").write_bytes(b"well")
        fd = os.open(mounted.path / "f", os.O_RDWR)
        os.pwrite(fd, PAGE, 0)
        switch.write_text("hang")
        outcome: list[object] = []

        def use() -> None:
            outcome.append(os.pwrite(fd, PAGE, 0) if what == "write" else os.pread(fd, 4, 0))

        users = [threading.Thread(target=use) for _ in range(3)]
        for user in users:
            user.start()
        try:
            for _ in range(5):
                assert at_once(mounted.path / "g", 4) == b"well"
            assert {entry.name for entry in os.scandir(mounted.path)} == {"f", "g"}
            assert not outcome
        finally:
            switch.write_text("")
            for user in users:
                user.join(30)
        assert outcome == [len(PAGE) if what == "write" else PAGE[:4]] * 3
        os.close(fd)
        mounted.umount()
