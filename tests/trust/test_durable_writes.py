"""What a write was told to make durable is there after the machine has lost power."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from tests.trust.sources import MakeSource, skip_unless_known
from tests.unit.backing.conftest import open_file, running
from throttlefs.settings.cachemode import CacheMode

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount filesystems")

OLD, NEW = b"old " * 1024, b"new " * 1024
LINE = b"a line that is appended\n"


async def write_some(kind: str, path: Path, cache: CacheMode) -> None:
    """Write pages 0 and 1, and a line behind them; all but page 0 durably."""
    async with running(kind) as engine:
        backing = open_file(path, engine, cache)
        for offset, data, flags in (
            (0, NEW, 0),
            (4096, NEW, os.RWF_DSYNC),
            (0, LINE, os.RWF_APPEND | os.RWF_SYNC),
        ):
            written = backing.write_now(offset, data, flags)
            if written is None:
                written = await backing.write(offset, data, flags)
            assert written == len(data)
        backing.close()


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_they_outlive_a_loss_of_power(make_source: MakeSource, filesystem: str) -> None:
    skip_unless_known(filesystem)
    source = make_source(filesystem)
    for kind in ("uring", "threads"):
        for cache in CacheMode:
            path = source.path / f"{kind}-{cache.value}"
            path.write_bytes(OLD * 2)
            os.sync()
            trio.run(write_some, kind, path, cache)
            source.shut_down()
            source.mount_again()
            found = path.read_bytes()
            if cache is CacheMode.UNSAFE:
                # Nobody is promised anything; this also shows that a loss would be seen.
                assert found == OLD * 2
                continue
            assert found[4096:] == NEW + LINE
            if cache is not CacheMode.WRITEBACK:
                assert found[:4096] == NEW
