"""The records of mounts, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry
from throttlefs.host.namespaces import own_namespaces

ENTRY = MountEntry(1, 0, 999_983, b"/mnt", "fuse.throttlefs", b"/src", "rw")
"""A mount of a device number that no mount of this machine has by chance."""
NEVER = (1 << 22) - 1
"""A process id that nobody has by chance."""

SOUND = {"pid": 5, "start_time": 7, "source": "/src", "target": "/mnt", "pid_ns": 8, "mnt_ns": 9}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime, "directories_of", lambda _uid: [str(tmp_path)])
    return tmp_path / "0-999983.json"


def test_a_record_reads_back(record: Path) -> None:
    record.write_text(json.dumps(SOUND))
    assert runtime.read_record(ENTRY) == runtime.MountRecord(**SOUND)
    owned = SOUND | {"owner_pid": 4, "owner_start_time": 6, "boot_id": "b"}
    record.write_text(json.dumps(owned))
    assert runtime.read_record(ENTRY) == runtime.MountRecord(**owned)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        json.dumps(SOUND | {"more": 1}),
        *(json.dumps(SOUND | {"pid": pid}) for pid in ("1/../self", 0, -1, 1 << 40, True, 1.5)),
        json.dumps(SOUND | {"start_time": None}),
        json.dumps(SOUND | {"target": 5}),
        json.dumps(SOUND | {"pid_ns": "1"}),
        *(json.dumps(SOUND | {"owner_pid": pid}) for pid in ("1", -1, 1 << 40, True, None)),
        json.dumps(SOUND | {"owner_start_time": -1}),
        json.dumps(SOUND | {"boot_id": 5}),
        json.dumps({name: SOUND[name] for name in SOUND if name != "mnt_ns"}),
    ],
)
def test_what_is_no_record_is_none(record: Path, text: str) -> None:
    record.write_text(text)
    assert runtime.read_record(ENTRY) is None


def test_a_process_removes_its_own_record(record: Path) -> None:
    runtime.write_record(str(record.parent), ENTRY, "/src", "/mnt")
    assert record.exists()
    runtime.remove_record(str(record.parent), ENTRY)
    assert not record.exists()
    runtime.remove_record(str(record.parent), ENTRY)


def test_the_record_of_a_later_mount_stays(record: Path) -> None:
    runtime.write_record(str(record.parent), ENTRY, "/src", "/mnt")
    own = json.loads(record.read_text())
    for other in ({"pid": own["pid"] + 1}, {"pid_ns": 1}, {"mnt_ns": 1}, {"start_time": 1}):
        record.write_text(json.dumps(own | other))
        runtime.remove_record(str(record.parent), ENTRY)
        assert record.exists(), other


def of_dead_daemon(**changed: object) -> str:
    own = own_namespaces()
    mine = {"pid": NEVER, "pid_ns": own.pid, "mnt_ns": own.mnt}
    return json.dumps(SOUND | mine | changed)


def test_the_record_of_a_dead_daemon_is_cleared_away(record: Path) -> None:
    record.write_text(of_dead_daemon())
    socket = record.with_suffix(".sock")
    socket.touch()
    runtime.clear_dead_records()
    assert not record.exists()
    assert not socket.exists()


@pytest.mark.parametrize(
    "text",
    [
        of_dead_daemon(pid_ns=own_namespaces().pid + 1),
        of_dead_daemon(mnt_ns=own_namespaces().mnt + 1),
        of_dead_daemon(pid=os.getpid(), start_time=runtime.process_start_time("self")),
        of_dead_daemon(of_a_later_version=1),
    ],
    ids=["another PID namespace", "another mount namespace", "alive", "cannot be read"],
)
def test_the_record_of_another_stays(record: Path, text: str) -> None:
    """A process id of another PID namespace, a mount of another mount namespace says nothing."""
    record.write_text(text)
    socket = record.with_suffix(".sock")
    socket.touch()
    runtime.clear_dead_records()
    assert record.exists()
    assert socket.exists()


def test_a_record_that_is_no_file_of_its_owner_is_none(record: Path) -> None:
    os.mkfifo(record)
    assert runtime.read_record(ENTRY) is None
    record.unlink()
    elsewhere = record.with_name("elsewhere")
    elsewhere.write_text(json.dumps(SOUND))
    record.symlink_to(elsewhere)
    assert runtime.read_record(ENTRY) is None
    record.unlink()
    if os.geteuid() == 0:
        record.write_text(json.dumps(SOUND))
        os.chown(record, 65534, 65534)
        assert runtime.read_record(ENTRY) is None


def test_another_users_xdg_runtime_dir_is_not_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sudo may hand it on."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir(mode=0o700)
    others.mkdir(mode=0o777)
    others.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(others))
    assert f"{others}/throttlefs" not in runtime.directories_of(0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{others}/no")
    assert f"{others}/no/throttlefs" not in runtime.directories_of(0)
    if os.getuid() == 0:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(mine))
        assert runtime.directories_of(0)[:2] == ["/run/throttlefs", f"{mine}/throttlefs"]
