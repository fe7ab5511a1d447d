"""The process that a mount ends with, and how records name it."""

from __future__ import annotations

import os
import select
import subprocess

import pytest

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host import runtime
from throttlefs.host.namespaces import own_namespaces
from throttlefs.host.owner import Owner, parse_owner, this_process


def test_this_process_is_alive_and_reads_back() -> None:
    own = this_process()
    assert own.pid == os.getpid()
    assert own.is_alive()
    assert parse_owner(str(own)) == own
    assert parse_owner(str(os.getpid())) == own


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "1:", "1:x", ":5", "1:2:3", "9" * 30, "²", " 1", f"1:{1 << 64}"]
)
def test_what_is_no_process_id(text: str) -> None:
    with pytest.raises(UsageError, match="is not the id of a process"):
        parse_owner(text)


def test_a_pidfd_becomes_readable_at_its_end() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        owner = parse_owner(str(process.pid))
        pidfd = owner.open_pidfd()
        assert not select.select([pidfd], [], [], 0)[0]
    assert select.select([pidfd], [], [], 0)[0]
    os.close(pidfd)
    assert not owner.is_alive()
    with pytest.raises(ThrottlefsError, match=f"process {process.pid}"):
        owner.open_pidfd()
    with pytest.raises(ThrottlefsError, match=f"there is no process {process.pid}"):
        parse_owner(str(process.pid))


def test_a_later_process_of_the_same_id_is_not_the_owner() -> None:
    other = Owner(os.getpid(), this_process().start_time + 1)
    assert not other.is_alive()
    with pytest.raises(ThrottlefsError, match="has ended"):
        other.open_pidfd()


def test_only_who_can_tell_says_that_an_owner_has_ended() -> None:
    own = own_namespaces()

    def record(**changed: object) -> runtime.MountRecord:
        fields: dict[str, object] = {
            **{"pid": 5, "start_time": 7, "source": "/src", "target": "/mnt"},
            **{"pid_ns": own.pid, "mnt_ns": own.mnt, "boot_id": runtime.boot_id()},
            **{"owner_pid": os.getpid(), "owner_start_time": 1},
        }
        return runtime.MountRecord(**(fields | changed))  # type: ignore[arg-type]

    assert record().owner_has_ended()
    assert not record(owner_start_time=this_process().start_time).owner_has_ended()
    assert not record(owner_pid=0).owner_has_ended()
    assert not record(pid_ns=own.pid + 1).owner_has_ended()
    assert not record(boot_id="another").owner_has_ended()
    assert not record(boot_id="").owner_has_ended()
