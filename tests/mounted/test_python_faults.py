"""Fault rules from Python, while their block runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

import throttlefs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    for name in ("disk.img", "other.img"):
        (path / name).write_bytes(bytes(4096))
    return path


def write(path: Path) -> str:
    """Write once; the name of the error, or "done"."""
    with open(path, "r+b", buffering=0) as file:
        try:
            file.write(b"x")
        except OSError as exc:
            return errno.errorcode[exc.errno or 0]
    return "done"


def test_a_rule_holds_while_its_block_runs(source: Path) -> None:
    with throttlefs.mounted(source) as disk:
        with disk.fault("disk.img", op="write", error="EIO", nth=3) as fault:
            assert [write(disk / "disk.img") for _ in range(4)] == ["done", "done", "EIO", "done"]
            assert write(disk / "other.img") == "done"
            assert (fault.matched, fault.fired, fault.waiting) == (4, 1, 0)
        assert fault.fired == 1
        assert disk.qmp("x-throttlefs-fault-list") == []
        fault.remove()  # for the second time, which is nothing wrong


def test_a_rule_without_a_block_and_for_all_files(source: Path) -> None:
    with throttlefs.mounted(source) as disk:
        fault = disk.fault(op=["write"], error="ENOSPC")
        assert [write(disk / name) for name in ("disk.img", "other.img")] == ["ENOSPC"] * 2
        fault.remove()
        assert fault.counts == throttlefs.FaultCounts(matched=2, fired=2, waiting=0)
        assert write(disk / "disk.img") == "done"
        again = disk.fault(error="EIO", op="read")
        disk.qmp("x-throttlefs-fault-clear")
        with pytest.raises(throttlefs.ThrottlefsError, match="there is no fault rule"):
            again.counts  # noqa: B018


def test_a_wrong_rule_is_one_line(source: Path) -> None:
    with throttlefs.mounted(source) as disk:
        with pytest.raises(throttlefs.ThrottlefsError, match="unknown key 'erorr'"):
            disk.fault(op="write", erorr="EIO")
        with disk.fault(op="write", error="EIO"):
            disk.qmp("x-throttlefs-fault-clear")  # the end of the block has nothing to remove


def test_in_trio(source: Path) -> None:
    async def use() -> None:
        async with throttlefs.mounted(source) as disk:
            rule = disk.fault("disk.img", op="write", error="EIO", times=1)
            with pytest.raises(throttlefs.ThrottlefsError, match=r"async with disk\.fault"):
                rule.number  # noqa: B018
            async with rule as fault:
                assert fault.number > 0
                assert write(disk / "disk.img") == "EIO"
                assert (await fault.counts()).fired == 1
            assert await disk.qmp("x-throttlefs-fault-list") == []
            assert (await fault.counts()).fired == 1

    trio.run(use)
    assert os.listdir(source)
