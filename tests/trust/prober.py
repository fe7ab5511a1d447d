"""Asks a file of a mount again and again: how long is it ever kept waiting for an answer?

A program of its own (``python -m tests.trust.prober FILE``), so that nothing but the mount holds it
up. It ends when its input does and prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BLOCK = 4096
BLOCKS = 256
_PAUSE_S = 0.02


def fill(path: Path) -> None:
    """Write what the prober expects to read."""
    path.write_bytes(b"".join(_block(number) for number in range(BLOCKS)))


def _block(number: int) -> bytes:
    return b"%08d" % number * (BLOCK // 8)


class Prober:
    """One that asks *path* for as long as the block runs; `result` is there afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.result: dict[str, Any] = {}

    def __enter__(self) -> Prober:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.trust.prober", str(self._path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        try:
            output, _ = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            if kind is None:
                raise
            return
        if kind is None:
            assert self._process.returncode == 0
            self.result = json.loads(output)

    @property
    def longest_s(self) -> float:
        return float(self.result["longest-s"])

    @property
    def rounds(self) -> int:
        return int(self.result["rounds"])


def _probe(path: str) -> dict[str, Any]:
    longest, rounds = 0.0, 0
    while not select.select([sys.stdin], [], [], _PAUSE_S)[0]:
        began = time.monotonic()
        os.stat(path)
        # A name that is not there is asked for every time; the kernel remembers none.
        assert not os.path.exists(f"{path}.{rounds}")
        fd = os.open(path, os.O_RDONLY)
        try:
            number = rounds % BLOCKS
            assert os.pread(fd, BLOCK, number * BLOCK) == _block(number)
        finally:
            os.close(fd)
        longest = max(longest, time.monotonic() - began)
        rounds += 1
    return {"longest-s": longest, "rounds": rounds}


if __name__ == "__main__":
    print(json.dumps(_probe(sys.argv[1])))
