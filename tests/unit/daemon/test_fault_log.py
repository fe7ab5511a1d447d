"""The fault log: every line is written, in its order, and a slow or full disk stops nobody."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import trio

from throttlefs.daemon import fault_log
from throttlefs.daemon.fault_log import FaultLog, opened_fault_log
from throttlefs.errors import ThrottlefsError


def lines(path: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_while_it_runs_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"n": -1}\n')

    async def main() -> None:
        with opened_fault_log(str(path)) as opened:
            assert opened is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(opened.run)
                for number in range(300):
                    opened.add({"n": number})
                    if number % 7 == 0:
                        await trio.sleep(0)
                while len(lines(path)) < 200:
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()
            opened.add({"n": 300})

    trio.run(main)
    assert lines(path) == [{"n": number} for number in range(-1, 301)]


def test_what_is_too_much_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_log, "_MOST_WAITING", 2)
    log = FaultLog(str(tmp_path / "log"))
    for number in range(5):
        log.add({"n": number})
    log._write(log._lines)
    log._lines = []
    log.add({"n": 5})
    log.close()
    assert lines(tmp_path / "log") == [{"n": 0}, {"n": 1}, {"left_out": 3}, {"n": 5}]


def test_a_full_disk_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = FaultLog("/dev/full")
    with caplog.at_level(logging.ERROR):
        for _ in range(2):
            log._write(["x"])
    log.close()
    assert [record.message for record in caplog.records] == [
        "cannot write the fault log /dev/full: No space left on device"
    ]


def test_none_and_one_that_cannot_be(tmp_path: Path) -> None:
    with opened_fault_log(None) as opened:
        assert opened is None
    with pytest.raises(ThrottlefsError, match=r"cannot write the fault log .*nix/log: No such"):
        FaultLog(str(tmp_path / "nix" / "log"))
