"""Who may have how many files open."""

from __future__ import annotations

import errno
import os

from hypothesis import given
from hypothesis import strategies as st

from throttlefs.fuse.shares import Shares

USERS = range(1001, 1021)


def refused(shares: Shares, uid: int) -> bool:
    try:
        shares.take(uid)
    except OSError as exc:
        assert exc.errno == errno.EMFILE  # noqa: PT017
        return True
    return False


def test_one_user_gets_a_third() -> None:
    shares = Shares(limit=900)
    assert [refused(shares, 1001) for _ in range(301)] == [False] * 300 + [True]
    assert not refused(shares, 1002)
    shares.give_back(1001)
    assert not refused(shares, 1001)


def test_many_users_leave_some_for_root_and_inodes() -> None:
    """Four uids used to take everything."""
    shares = Shares(limit=900)
    taken = sum(not refused(shares, uid) for uid in USERS for _ in range(300))
    assert taken == 450
    for uid in (0, os.geteuid()):
        assert not any(refused(shares, uid) for _ in range(1000))


def test_files_that_need_two_descriptors_count_twice() -> None:
    shares = Shares(limit=900, handle_descriptors=2)
    assert sum(not refused(shares, uid) for uid in USERS for _ in range(300)) == 225


@given(st.lists(st.tuples(st.sampled_from([0, *USERS[:4]]), st.booleans()), max_size=300))
def test_what_is_given_back_may_be_taken_again(steps: list[tuple[int, bool]]) -> None:
    shares = Shares(limit=30)
    held = dict.fromkeys([0, *USERS[:4]], 0)
    for uid, takes in steps:
        if takes:
            held[uid] += not refused(shares, uid)
        elif held[uid]:
            shares.give_back(uid)
            held[uid] -= 1
        users = [count for user, count in held.items() if user != 0]
        assert max(users) <= 10
        assert sum(users) <= 15
    for uid, count in held.items():
        for _ in range(count):
            shares.give_back(uid)
    assert [refused(shares, 1001) for _ in range(11)] == [False] * 10 + [True]
