"""Fault rules on a mount: what each effect does to data in SRC and to programs."""

from __future__ import annotations

import errno
import json
import mmap
import os
import signal
import subprocess
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from tests.faults import pattern, rules_of
from tests.qmp import RawClient, socket_of
from tests.support import Mounted, MountFactory, fails, run_throttlefs, wait_for

KIB = 1024
MIB = 1 << 20


@pytest.fixture
def image(make_mount: MountFactory) -> Mounted:
    mounted = make_mount()
    (mounted.source / "disk").write_bytes(pattern(64 * KIB))
    return mounted


# -- at a shell ----------------------------------------------------------------------------


def test_the_third_write_fails_for_dd(image: Mounted) -> None:
    disk = image.path / "disk"
    added = run_throttlefs("fault", "add", disk, "op=write", "error=EIO", "nth=3")
    assert (added.stdout, added.returncode) == ("1\n", 0)
    command = ["dd", "if=/dev/zero", f"of={disk}", "bs=4k", "count=5", "conv=notrunc"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert f"dd: error writing '{disk}': Input/output error" in done.stderr
    assert (image.source / "disk").read_bytes() == bytes(8 * KIB) + pattern(64 * KIB)[8 * KIB :]
    listed = run_throttlefs("fault", "list", image.path).stdout.splitlines()
    assert listed[0].split() == ["rule", "what", "matched", "fired", "waiting", "now"]
    assert " ".join(listed[1].split()) == "1 path=disk op=write error=EIO nth=3 3 1 0 on"
    as_json = json.loads(run_throttlefs("fault", "list", "--json", image.path).stdout)
    assert as_json[0]["values"] == {"path": "disk", "op": ["write"], "error": "EIO", "nth": 3}
    assert run_throttlefs("fault", "add", image.path, "hang", "op=unlink").stdout == "2\n"
    assert run_throttlefs("fault", "remove", image.path, 1).returncode == 0
    assert run_throttlefs("fault", "clear", image.path).returncode == 0
    assert json.loads(run_throttlefs("fault", "list", "--json", image.path).stdout) == []


def test_a_mistake_gets_one_line_and_changes_nothing(image: Mounted) -> None:
    disk, top = image.path / "disk", image.path
    for words, message in (
        (["error=ENOSYS"], "error: ENOSYS cannot be used: the kernel remembers it"),
        (["error=EOI"], "error: 'EOI' is not the name of an errno; did you mean EIO?"),
        (["error=EIO", "delay=1s"], "delay and error are two effects"),
        (["nth=2"], "the rule does nothing: give it an effect"),
        (["error=EIO", "nth=0"], "nth: '0' is not a whole number from 1"),
        (["error=EIO", "probability=2"], "probability: '2' is not a number above 0"),
        (["error=EIO", "path=x"], f"path= needs a mount point, and {disk} is in one"),
    ):
        assert message in fails("fault", "add", disk, *words, status=2)
    assert "there is no such file in the mount" in fails("fault", "add", top / "nix", "hang")
    assert "does not lie on a throttlefs mount" in fails("fault", "add", image.source, "hang")
    assert "there is no fault rule 7; there are none" in fails("fault", "remove", top, 7)
    assert "fault clear is for a whole mount" in fails("fault", "clear", disk, status=2)
    assert json.loads(run_throttlefs("fault", "list", "--json", top).stdout) == []


def test_a_config_file_with_a_wrong_rule_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nerror = "EIO"\nnth = 0\n')
    for name in ("src", "mnt"):
        (tmp_path / name).mkdir()
    message = fails("mount", tmp_path / "src", tmp_path / "mnt", "--config", file)
    assert message == (
        f"throttlefs: {file}: [[fault]] number 1: nth: '0' is not a whole number from 1 to 10^9"
    )


def test_rules_of_the_config_file_hold_and_are_read_again(
    make_mount: MountFactory, tmp_path: Path
) -> None:
    file = tmp_path / "faults.toml"
    file.write_text('[[fault]]\nop = "create"\npath = "*.new"\nerror = "ENOSPC"\n')
    mounted = make_mount("", "--config", str(file))
    with pytest.raises(OSError) as caught:
        (mounted.path / "a.new").touch()
    assert caught.value.errno == errno.ENOSPC
    file.write_text('[[fault]]\nop = "mkdir"\nerror = "EROFS"\n')
    os.kill(mounted.pid, signal.SIGHUP)
    with rules_of(mounted.path) as rules:
        wait_for(lambda: [rule["values"]["op"] for rule in rules.all()] == [["mkdir"]])
    (mounted.path / "a.new").touch()
    with pytest.raises(OSError) as caught:
        (mounted.path / "d").mkdir()
    assert caught.value.errno == errno.EROFS


# -- wrong data ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "cache=none", "engine=threads", "server=pyfuse3"])
def test_what_each_effect_does_to_data(make_mount: MountFactory, options: str) -> None:
    mounted = make_mount(options)
    source, shown = mounted.source / "disk", mounted.path / "disk"
    good = pattern(64 * KIB)
    new = bytes(8 * KIB)

    def fresh() -> int:
        source.write_bytes(good)
        return os.open(shown, os.O_RDWR)

    with rules_of(mounted.path) as rules:
        for kind in ("flip", "zeros", "noise"):
            fd = fresh()
            with rules.rule(f"corrupt={kind} range=8K-12K"):
                bad = os.pread(fd, 64 * KIB, 0)
                assert bad[: 8 * KIB] == good[: 8 * KIB], kind
                assert bad[12 * KIB :] == good[12 * KIB :], kind
                assert bad[8 * KIB : 12 * KIB] != good[8 * KIB : 12 * KIB], kind
                assert os.pread(fd, 3000, 9000) == bad[9000:12000], kind
            assert source.read_bytes() == good
            assert os.pread(fd, 64 * KIB, 0) == good
            os.close(fd)

        fd = fresh()
        with rules.rule("lose"):
            assert os.pwrite(fd, new, 4 * KIB) == len(new)
            assert os.pwrite(fd, new, 64 * KIB) == len(new)
        assert source.read_bytes() == good + new  # it is longer, as with the write
        os.close(fd)

        fd = fresh()
        with rules.rule("lose error=EIO"), pytest.raises(OSError):
            os.pwrite(fd, new, 4 * KIB)
        assert source.read_bytes() == good
        os.close(fd)

        for error in ("", "error=EIO"):
            fd = fresh()
            with rules.rule(f"torn=512 {error}") as number:
                with pytest.raises(OSError) if error else nullcontext():
                    assert os.pwrite(fd, new, 4 * KIB) == len(new)
                assert rules.one(number)["fired"] == 1
            after = source.read_bytes()
            cut = next(n for n in range(4 * KIB, 13 * KIB) if after[n])
            assert cut % 512 == 0
            assert cut < 12 * KIB
            assert after == good[: 4 * KIB] + bytes(cut - 4 * KIB) + good[cut:]
            os.close(fd)

        for shift in (4, -4):
            fd = fresh()
            with rules.rule(f"misdirect={shift:+}K"):
                assert os.pwrite(fd, new, 8 * KIB) == len(new)
            place = (8 + shift) * KIB
            assert source.read_bytes() == good[:place] + new + good[place + len(new) :]
            os.close(fd)

        fd = fresh()
        with rules.rule("misdirect=-12K"):
            assert os.pwrite(fd, new, 8 * KIB) == len(new)
        assert source.read_bytes() == bytes(4 * KIB) + good[4 * KIB :]  # half of it fell off
        os.close(fd)


def test_appended_data_are_lost_and_torn_at_the_end(image: Mounted) -> None:
    source = image.source / "disk"
    good = source.read_bytes()
    with rules_of(image.path) as rules, open(image.path / "disk", "ab", buffering=0) as file:
        rules.add("lose times=1")
        rules.add("torn=1K nth=1")
        assert file.write(b"L" * 4096) == 4096
        assert source.read_bytes() == good + bytes(4096)
        assert file.write(b"T" * 4096) == 4096
        after = source.read_bytes()
        assert len(after) == len(good) + 8192
        kept = after[len(good) + 4096 :].rstrip(b"\0")
        assert set(kept) <= {ord("T")}
        assert len(kept) in (0, 1024, 2048, 3072)
        assert file.write(b"Z") == 1
        assert source.read_bytes() == after + b"Z"


def test_a_page_that_was_read_wrong_stays_wrong(image: Mounted) -> None:
    good = pattern(64 * KIB)
    with rules_of(image.path) as rules, open(image.path / "disk", "rb", buffering=0) as file:
        number = rules.add("corrupt=flip nth=2")
        fd = file.fileno()
        assert os.pread(fd, 4096, 0) == good[:4096]
        bad = os.pread(fd, 4096, 4096)
        assert bad != good[4096:8192]
        assert os.pread(fd, 8192, 0) == good[:4096] + bad
        assert rules.one(number)["fired"] == 1
        assert rules.one(number)["damaged"] == 4096


def test_a_flush_that_is_lost_is_answered(image: Mounted) -> None:
    with rules_of(image.path) as rules, open(image.path / "disk", "r+b") as file:
        number = rules.add("op=flush,discard lose")
        os.fsync(file.fileno())
        assert rules.one(number)["fired"] == 1
        done = ["fallocate", "--punch-hole", "--length", "4096", image.path / "disk"]
        assert subprocess.run(done, check=False).returncode == 0
        assert (image.source / "disk").read_bytes() == pattern(64 * KIB)


# -- caches --------------------------------------------------------------------------------


def test_the_page_cache_of_the_mount_hides_no_fault(make_mount: MountFactory) -> None:
    mounted = make_mount("auto_cache")
    good = pattern(64 * KIB)
    (mounted.source / "disk").write_bytes(good)
    shown = mounted.path / "disk"
    with rules_of(mounted.path) as rules, open(shown, "rb", buffering=0) as file:
        fd = file.fileno()
        for _ in range(2):
            assert os.pread(fd, 64 * KIB, 0) == good
        with rules.rule("error=EIO op=read"), pytest.raises(OSError):
            os.pread(fd, 4096, 0)
        with rules.rule("corrupt=zeros range=0-4K"):
            assert os.pread(fd, 8192, 0) == bytes(4096) + good[4096:8192]
        assert os.pread(fd, 8192, 0) == good[:8192]
        rules.add("error=EIO op=read at=300ms lasting=1h")
        assert os.pread(fd, 8192, 0) == good[:8192]

        def fails_now() -> bool:
            try:
                os.pread(fd, 8192, 0)
            except OSError:
                return True
            return False

        wait_for(fails_now)


def test_a_mapped_page_hides_no_fault(image: Mounted) -> None:
    with open(image.path / "disk", "r+b") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0)
        except OSError:
            pytest.skip("this kernel has no shared mmap here")
        good = pattern(64 * KIB)
        assert mapped[:8192] == good[:8192]
        with rules_of(image.path) as rules:
            with rules.rule("corrupt=zeros range=0-4K"):
                assert mapped[:8192] == bytes(4096) + good[4096:8192]
            assert mapped[:8192] == good[:8192]


# -- what is told --------------------------------------------------------------------------


def test_each_fault_is_an_event(image: Mounted) -> None:
    with RawClient(socket_of(image.entry)) as client, rules_of(image.path) as rules:
        rules.add("error=ENOSPC op=write every=2", "disk")
        with open(image.path / "disk", "r+b", buffering=0) as file:
            file.write(b"one")
            with pytest.raises(OSError):
                file.write(b"two")
        event = client.receive()
        assert event["event"] == "X_THROTTLEFS_FAULT"
        assert event["data"] == {
            "rule": 1,
            "count": 2,
            "op": "write",
            "file": "disk",
            "offset": 3,
            "length": 3,
            "error": "ENOSPC",
        }
        assert client.run("x-throttlefs-fault-clear") == {"return": {"removed": 1}}


RULES = """
[[fault]]
op = ["write", "flush"]
error = "EIO"
probability = 0.2
seed = 5

[[fault]]
path = "**/*.b"
torn = 512
every = 3

[[fault]]
op = ["create", "rename", "unlink"]
error = "EDQUOT"
probability = 0.1
"""


def play(directory: Path) -> None:
    """The same requests each time, whatever fails."""
    for number in range(30):
        name = directory / f"{number}.{'ab'[number % 2]}"
        try:
            with open(name, "xb", buffering=0) as file:
                for block in range(3):
                    os.pwrite(file.fileno(), b"x" * 5000, block * 5000)
                os.fsync(file.fileno())
            os.rename(name, f"{name}.done")
            os.unlink(f"{name}.done")
        except OSError:
            pass


def test_the_same_requests_give_the_same_log(make_mount: MountFactory, tmp_path: Path) -> None:
    config = tmp_path / "faults.toml"
    config.write_text(RULES)
    logs = []
    for name in ("one", "two"):
        log = tmp_path / f"{name}.json"
        mounted = make_mount(
            f"fault_log={log}",
            "--config",
            str(config),
            source=tmp_path / f"{name}.src",
            target=tmp_path / f"{name}.mnt",
        )
        (mounted.path / "d").mkdir()
        play(mounted.path / "d")
        mounted.umount()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert all("time" in line and line["pid"] == os.getpid() for line in lines)
        logs.append(run_throttlefs("fault", "log", "--plain", log).stdout)
    assert logs[0] == logs[1]
    records = [json.loads(line) for line in logs[0].splitlines()]
    assert {record["rule"] for record in records} == {1, 2, 3}
    torn = [record for record in records if record["rule"] == 2 and record["kept"]]
    assert all((record["offset"] + record["kept"]) % 512 == 0 for record in torn)
    assert len(records) > 20


def test_a_fault_log_that_cannot_be(tmp_path: Path) -> None:
    for name in ("src", "mnt"):
        (tmp_path / name).mkdir()
    mount = ("mount", tmp_path / "src", tmp_path / "mnt", "-o")
    line = fails(*mount, f"fault_log={tmp_path}/nix/log")
    assert f"cannot write the fault log {tmp_path}/nix/log: No such file" in line
    assert "choose a place outside" in fails(*mount, f"fault_log={tmp_path}/mnt/log")
    (tmp_path / "text").write_text("no log\n")
    assert "line 1 is not of a fault log" in fails("fault", "log", tmp_path / "text")


def test_rules_come_and_go_while_programs_run(image: Mounted) -> None:
    """Every request ends, whatever rule it met."""
    ended: list[str] = []

    def work(number: int) -> None:
        fd = os.open(image.path / "disk", os.O_RDWR)
        for turn in range(60):
            with suppress(OSError):
                os.pread(fd, 4096, turn * 512)
                os.pwrite(fd, b"x" * 512, turn * 512)
        os.close(fd)
        ended.append(f"worker {number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with rules_of(image.path) as rules:
        while any(thread.is_alive() for thread in threads):
            for line in ("hang", "delay=5ms", "error=EIO probability=0.5", "torn=512", "lose"):
                with rules.rule(line):
                    time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert len(ended) == 4
    assert "internal error" not in image.log
