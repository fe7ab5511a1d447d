"""Requests that a fault rule delays or makes hang: how each wait ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.faults import Rules, pattern, rules_of
from tests.support import Mounted, MountFactory, wait_for

KIB = 1024
SOON_S = 15
"""What takes less than a second on a quiet machine has ended within so many on a busy one."""


@pytest.fixture
def image(make_mount: MountFactory) -> Mounted:
    mounted = make_mount()
    (mounted.source / "disk").write_bytes(pattern(64 * KIB))
    return mounted


def reader(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_until_it_hangs(rules: Rules, number: int) -> None:
    wait_for(lambda: rules.one(number)["waiting"] > 0)


def test_a_delay_is_as_long_as_it_says(image: Mounted) -> None:
    disk = image.path / "disk"
    with rules_of(image.path) as rules:
        rules.add("delay=300ms op=read times=1")
        rules.add("delay=200ms op=unlink,flush")
        for call, least in (
            (disk.read_bytes, 0.3),
            (lambda: os.close(os.open(disk, os.O_RDONLY)), 0),
            (lambda: subprocess.run(["sync", "--data", disk], check=True), 0.2),
            (disk.unlink, 0.2),
        ):
            began = time.monotonic()
            call()
            assert least <= time.monotonic() - began < least + SOON_S
    assert not (image.source / "disk").exists()


def test_a_hang_ends_when_its_rule_goes(image: Mounted) -> None:
    disk = image.path / "disk"
    with rules_of(image.path) as rules:
        number = rules.add("hang op=read")
        cat = reader(disk)
        wait_until_it_hangs(rules, number)
        assert cat.poll() is None
        began = time.monotonic()
        rules.clear()
        _, said = cat.communicate(timeout=SOON_S)
        assert (cat.returncode, said) == (0, b"")
        assert time.monotonic() - began < SOON_S


HANGING = {
    "read": "cat $0",
    "write": "dd if=/dev/zero of=$0 count=1 conv=notrunc",
    "flush": "sync --data $0",
    "mkdir": "mkdir $0.d",
    "unlink": "rm -f $0",
    "discard": "fallocate --punch-hole --length 4096 $0",
}


@pytest.mark.parametrize("op", HANGING)
def test_a_hang_ends_when_its_program_is_killed(image: Mounted, op: str) -> None:
    with rules_of(image.path) as rules:
        number = rules.add(f"hang op={op}")
        command = ["sh", "-c", f"exec {HANGING[op]}", image.path / "disk"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until_it_hangs(rules, number)
        process.kill()
        assert process.wait(timeout=SOON_S) == -signal.SIGKILL
        wait_for(lambda: rules.one(number)["waiting"] == 0, SOON_S)
        assert rules.one(number)["fired"] == 1
    assert (image.source / "disk").read_bytes() == pattern(64 * KIB)  # what hung was not done
    assert not (image.source / "disk.d").exists()
    assert "internal error" not in image.log


def test_a_hang_ends_with_its_time(image: Mounted) -> None:
    with rules_of(image.path) as rules:
        number = rules.add("hang op=getattr,lookup,open,read lasting=500ms")
        begin = time.monotonic()
        cat = reader(image.path / "disk")
        wait_until_it_hangs(rules, number)
        assert cat.wait(timeout=SOON_S) == 0
        assert time.monotonic() - begin >= 0.2
        assert rules.one(number)["active"] is False


@pytest.mark.parametrize("server", ["own", "pyfuse3"])
def test_a_hang_ends_with_the_mount(make_mount: MountFactory, server: str) -> None:
    mounted = make_mount(f"server={server}")
    (mounted.source / "disk").write_bytes(b"data")
    with rules_of(mounted.path) as rules:
        reads = rules.add("hang op=read")
        makes = rules.add("hang op=mkdir")
        cat = reader(mounted.path / "disk")
        wait_until_it_hangs(rules, reads)  # before the directory is locked
        mkdir = subprocess.Popen(["mkdir", mounted.path / "d"], stderr=subprocess.PIPE)
        wait_until_it_hangs(rules, makes)
    began = time.monotonic()
    mounted.umount()
    assert time.monotonic() - began < SOON_S
    for process in (cat, mkdir):
        _, said = process.communicate(timeout=SOON_S)
        assert b"Input/output error" in said


def test_a_delayed_request_proceeds_at_the_end(make_mount: MountFactory) -> None:
    mounted = make_mount()
    with rules_of(mounted.path) as rules:
        number = rules.add("delay=1h op=write")
        path = mounted.path / "new"
        writer = subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'w').write('data')"])
        wait_until_it_hangs(rules, number)
    os.kill(mounted.pid, signal.SIGTERM)
    assert writer.wait(timeout=SOON_S) == 0
    mounted.wait_until_ended()
    assert (mounted.source / "new").read_bytes() == b"data"


def test_others_are_served_while_a_file_hangs(image: Mounted) -> None:
    (image.source / "other").write_bytes(b"other")
    with rules_of(image.path) as rules:
        number = rules.add("hang op=read,getattr", "disk")
        cats = [reader(image.path / "disk") for _ in range(5)]
        wait_until_it_hangs(rules, number)
        assert (image.path / "other").read_bytes() == b"other"
        rules.clear()
        assert [cat.wait(timeout=SOON_S) for cat in cats] == [0] * 5


def test_a_request_that_fails_still_pays(make_mount: MountFactory) -> None:
    """The limiter and the device take their time; the fault comes after that."""
    mounted = make_mount("iops=10,latency=50ms")
    (mounted.source / "disk").write_bytes(pattern(64 * KIB))
    with rules_of(mounted.path) as rules, open(mounted.path / "disk", "r+b", buffering=0) as file:
        fd = file.fileno()
        for line in (
            "op=read error=EIO",
            "op=write error=EIO",
            "op=write lose",
            "op=read corrupt=flip",
        ):
            with rules.rule(line) as number:
                began = time.monotonic()
                for _ in range(3):
                    with suppress(OSError):
                        if "read" in line:
                            os.pread(fd, 512, 0)
                        else:
                            os.pwrite(fd, b"x" * 512, 0)
                assert time.monotonic() - began > 0.15, line
                assert rules.one(number)["fired"] == 3
        os.pwrite(fd, b"x", 0)
        with rules.rule("op=flush error=EIO"), pytest.raises(OSError):
            os.fsync(fd)
