"""Writing for users: which writes are done as whom, and what is registered for that."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.unit.backing.conftest import running
from throttlefs.backing import BackingFile, Engine, inline, writer
from throttlefs.backing.buffers import address_of
from throttlefs.backing.identities import Identities
from throttlefs.host import credentials, filesystems
from throttlefs.host.credentials import Credentials
from throttlefs.settings.cachemode import CacheMode

ANNA, BERT = Credentials(1001, 1001), Credentials(1002, 1002)

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


# -- numbers of users ------------------------------------------------------------------------


def test_numbers_are_counted() -> None:
    registered: list[Credentials] = []
    gone: list[int] = []

    def register(user: Credentials) -> int:
        registered.append(user)
        return len(registered)

    identities = Identities(register, gone.append)
    assert [identities.add(user) for user in (ANNA, BERT, ANNA)] == [1, 2, 1]
    assert identities.credentials(1) == ANNA
    assert identities.credentials(0) is None
    identities.drop(1)
    assert identities.add(BERT) == 2
    assert not gone
    identities.drop(1)
    assert identities.add(BERT) == 2
    assert gone == [1]
    assert identities.credentials(1) is None
    assert identities.add(ANNA) == 3
    assert registered == [ANNA, BERT, ANNA]


def test_what_could_not_be_registered_leaves_nothing() -> None:
    answers: list[int | OSError] = [OSError(errno.ENOMEM, "no memory"), 7]

    def register(user: Credentials) -> int:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    identities = Identities(register, lambda number: None)
    with pytest.raises(OSError, match="no memory"):
        identities.add(ANNA)
    assert identities.add(ANNA) == 7


# -- engines ---------------------------------------------------------------------------------


@pytest.fixture
def program(directory: Path) -> Path:
    """A setuid program: root may write to it and leave it so, nobody else may."""
    path = directory / "program"
    path.write_bytes(bytes(10_000))
    return path


def make_setuid(path: Path) -> None:
    path.chmod(0o4755)


def is_setuid(path: Path) -> bool:
    return bool(path.stat().st_mode & stat.S_ISUID)


@root_only
@pytest.mark.parametrize("offload", [False, True])
def test_the_kernel_writes_as_the_user(kind: str, program: Path, offload: bool) -> None:
    """Without CAP_FSETID a write takes setuid away, which shows with what rights it was done."""

    async def main() -> None:
        async with running(kind) as engine:
            fd, data = os.open(program, os.O_RDWR), b"x" * 5000
            identity = engine.add_identity(ANNA)
            for number, kept in ((0, True), (identity, False), (0, True)):
                make_setuid(program)
                await engine.write(fd, 0, data, offload=offload, identity=number)
                assert is_setuid(program) == kept
                make_setuid(program)
                await engine.write_from(fd, 0, address_of(data), len(data), identity=number)
                assert is_setuid(program) == kept
            engine.drop_identity(identity)
            os.close(fd)

    trio.run(main)


@root_only
def test_many_users_at_once_and_a_full_ring(kind: str, tmp_path: Path) -> None:
    """Nobody's rights are taken for another's, though requests wait for room in the ring."""
    users = [Credentials(2000 + number, 2000) for number in range(20)]

    async def main() -> None:
        async with running(kind, entries=4) as engine:

            async def client(number: int) -> None:
                path = tmp_path / str(number)
                path.write_bytes(b"program")
                fd = os.open(path, os.O_RDWR)
                identity = engine.add_identity(users[number]) if number % 2 else 0
                for _ in range(5):
                    make_setuid(path)
                    await engine.write(fd, 0, b"data", identity=identity)
                    assert is_setuid(path) != bool(identity)
                if identity:
                    engine.drop_identity(identity)
                os.close(fd)

            async with trio.open_nursery() as nursery:
                for number in range(len(users)):
                    nursery.start_soon(client, number)

    trio.run(main)


# -- open files ------------------------------------------------------------------------------


def with_file(
    path: Path,
    kind: str,
    test: Callable[[BackingFile, Engine], object],
    cache: CacheMode = CacheMode.WRITEBACK,
    user: Credentials | None = ANNA,
) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            backing = BackingFile(os.open(path, os.O_RDWR | cache.open_flags), engine, cache, user)
            result = test(backing, engine)
            if hasattr(result, "__await__"):
                await result
            backing.close()

    trio.run(main)


@root_only
@pytest.mark.parametrize("cache", list(CacheMode), ids=lambda cache: cache.value)
@pytest.mark.parametrize("user", [ANNA, Credentials(0, 0), None], ids=["anna", "root", "daemon"])
def test_every_way_of_writing(
    kind: str, program: Path, cache: CacheMode, user: Credentials | None
) -> None:
    async def test(backing: BackingFile, engine: Engine) -> None:
        for offset, size in ((0, 4096), (0, 65536 * 2), (5, 777)):
            for flags in (0, os.RWF_DSYNC, os.RWF_APPEND):
                make_setuid(program)
                assert await backing.write(offset, bytes(size), flags) == size
                assert is_setuid(program) == (user != ANNA)

    with_file(program, kind, test, cache, user)


@root_only
def test_without_flags_it_is_the_users_as_well(
    kind: str, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(backing: BackingFile, engine: Engine) -> None:
        async def refuse(*_: object, **__: object) -> int:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(engine, "write", refuse)
        make_setuid(program)
        assert await backing.write(0, b"data", os.RWF_APPEND) == 4
        assert not is_setuid(program)
        assert program.read_bytes()[-4:] == b"data"

    with_file(program, kind, test)


@root_only
@pytest.mark.parametrize("is_ample", [True, False])
@pytest.mark.parametrize("name", ["ext4", "xfs", "tmpfs"])
def test_the_loop_writes_where_it_does_not_matter(
    program: Path, name: str, is_ample: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystems, "filesystem_type", lambda fd: name)
    monkeypatch.setattr(inline.Room, "is_ample", lambda self, fd, now: is_ample)

    def written_at_once(backing: BackingFile, engine: Engine) -> None:
        at_once.append(backing.write_now(0, bytes(4096)) is not None)

    for user, expected in ((ANNA, is_ample or name == "xfs"), (None, True), ((0, 0), True)):
        at_once: list[bool] = []
        with_file(program, "threads", written_at_once, user=user and Credentials(*user))
        assert at_once == [expected]


@root_only
def test_users_are_forgotten_with_their_last_file(kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            for number in range(200):
                path = tmp_path / "image"
                user = Credentials(3000 + number, 3000)
                backing = BackingFile(
                    os.open(path, os.O_RDWR | os.O_CREAT), engine, credentials=user
                )
                other = BackingFile(os.open(path, os.O_RDWR), engine, credentials=user)
                await trio.to_thread.run_sync(backing.close)
                await other.write(0, b"data")
                other.close()
                assert len(engine._identities._uses) == 1  # type: ignore[attr-defined]

    trio.run(main)


@root_only
def test_a_file_that_is_only_read_needs_nobody(kind: str, program: Path) -> None:
    async def main() -> None:
        async with running(kind) as engine:
            backing = BackingFile(os.open(program, os.O_RDONLY), engine, credentials=ANNA)
            assert not engine._identities._uses  # type: ignore[attr-defined]
            assert bytes(await backing.read(0, 4)) == bytes(4)
            backing.close()

    trio.run(main)


@root_only
def test_a_daemon_that_may_not_become_others_says_so_once(
    kind: str, program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(credentials, "_become", refuse)
    monkeypatch.setattr(writer, "_warned", [])
    caplog.set_level(logging.WARNING)

    async def test(backing: BackingFile, engine: Engine) -> None:
        assert await backing.write(0, b"data") == 4

    for _ in range(2):
        with_file(program, kind, test)
    assert sum("CAP_SETUID" in record.getMessage() for record in caplog.records) == 1


@root_only
def test_a_user_that_cannot_be_registered_is_an_error(
    program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    async def main() -> None:
        async with running("threads") as engine:
            monkeypatch.setattr(engine, "add_identity", fail)
            fd = os.open(program, os.O_RDWR)
            before = len(os.listdir("/proc/self/fd"))
            for cache in (CacheMode.WRITEBACK, CacheMode.NONE):
                with pytest.raises(OSError) as caught:
                    BackingFile(fd, engine, cache, ANNA)
                assert caught.value.errno == errno.ENOMEM
            assert len(os.listdir("/proc/self/fd")) == before
            os.close(fd)

    trio.run(main)
