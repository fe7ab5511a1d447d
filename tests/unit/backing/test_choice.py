"""Which engine is chosen, where io_uring works and where it is forbidden."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys

import pytest

from throttlefs.backing import EngineUnavailableError, create_engine, uring, uring_abi

log = logging.getLogger("test")

# Runs in a process of its own, as seccomp(2) filters are for life. The program (linux/bpf_common.h,
# linux/seccomp.h): load the system call's number; if it is io_uring_setup, refuse; else allow.
FORBIDDEN = """
import ctypes, errno, logging, os, struct, sys, tempfile
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ERRNO, ALLOW = 0x00050000, 0x7FFF0000
instructions = [
    (LOAD, 0, 0, 0),
    (JUMP_IF_EQUAL, 0, 1, 425),
    (RETURN, 0, 0, ERRNO | getattr(errno, sys.argv[1])),
    (RETURN, 0, 0, ALLOW),
]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in instructions))
program = struct.pack("HP", len(instructions), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
if libc.prctl(PR_SET_SECCOMP, FILTER, program, 0, 0) != 0:
    sys.exit(77)

import trio
from throttlefs.backing import BackingFile, EngineUnavailableError, create_engine
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)
log = logging.getLogger()
try:
    create_engine("uring", log)
except EngineUnavailableError as error:
    print("REFUSED", error)

async def main():
    engine = create_engine("auto", log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        with tempfile.TemporaryFile(buffering=0) as file:
            image = BackingFile(os.dup(file.fileno()), engine)
            assert await image.write(5, b"data") == 4
            assert bytes(await image.read(0, 100)) == bytes(5) + b"data"
            await image.fsync(False)
            image.close()
        nursery.cancel_scope.cancel()
    engine.close()
    print("WORKS through", engine.name)

trio.run(main)
"""


@pytest.mark.parametrize(
    ("number", "reason"), [("EPERM", "io_uring is forbidden here"), ("ENOSYS", "has no io_uring")]
)
def test_io_uring_forbidden_by_seccomp(number: str, reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN, number], capture_output=True, text=True, check=False
    )
    if done.returncode == 77:
        pytest.skip("seccomp filters are not allowed here")
    assert done.returncode == 0, done.stderr
    refused, warning, works = done.stdout.splitlines()
    assert refused.startswith("REFUSED io_uring cannot be used: ")
    assert reason in refused
    assert warning.startswith("WARNING backing I/O through threads")
    assert reason in warning
    assert works == "WORKS through threads"


def test_auto_takes_io_uring_where_it_works(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = create_engine("auto", log)
    try:
        if engine.name != "uring":
            pytest.skip(caplog.text)
        assert "io_uring (256 entries" in caplog.text
    finally:
        engine.close()


def test_threads_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = create_engine("threads", log)
    assert engine.name == "threads"
    assert "threads, as asked for" in caplog.text
    engine.close()


def test_auto_falls_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def forbidden(*_: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(uring_abi, "setup", forbidden)
    engine = create_engine("auto", log)
    assert engine.name == "threads"
    assert "io_uring is forbidden here" in caplog.text
    engine.close()
    with pytest.raises(EngineUnavailableError, match="forbidden"):
        create_engine("uring", log)


@pytest.mark.parametrize("what", ["odd numbers", "unknown addresses"])
def test_places_where_io_uring_is_not_attempted(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    if what == "odd numbers":
        monkeypatch.setattr(uring_abi, "ODD_NUMBERS", True)
    else:
        monkeypatch.setattr(uring, "addresses_are_known", lambda: False)
    with pytest.raises(EngineUnavailableError):
        create_engine("uring", log)


def test_an_unknown_engine() -> None:
    with pytest.raises(ValueError, match="kqueue"):
        create_engine("kqueue", log)  # type: ignore[arg-type]
