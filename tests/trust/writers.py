"""Writers with ledgers, as the tests start, watch, end and audit them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.soak import Tally
from tests.trust import ledger

_CHECKOUT = Path(__file__).parents[2]


class Writer:
    """A `ledger_writer` at work on *file*; more of its options by keyword."""

    def __init__(
        self, file: Path, ledger_file: Path, seed: int, layout: str = "any", **options: object
    ) -> None:
        self.file = file
        self.ledger = ledger_file
        self.seed = seed
        self.layout = layout
        command = [sys.executable, "-m", "tests.trust.ledger_writer", file, ledger_file]
        command += ["--seed", seed, "--layout", layout]
        for name, value in options.items():
            if value is not False:
                command += ["--" + name.replace("_", "-")]
                command += [] if value is True else [value]
        self.process = subprocess.Popen(
            [*map(str, command)],
            cwd=_CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        self.promised: int | None = None
        self.writes = 0
        self.errors: dict[str, int] = {}

    def acknowledged(self) -> int:
        return ledger.acknowledged(self.ledger)

    def wait(self, timeout: float = 60) -> Writer:
        """Wait for its end and take its report."""
        output, _ = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, "the writer itself failed"
        report = json.loads(output)
        self.writes, self.errors = report["writes"], report["errors"]
        return self

    def end(self, timeout: float = 60) -> Writer:
        """Tell it to end, and wait for that."""
        self.process.terminate()
        return self.wait(timeout)

    def promise(self) -> None:
        """What is acknowledged by now has to outlive a crash."""
        self.promised = ledger.acknowledged(self.ledger)

    def audit(self, file: Path, *, synced_only: bool = False) -> ledger.Audit:
        return ledger.audit(
            file,
            self.ledger,
            self.layout,
            self.seed,
            synced_only=synced_only,
            promised=self.promised,
        )

    def kill(self) -> None:
        """Leave nothing behind, whatever the test came to."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


def start_mixed(directory: Path, count: int, seed: int, **options: object) -> list[Writer]:
    """*count* writers of different kinds, each with a file of its own in *directory*."""
    kinds: list[dict[str, object]] = [
        {"how": "aio", "layout": "aligned", "direct": True, "allocate": True},
        {"how": "sync", "fsync": 20},
        {"how": "threads", "depth": 4, "layout": "any", "allocate": True},
        {"how": "aio", "depth": 16, "direct": True, "layout": "any", "allocate": True},
        {"how": "sync", "layout": "aligned", "direct": True, "reopen": 7},
        {"how": "aio", "layout": "aligned", "direct": True},
    ]
    ledgers = directory.parent
    return [
        Writer(
            directory / f"w{seed}-{i}",
            ledgers / f"ledger{seed}-{i}",
            seed * 100 + i,
            **{**kinds[i % len(kinds)], **options},  # type: ignore[arg-type]
        )
        for i in range(count)
    ]


def wait_until_written(writers: Iterable[Writer], count: int, seconds: float = 60) -> None:
    """Wait until each of *writers* has *count* more writes acknowledged than now."""
    deadline = time.monotonic() + seconds
    for writer, wanted in [(writer, writer.acknowledged() + count) for writer in writers]:
        while (now := writer.acknowledged()) < wanted:
            assert writer.process.poll() is None, f"{writer.file} ended early"
            missing = f"{writer.file}: {wanted - now} of {count} writes are missing"
            assert time.monotonic() < deadline, missing
            time.sleep(0.01)


def assert_nothing_lost(
    writers: Iterable[Writer], source: Path, tally: Tally, *, synced_only: bool = False
) -> int:
    """Audit all files in SRC; returns how many writes had been acknowledged."""
    writes = 0
    reasons = []
    for writer in writers:
        result = writer.audit(source / writer.file.name, synced_only=synced_only)
        writes += result.writes
        reasons += result.reasons
    tally.note(lost=len(reasons), checked="acknowledged writes compared with SRC")
    assert not reasons, "\n".join(reasons)
    return writes


def kill_all(writers: Iterable[Writer]) -> None:
    for writer in writers:
        writer.kill()


def path_of(descriptor: int) -> Path:
    """A path to what an open descriptor leads to, whether it still has a name or not."""
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
