"""Files that can lose power, on a real filesystem: what is saved is enough for each state that a
disk could have, and nothing that was flushed is lost."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.backing.conftest import open_file
from tests.unit.fuse.volatile_rig import SECTOR, Rig, rig
from throttlefs.backing import log_writer, undo_log
from throttlefs.fuse import volatile_files
from throttlefs.fuse.inode import Inode
from throttlefs.host import syscalls
from throttlefs.settings.cachemode import CacheMode

MOST = 48 * SECTOR
PUNCH = syscalls.FALLOC_FL_PUNCH_HOLE | syscalls.FALLOC_FL_KEEP_SIZE

_places = st.builds(
    lambda edge, by: max(0, min(MOST - 1, edge + by)),
    st.sampled_from([0, 512, 1024, 4096, 8192, 20_000]),
    st.sampled_from([-1, 0, 0, 0, 7]),
)
_lengths = st.sampled_from([1, 511, 512, 512, 1024, 4096, 5000])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), _places, _lengths, st.sampled_from([0, 0, 0, 2, 16, 18])),
        st.tuples(st.just("truncate"), st.one_of(st.just(0), _places)),
        st.tuples(st.just("allocate"), st.sampled_from([0, 1, PUNCH, 16, 17]), _places, _lengths),
        st.tuples(st.just("fsync")),
        st.tuples(st.just("cut"), st.integers(0, 1 << 30)),
    ),
    max_size=25,
)


async def run_steps(made: Rig, steps: list[tuple[Any, ...]]) -> None:
    for number, (name, *args) in enumerate(steps):
        if name == "write":
            offset, length, flags = args
            data = bytes([number % 255 + 1]) * min(length, MOST - offset)
            # 2 and 16 are RWF_DSYNC and RWF_APPEND.
            if not (flags & os.RWF_APPEND and len(made.data) + len(data) > MOST):
                await made.write(offset, data, flags)
        elif name == "cut":
            made.check_cut(args[0])
        else:
            await getattr(made, name)(*args)
    for seed in range(4):
        made.check_cut(seed)
    await made.fsync()
    assert made.cut(1)[0] == made.data
    assert not made.contents.is_dirty(made.key)
    assert made.contents.extents.in_use == 0
    assert made.inode.lookups == 0


@pytest.mark.parametrize("cache", [CacheMode.WRITEBACK, CacheMode.NONE])
@pytest.mark.parametrize("kind", ["threads", "uring"])
@given(begin=st.sampled_from([0, 700, 6000]), steps=_steps)
@settings(max_examples=60)
def test_a_cut_leaves_what_a_disk_could_have(
    cache: CacheMode, kind: str, begin: int, steps: list[tuple[Any, ...]]
) -> None:
    async def main(directory: Path) -> None:
        async with rig(directory, b"x" * begin, kind=kind, cache=cache) as made:
            await run_steps(made, steps)

    directory = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        trio.run(main, directory)
    finally:
        shutil.rmtree(directory)


def run(directory: Path, body: Callable[[Rig], Awaitable[None]], **how: Any) -> None:
    async def main() -> None:
        async with rig(directory, **how) as made:
            await body(made)

    trio.run(main)


def test_writes_at_once_and_later_ones_of_many_sizes(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        for length in (1 << 20, 200_000, 100_000, 70_000, 5000):
            await made.write(333, b"z" * length)
        made.check_cut(1)
        found = {made.cut(seed)[0][:4] for seed in range(60)}
        assert b"yyyy" in found
        assert {it[:2] for it in found} == {b"yy"}  # the first sector keeps its beginning
        await made.fsync()
        assert {made.cut(seed)[0] for seed in range(5)} == {made.data}

    run(tmp_path, body, begin=b"y" * ((1 << 20) + 999))


def test_the_file_is_held_while_it_can_lose_anything(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        await made.write(0, b"a" * 100)
        await made.write(9000, b"b" * 100)
        assert made.inode.lookups == 1
        made.files.closed(made.file, may_write=True)
        assert made.contents.dirty_keys() == [made.key]
        other = made.open()
        await other.fsync(False)
        assert (made.inode.lookups, made.forgotten) == (0, [(7, 1)])
        made.files.closed(other, may_write=True)
        other.close()
        assert made.contents.find(made.key) is None

    run(tmp_path, body)


def test_with_many_closed_files_the_oldest_become_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volatile_files, "CLOSED_MOST", 5)
    monkeypatch.setattr(volatile_files, "_AT_ONCE", 2)

    async def body(made: Rig) -> None:
        opened = []
        for number in range(8):
            path = tmp_path / str(number)
            path.write_bytes(b"0" * 512)
            st = path.stat()
            backing = open_file(path, made.engine, made.cache)
            inode = Inode(10 + number, (st.st_dev, st.st_ino), None, b"")
            file = made.files.opened(inode, backing, 512)
            assert file.write_now(0, b"1" * 512, 0) == 512
            opened.append((inode.key, file))
        for _, file in opened:
            made.files.closed(file, may_write=True)
            file.close()
        keys = [key for key, _ in opened]
        assert made.contents.dirty_keys() == keys[4:]
        assert made.numbers.final < made.numbers.latest
        await made.files.let_go()
        assert [number for number, _ in made.forgotten] == [10, 11, 12, 13]

    run(tmp_path, body)


def test_a_write_fails_before_it_has_changed_anything_if_the_log_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log is written later than it is filled, so some more writes succeed."""
    size = 20_000_000

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def body(made: Rig) -> None:
        monkeypatch.setattr(log_writer, "write_all", full)
        done = 0

        async def fill() -> None:
            nonlocal done
            while done < size:
                written = made.file.write_now(done, b"z" * 50_000, 0)
                done += written or await made.file.write(done, b"z" * 50_000, 0)

        with pytest.raises(OSError) as caught:
            await fill()
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(OSError) as caught:
            await made.truncate(5)
        assert caught.value.errno == errno.ENOSPC
        assert made.data == b"z" * done + b"y" * (size - done)
        await made.file.fsync(True)  # after that nobody needs what could not be written
        while made.log.has_failed:
            await trio.sleep(0.05)
        await made.file.write(done, b"z" * 10, 0)
        monkeypatch.undo()
        await made.file.fsync(True)
        assert made.contents.extents.in_use == 0

    run(tmp_path, body, begin=b"y" * size)
    assert [it.message for it in caplog.records if "undo log" in it.message] == [
        f"the undo log in {tmp_path} cannot be written: No space left on device; writes fail until"
        " there is room, or until files are flushed (throttlefs sync); volatile_dir= names another"
        " place"
    ]


def test_more_than_can_be_copied_is_not_truncated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(undo_log, "COPIED_MOST", 100_000)
    monkeypatch.setattr(undo_log.UndoLog, "_clone", lambda self, fd, pieces: list(pieces))

    async def body(made: Rig) -> None:
        with pytest.raises(OSError) as caught:
            await made.truncate(1)
        assert caught.value.errno == errno.ENOSPC
        assert len(made.data) == 300_000
        await made.truncate(250_000)
        assert len(made.data) == 250_000

    run(tmp_path, body, begin=b"y" * 300_000)
    (line,) = [it.message for it in caplog.records]
    assert line.startswith("file: 0 MiB would have to be copied")


def test_holes_cost_nothing_in_the_log(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        os.truncate(made.path, 1 << 30)
        await made.write(100 << 20, b"a" * 70_000)
        await made.write(1 << 20, b"a" * 512)
        await made.truncate(0)
        assert made.log.size() < 200_000

    run(tmp_path, body)


@pytest.mark.parametrize("stays_dirty", [True, False])
def test_a_retry_after_a_failed_flush(tmp_path: Path, stays_dirty: bool) -> None:
    async def body(made: Rig) -> None:
        made.files._log.stays_dirty = stays_dirty
        await made.write(0, b"1" * SECTOR)
        made.file.flush_failed()
        await made.file.fsync(False)
        left = {made.cut(seed)[0] for seed in range(30)}
        assert left == ({b"1" * SECTOR} if stays_dirty else {b"1" * SECTOR, b"0" * SECTOR})

    run(tmp_path, body, begin=b"0" * SECTOR)


def test_a_file_that_was_emptied_reaches_the_disk_when_it_is_closed(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        await made.truncate(0)
        await made.write(0, b"new" * 100)
        made.files.closed(made.file, may_write=True)
        made.files.opened(made.inode, made.file._file, 300)
        after = made.numbers.latest
        await made.truncate(301)  # what comes later survives only with it
        for seed in range(60):
            data, limit = made.cut(seed)
            if limit >= after:
                assert data[:300] == b"new" * 100

    run(tmp_path, body, begin=b"old" * 100)


def test_writes_side_by_side_and_a_flush_between_them(tmp_path: Path) -> None:
    """Each sector is left as one write made it, and what was answered before the flush is there."""

    async def body(made: Rig) -> None:
        answered: dict[int, set[int]] = {}
        order: list[tuple[int, int]] = []

        async def write(token: int, sector: int, count: int) -> None:
            order.append((token, sector))
            data = bytes([token]) * (SECTOR * count)
            if token % 2 or made.file.write_now(sector * SECTOR, data, 0) is None:
                await made.file.write(sector * SECTOR, data, 0)
            for at in range(sector, sector + count):
                answered.setdefault(at, set()).add(token)

        async with trio.open_nursery() as nursery:
            for token in range(1, 40):
                nursery.start_soon(write, token, token * 7 % 20, 1 + token % 3)
        flushed = {at: made.data[at * SECTOR] for at in range(20)}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.file.fsync, True)
            await trio.testing.wait_all_tasks_blocked(0.0)
            for token in range(40, 60):
                nursery.start_soon(write, token, token * 7 % 20, 1)
        for seed in range(20):
            data = made.cut(seed)[0]
            for at in range(min(20, len(data) // SECTOR)):
                sector = data[at * SECTOR : (at + 1) * SECTOR]
                (token,) = set(sector)
                assert token == flushed[at] or (token >= 40 and token in answered[at])

    run(tmp_path, body, begin=b"\xff" * 24 * SECTOR)


def test_overlapping_changes_wait_for_each_other(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        order = made.file.inode.order
        first = await order.begin(0, 4)
        assert not order.is_free(3, 5)
        assert order.is_free(4, 5)
        assert made.file.write_now(SECTOR, b"a", 0) is None
        done: list[str] = []

        async def change(name: str, begin: int, end: int) -> None:
            mine = await order.begin(begin, end)
            done.append(name)
            order.end(mine)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(change, "overlaps", 2, 8)
            await trio.testing.wait_all_tasks_blocked(0.0)
            nursery.start_soon(change, "behind it", 7, 9)
            nursery.start_soon(change, "free", 20, 21)
            await trio.testing.wait_all_tasks_blocked(0.0)
            assert done == ["free"]
            with trio.CancelScope() as scope:
                scope.cancel()
                await order.begin(0, 30)
            order.end(first)
        assert done == ["free", "overlaps", "behind it"]
        assert not order.under_way

    run(tmp_path, body)


def test_nothing_is_in_the_backing_when_it_is_idle(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        async with trio.open_nursery() as nursery:
            for at in range(5):
                nursery.start_soon(made.file.write, at * 10_000, b"a" * 9000, 0)
            nursery.start_soon(made.file.fsync, False)
            await trio.testing.wait_all_tasks_blocked(0.0)
            await made.files.idle()
            assert made.files._log.busy.count == 0
            assert len(made.data) == 49_000

    run(tmp_path, body)


def test_the_blocks_of_the_log_are_freed(tmp_path: Path) -> None:
    async def body(made: Rig) -> None:
        data = b"b" * (1 << 20)
        for _ in range(2):
            for at in range(150):
                await made.file.write(at << 20, data, 0)
            assert made.log.hand_over()
            made.log.drain()
            assert made.log.size() >= 150 << 20
            await made.file.fsync(True)
            assert made.log.size() <= 70 << 20

    run(tmp_path, body, begin=b"a" * (150 << 20), kind="uring")


def put(log: undo_log.UndoLog, data: bytes, place: int) -> None:
    room = log.room(len(data))
    assert room is not None
    room[:] = data
    log.put(len(data), place)


def test_the_log_can_be_given_a_name(tmp_path: Path) -> None:
    log = undo_log.UndoLog(str(tmp_path))
    put(log, b"abc", 5)
    log.give_name(os.fsencode(tmp_path / "named"))
    log.make_next()
    log.begin_anew()
    put(log, b"x", 0)
    assert log.hand_over()
    log.drain()
    assert (tmp_path / "named").read_bytes() == b"\0\0\0\0\0abc"
    assert os.fstat(log.fd).st_size == 1
    log.close()
