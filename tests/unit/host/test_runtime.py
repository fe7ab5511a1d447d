"""The records of mounts, whatever is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from throttlefs.host import runtime
from throttlefs.host.mountinfo import MountEntry

ENTRY = MountEntry(1, 0, 45, b"/mnt", "fuse.throttlefs", b"/src", "rw")
SOUND = {"pid": 5, "start_time": 7, "source": "/src", "target": "/mnt"}


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runtime, "runtime_directory", lambda: str(tmp_path))
    return tmp_path / "0-45.json"


def test_a_record_reads_back(record: Path) -> None:
    record.write_text(json.dumps(SOUND))
    assert runtime.read_record(ENTRY) == runtime.MountRecord(5, 7, "/src", "/mnt")


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
    ],
)
def test_what_is_no_record_is_none(record: Path, text: str) -> None:
    record.write_text(text)
    assert runtime.read_record(ENTRY) is None


def test_a_process_removes_its_own_record(record: Path) -> None:
    runtime.write_record(ENTRY, "/src", "/mnt")
    assert record.exists()
    runtime.remove_record(ENTRY)
    assert not record.exists()
    runtime.remove_record(ENTRY)


def test_the_record_of_a_later_mount_stays(record: Path) -> None:
    record.write_text(json.dumps(SOUND | {"pid": os.getpid() + 1}))
    runtime.remove_record(ENTRY)
    assert record.exists()
