"""When changes of names run on the loop, on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.backing import STALL
from throttlefs.backing.inline import STALL_SHARE
from throttlefs.fuse import quick_names
from throttlefs.fuse.quick_names import CREDIT, PAUSE_MAX, PAUSE_MIN, Change, QuickNames
from throttlefs.host import filesystems

DISK, OTHER_DISK, SERVER = 1, 2, 3


class Clock:
    """What the module takes for the time (s), and for the kernel's NFS server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.has_nfs_server = False
        monkeypatch.setattr(quick_names, "monotonic", lambda: self.now)
        monkeypatch.setattr(filesystems, "may_be_exported", lambda: self.has_nfs_server)

    def lasting(self, seconds: float) -> Callable[[], str]:
        """A change that takes so long."""

        def change() -> str:
            self.now += seconds
            return "done"

        return change


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def names() -> QuickNames:
    return QuickNames(lambda device: device != SERVER)


def test_quick_are_local_filesystems(clock: Clock) -> None:
    quick = names()
    assert quick.are_quick(DISK, Change.MOVE)
    assert not quick.are_quick(SERVER, Change.MOVE)


def test_none_is_quick_while_its_filesystem_commits(clock: Clock) -> None:
    quick = names()
    with quick.syncing(DISK), quick.syncing(DISK):
        assert not quick.are_quick(DISK, Change.MOVE)
        assert quick.are_quick(OTHER_DISK, Change.MOVE)
    assert quick.are_quick(DISK, Change.MOVE)
    with pytest.raises(OSError, match="no space"), quick.syncing(DISK):
        raise OSError("no space")
    assert quick.are_quick(DISK, Change.MOVE)


def test_none_is_quick_while_a_call_is_stuck(clock: Clock) -> None:
    quick = names()
    quick.is_stuck = lambda: True
    assert not quick.are_quick(DISK, Change.MOVE)


def test_none_is_quick_beside_the_kernels_nfs_server(clock: Clock) -> None:
    quick = names()
    assert quick.are_quick(DISK, Change.MOVE)
    clock.has_nfs_server = True
    clock.now += 10
    assert not quick.are_quick(DISK, Change.MOVE)
    clock.has_nfs_server = False
    clock.now += 10
    assert quick.are_quick(DISK, Change.MOVE)


def test_one_long_stall_is_enough(clock: Clock) -> None:
    quick = names()
    assert quick.run(DISK, Change.MOVE, clock.lasting(0.03)) == "done"
    assert not quick.are_quick(DISK, Change.MOVE)
    assert quick.are_quick(DISK, Change.MAKE), "kinds are learned apart"
    assert quick.are_quick(OTHER_DISK, Change.MOVE)
    clock.now += PAUSE_MIN
    assert quick.are_quick(DISK, Change.MOVE)


def test_pauses_grow_up_to_a_minute(clock: Clock) -> None:
    quick = names()
    pauses = []
    for _ in range(10):
        quick.run(DISK, Change.MOVE, clock.lasting(0.03))
        began = clock.now
        while not quick.are_quick(DISK, Change.MOVE):
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert pauses[:3] == [1, 2, 4]
    assert pauses[-1] == PAUSE_MAX


def test_a_stall_counts_though_the_change_fails(clock: Clock) -> None:
    quick = names()

    def fail() -> None:
        clock.now += 0.03
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        quick.run(DISK, Change.MOVE, fail)
    assert not quick.are_quick(DISK, Change.MOVE)


def test_quick_changes_never_pause(clock: Clock) -> None:
    quick = names()
    for _ in range(10_000):
        quick.run(DISK, Change.MOVE, clock.lasting(STALL * 0.9))
    assert quick.are_quick(DISK, Change.MOVE)


@given(st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 3)), min_size=1, max_size=60))
def test_stalls_take_a_bounded_part_of_the_time(changes: list[tuple[float, float]]) -> None:
    """However they come: beside the share, no more than the credit and the longest one."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        quick = names()
        began, stalled, longest = clock.now, 0.0, 0.0
        for seconds, pause in changes:
            if quick.are_quick(DISK, Change.MOVE):
                quick.run(DISK, Change.MOVE, clock.lasting(seconds))
                if seconds > STALL:
                    stalled += seconds
                    longest = max(longest, seconds)
            clock.now += pause
        assert stalled <= STALL_SHARE * (clock.now - began) + CREDIT + longest + 1e-9
