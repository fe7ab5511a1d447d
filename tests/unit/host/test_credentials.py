"""Taking other ids and fewer rights for a while, in one thread alone."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from throttlefs.host import credentials
from throttlefs.host.credentials import (
    Credentials,
    acting_for,
    call_for,
    may_differ,
    writing_for,
)

ANNA = Credentials(1001, 1002)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


def now() -> tuple[int, int, int]:
    """Filesystem uid and gid, and effective capabilities, of this thread."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    return (
        int(status["Uid"].split()[3]),
        int(status["Gid"].split()[3]),
        int(status["CapEff"], 16),
    )


@root_only
def test_writing_as_somebody_else() -> None:
    before = now()
    with writing_for(ANNA):
        assert now() == (1001, 1002, 0)
        others: list[object] = []
        thread = threading.Thread(target=lambda: others.append(now()))
        thread.start()
        thread.join()
        assert others == [(1001, 1002, 0)]  # a thread begins with what its maker has
    assert now() == before
    assert call_for(ANNA, now) == (1001, 1002, 0)
    assert call_for(None, now) == before
    assert call_for(Credentials(0, 5), now) == before


@root_only
def test_rights_laid_down_before_stay_so() -> None:
    """The kernel raises all of root's rights to files when a thread becomes root again."""
    result: list[tuple[int, int, int]] = []

    def work() -> None:
        credentials._use_fsetid(False)
        result.append(now())
        with writing_for(ANNA):
            pass
        with acting_for(*ANNA):
            result.append(now())
        result.append(now())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before, amid, after = result
    assert before == after
    assert not before[2] & credentials._FSETID
    assert amid[:2] == ANNA
    assert amid[2] == before[2] & credentials._KEPT


@root_only
def test_errors_amid_it_leave_nothing() -> None:
    before = now()
    with pytest.raises(ZeroDivisionError):
        call_for(ANNA, divmod, 1, 0)
    assert now() == before


@root_only
def test_a_daemon_that_may_not_become_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may lack CAP_SETUID: setfsuid(2) then does nothing and does not say so."""
    before = now()
    monkeypatch.setattr(credentials, "_libc", Refusing(credentials._libc))
    for take in (writing_for(ANNA), acting_for(*ANNA)):
        with pytest.raises(PermissionError), take:
            pytest.fail("it did not become anybody")
        assert now() == before


class Refusing:
    """The C library, but that the ids stay what they are."""

    def __init__(self, libc: object) -> None:
        self._libc = libc
        self.setfsuid = lambda uid: 0
        self.setfsgid = lambda gid: 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._libc, name)


def test_for_whom_it_makes_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert may_differ(ANNA)
    assert not may_differ(Credentials(0, 0))
    assert not may_differ(None)
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    assert not may_differ(ANNA)
    assert not may_differ(Credentials(1002, 1002))
