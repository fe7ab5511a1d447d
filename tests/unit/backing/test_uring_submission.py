"""When requests in the ring are submitted: early to the disk, or many in one system call."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.unit.backing.conftest import new_engine
from throttlefs.backing.uring import SUBMIT_AT_ONCE, SUBMIT_BATCH, UringEngine


def queued_when_submitted(
    path: Path, requests: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> list[int]:
    """How many were in the ring at each submission, as so many reads were made in one go."""
    engine = new_engine("uring")
    assert isinstance(engine, UringEngine)
    ring, queued = engine._ring, []

    def submit() -> None:
        queued.append(ring.queued)
        actual_submit()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            # The hooks around trio's epoll_wait do what the loop does when it has nothing to do.
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as readers:
                for number in range(requests):
                    readers.start_soon(engine.read, fd, number * size, size)
            nursery.cancel_scope.cancel()

    actual_submit = ring.submit
    monkeypatch.setattr(ring, "submit", submit)
    path.write_bytes(bytes(requests * size))
    fd = os.open(path, os.O_RDONLY)
    try:
        trio.run(main)
    finally:
        os.close(fd)
        engine.close()
    return queued


def test_small_requests_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = queued_when_submitted(tmp_path / "image", 1 + SUBMIT_BATCH + 2, 4096, monkeypatch)
    assert queued == [1, SUBMIT_BATCH, 2]


def test_large_requests_go_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queued = queued_when_submitted(tmp_path / "image", 3, SUBMIT_AT_ONCE, monkeypatch)
    assert queued == [1, 1, 1]
