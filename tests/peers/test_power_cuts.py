"""Real programs on a disk that loses power: the safe ones lose nothing, the others are found out.

In the long form (--soak) each safe program meets 200 cuts. Each cut has a seed, which stands in the
message of a failure.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import throttlefs
from tests.peers.cut_postgres import Damaged
from tests.peers.cut_programs import value_of

PROGRAM = [sys.executable, "-m", "tests.peers.cut_programs"]

SAFE = ("sqlite-delete", "sqlite-wal", "lmdb", "leveldb")

CUTS_OF_A_DATABASE = 5
"""After so many a new one is made, so that its making meets cuts as well."""


@pytest.fixture
def cuts(request: pytest.FixtureRequest) -> int:
    """How many cuts a safe program meets."""
    return 200 if request.config.getoption("--soak") else 4


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "src"
    source.mkdir()
    return source


def needs(name: str, disk: throttlefs.Disk) -> None:
    """Skip the test if there cannot be what the program *name* needs."""
    if name.startswith("leveldb"):
        pytest.importorskip("plyvel", reason="plyvel has no wheel for this Python")
    if not disk.show()["features"]["shared-mmap"]:
        pytest.skip("this kernel has no shared mmap on a mount (docs/mounting.md)")


class Committer:
    """The program *name*, which commits in *directory* until it fails or is killed."""

    last = 0
    """The last number that it has said to be committed until now."""

    def __init__(self, name: str, directory: Path) -> None:
        self._process = subprocess.Popen(
            [*PROGRAM, "commit", name, directory],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said = threading.Condition()
        self._count = 0
        self._has_ended = False
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._said:
                self.last = int(line)
                self._count += 1
                self._said.notify()
        with self._said:
            self._has_ended = True
            self._said.notify()

    def wait_for(self, commits: int) -> None:
        """Let it commit so often from now on."""
        with self._said:
            enough = self._count + commits
            self._said.wait_for(lambda: self._count >= enough or self._has_ended)
            if self._count >= enough:
                return
        self.end()
        raise AssertionError(f"it has ended: {self._errors}")

    def end(self) -> int:
        """Kill it; returns the last number that it has said to be committed."""
        self._process.kill()
        self._listener.join()
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._errors = self._process.stderr.read()
        for stream in (self._process.stdout, self._process.stderr):
            stream.close()
        self._process.wait()
        return self.last

    _errors = ""


def read(name: str, directory: Path) -> list[int]:
    """The numbers in the database. Raises `Damaged` with what the program says."""
    ran = subprocess.run(
        [*PROGRAM, "read", name, directory],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if ran.returncode != 0:
        raise Damaged(ran.stderr[-1000:] or f"the program ended by signal {-ran.returncode}")
    numbers: list[int] = json.loads(ran.stdout)
    return numbers


def wait_a_moment(rng: random.Random) -> None:
    """Let the cut come at some moment of what goes on."""
    time.sleep(rng.uniform(0, 0.01))


def cut(disk: throttlefs.Disk, rng: random.Random) -> throttlefs.PowerCut:
    """Cut the power at some moment of what goes on."""
    wait_a_moment(rng)
    return disk.power_cut(seed=rng.getrandbits(32))


# -- safe programs --------------------------------------------------------------------------


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SAFE)
def test_a_safe_program_loses_nothing(
    name: str, source: Path, rng: random.Random, cuts: int
) -> None:
    with throttlefs.mounted(source, volatile=True) as disk:
        needs(name, disk)
        for number in range(cuts):
            directory = disk / f"data-{number // CUTS_OF_A_DATABASE}"
            directory.mkdir(exist_ok=True)
            program = Committer(name, directory)
            program.wait_for(rng.randrange(1, 40))
            wait_a_moment(rng)
            # What a program says without power does not count, and a real one could not say it:
            # SQLite takes a directory that cannot be opened for one that need not be flushed.
            committed = program.last
            report = disk.power_cut(seed=rng.getrandbits(32))
            said = program.end()
            disk.power_on()
            which = f"cut {number}, seed {report.seed}"
            try:
                found = read(name, directory)
            except Damaged as exc:
                raise AssertionError(f"{which}: {exc}") from None
            assert found == list(range(1, len(found) + 1)), which
            assert committed <= len(found) <= said + 1, f"{which}: {committed} to {said}"


@pytest.mark.timeout(1200)
def test_a_file_that_is_replaced_is_one_or_the_other(
    source: Path, rng: random.Random, cuts: int
) -> None:
    """Without fsync, but ext4 writes the data before the new name: nobody sees half of a file."""
    (source / "settings").write_bytes(b"1\n" + value_of(1))
    with throttlefs.mounted(source, volatile=True) as disk:
        for number in range(cuts):
            program = Committer("rename", disk.path)
            program.wait_for(rng.randrange(1, 40))
            report = cut(disk, rng)
            committed = program.end()
            disk.power_on()
            assert len(read("rename", disk.path)) <= committed + 1, f"{number}, {report.seed}"


# -- programs that are not safe, or not as they are set -------------------------------------


def damage(name: str, source: Path, rng: random.Random, **options: str) -> list[str]:
    """What becomes of the database of an unsafe program in each cut, until one damages it."""
    outcomes: list[str] = []
    with throttlefs.mounted(source, volatile=True, **options) as disk:
        needs(name, disk)
        for number in range(20):
            directory = disk / f"data-{number}"
            directory.mkdir()
            program = Committer(name, directory)
            program.wait_for(20)
            disk.sync()
            program.wait_for(40)
            cut(disk, rng)
            committed = program.end()
            disk.power_on()
            try:
                outcomes.append("lost" if len(read(name, directory)) < committed else "kept")
            except Damaged:
                return [*outcomes, "damaged"]
    return outcomes


@pytest.mark.parametrize("name", ["sqlite-off", "lmdb-nosync"])
def test_a_database_that_does_not_flush_is_damaged(
    name: str, source: Path, rng: random.Random
) -> None:
    """SQLite with synchronous=OFF and LMDB with MDB_NOSYNC, as their manuals say."""
    assert damage(name, source, rng)[-1] == "damaged"


def test_a_file_that_is_replaced_without_fsync_is_damaged(source: Path, rng: random.Random) -> None:
    """On XFS, say: the new name may be there before the data are."""
    assert damage("rename", source, rng, auto_da_alloc="off")[-1] == "damaged"


def test_leveldb_loses_an_earlier_write_and_keeps_a_later_one(
    source: Path, rng: random.Random
) -> None:
    """A write with sync=True flushes the newest log alone (google/leveldb#193)."""
    plyvel = pytest.importorskip("plyvel", reason="plyvel has no wheel for this Python")
    program = (
        "import glob, plyvel, sys, time\n"
        "database = plyvel.DB(sys.argv[1], create_if_missing=True, write_buffer_size=64 << 10)\n"
        "number = 0\n"
        "while len(glob.glob(sys.argv[1] + '/*.log')) < 2:\n"
        "    number += 1\n"
        "    database.put(b'%08d' % number, b'value' * 100)\n"
        "database.put(b'last', b'%d' % number, sync=True)\n"
        "print(number, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with (
        throttlefs.mounted(source, volatile=True) as disk,
        disk.fault(op="flush", path="**/*.ldb", hang=True),
    ):
        directory = disk / "data"
        with subprocess.Popen(
            [sys.executable, "-c", program, directory], stdout=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            number = int(running.stdout.readline())
            disk.power_cut(seed=rng.getrandbits(32))
            running.kill()
        disk.power_on()
    database = plyvel.DB(str(source / "data"))
    assert database.get(b"last") == b"%d" % number, "it was flushed"
    lost = [n for n in range(1, number + 1) if database.get(b"%08d" % n) != b"value" * 100]
    assert lost, "all of them came before it"
    database.close()


def test_git_refers_to_objects_that_are_not_there(source: Path, rng: random.Random) -> None:
    """Git flushes no loose object unless core.fsync says so (git-config(1))."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        return subprocess.run(
            ["git", *who, *arguments], capture_output=True, text=True, cwd=source, check=False
        )

    def commit(fsync: str) -> bool:
        """Whether the repository is whole after a commit and a cut."""
        with throttlefs.mounted(source, volatile=True) as disk:
            repository = str(disk / f"repository-{rng.getrandbits(32)}")
            assert git("init", "-q", repository).returncode == 0
            disk.sync()
            (Path(repository) / "file").write_bytes(rng.randbytes(20_000))
            for words in (["add", "file"], ["commit", "-qm", "first"]):
                assert git("-c", f"core.fsync={fsync}", "-C", repository, *words).returncode == 0
            disk.power_cut(seed=rng.getrandbits(32))
            disk.power_on()
            return git("-C", repository, "fsck", "--full").returncode == 0

    assert not all(commit("none") for _ in range(10))
    assert all(commit("all") for _ in range(4))
