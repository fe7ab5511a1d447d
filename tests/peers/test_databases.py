"""Databases on a throttled directory: they lock, sync and recover as on any disk."""

from __future__ import annotations

import glob
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.committer import DATABASES
from tests.support import MountFactory, clear_away, needs_feature, run_throttlefs, wait_for
from throttlefs.host import runtime


@pytest.mark.parametrize("mode", ["delete", "truncate", "wal"])
def test_sqlite(make_mount: MountFactory, rng: random.Random, mode: str) -> None:
    """WAL shares memory among its users, by a shared mapping; the other modes do not."""
    mounted = make_mount("iops_wr=2000")
    if mode == "wal":
        needs_feature(mounted, "shared-mmap")
    path = mounted.path / "data.db"
    with sqlite3.connect(path, isolation_level=None) as database:
        assert database.execute(f"PRAGMA journal_mode={mode}").fetchone() == (mode,)
        database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text BLOB)")
        for number in range(60):
            database.execute("INSERT INTO t VALUES (?, ?)", (number, rng.randbytes(2000)))
        with sqlite3.connect(path, timeout=0) as other:
            assert other.execute("SELECT count(*) FROM t").fetchone() == (60,)
            database.execute("BEGIN IMMEDIATE")
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("DELETE FROM t")
            database.execute("ROLLBACK")
        other.close()
    database.close()
    mounted.umount()
    database = sqlite3.connect(mounted.source / "data.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert database.execute("SELECT count(*) FROM t").fetchone() == (60,)
    database.close()


def test_sqlite_commits_at_the_pace_of_the_limit(make_mount: MountFactory) -> None:
    mounted = make_mount("iops_wr=100")
    database = sqlite3.connect(mounted.path / "data.db", isolation_level=None)
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY)")
    began = time.monotonic()
    for number in range(10):
        database.execute("INSERT INTO t VALUES (?)", (number,))
    assert time.monotonic() - began > 0.2, "each commit is three writes or more"
    database.close()


@pytest.mark.parametrize("victim", ["program", "daemon"])
@pytest.mark.parametrize("database", DATABASES)
def test_what_was_committed_outlives_kill_9(
    make_mount: MountFactory, database: str, victim: str
) -> None:
    """A database is killed amid its transactions, or loses its disk: it recovers on the mount."""
    mounted = make_mount("bps=20M,iops=3000")
    needs_feature(mounted, "shared-mmap")
    dead = mounted.pid
    directory = mounted.path / "data"
    directory.mkdir()
    program = subprocess.Popen(
        [sys.executable, "-m", "tests.peers.committer", database, directory],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    for _ in range(40):
        committed = int(program.stdout.readline())
    if victim == "program":
        program.kill()
    else:
        os.kill(mounted.pid, signal.SIGKILL)
    committed = max([committed, *map(int, program.stdout.read().split())])
    program.wait(60)
    if victim == "daemon":
        wait_for(lambda: runtime.process_start_time(dead) is None)
        assert run_throttlefs("umount", mounted.path).returncode == 0
        mounted = make_mount("bps=20M,iops=3000")
    found = DATABASES[database].read(str(directory))
    assert found[:committed] == list(range(1, committed + 1))
    assert len(found) <= committed + 1, "at most the one that was under way"
    mounted.umount()
    assert DATABASES[database].read(str(mounted.source / "data")) == found


def postgres_programs() -> str | None:
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return os.path.dirname(found[-1]) if found and shutil.which("setpriv") else None


@pytest.fixture
def postgres_directory() -> Iterator[Path]:
    """A place that the user postgres can reach, with src and mnt of his own."""
    directory = Path(tempfile.mkdtemp(prefix="throttlefs-postgres-", dir="/tmp"))
    os.chmod(directory, 0o755)
    for name in ("src", "mnt"):
        (directory / name).mkdir()
        shutil.chown(directory / name, "postgres", "postgres")
    yield directory
    clear_away(directory / "mnt")
    shutil.rmtree(directory)


def kill_postmaster(data: Path) -> None:
    """Kill the server; its processes end when they see that it is gone."""
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    os.kill(postmaster, signal.SIGKILL)
    for pid in (postmaster, *children):
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 60)  # noqa: B023


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become the user postgres")
@pytest.mark.timeout(300)
def test_postgresql(postgres_directory: Path) -> None:
    """A cluster made, used, killed and stopped on the mount, as the user postgres (allow_other)."""
    programs = postgres_programs()
    assert programs is not None, "install the package postgresql"
    source, target = postgres_directory / "src", postgres_directory / "mnt"
    result = run_throttlefs("mount", source, target, "-o", "bps=200M,iops=5000,allow_other")
    assert (result.returncode, result.stderr) == (0, "")

    def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                *("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"),
                *(f"{programs}/{program}", *map(str, arguments)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=postgres_directory / "mnt",
            timeout=100,
            check=False,
        )

    def postgres(program: str, *arguments: object) -> str:
        ran = run(program, *arguments)
        assert ran.returncode == 0, ran.stdout
        return ran.stdout

    data, server = target / "data", ("-h", target, "-p", "5433")
    postgres("initdb", "-D", data, "-A", "trust", "--no-sync")
    options = f"-c listen_addresses= -c unix_socket_directories={target} -p 5433"
    postgres("pg_ctl", "-D", data, "-w", "-l", target / "log", "-o", options, "start")
    try:
        postgres("pgbench", *server, "-i", "-q", "postgres")
        printed = postgres("pgbench", *server, "--random-seed=1", "-T", 2, "-c", 2, "postgres")
        assert "number of failed transactions: 0" in printed
        postgres("psql", *server, "-c", "CHECKPOINT", "postgres")
        printed = postgres("pgbench", *server, "--random-seed=2", "-t", 50, "-c", 2, "postgres")
        assert "number of failed transactions: 0" in printed
        kill_postmaster(data)
        # A process of the old server may not have seen yet that it is gone.
        start = ("pg_ctl", "-D", data, "-w", "-l", target / "log", "-o", options, "start")
        wait_for(lambda: run(*start).returncode == 0, 80)
        assert "redo done" in (target / "log").read_text()
        count = postgres(
            "psql", *server, "-Atc", "SELECT count(*) FROM pgbench_history", "postgres"
        )
        assert int(count) == 100, "the history of the last pgbench, which began with none"
    finally:
        postgres("pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    assert "shut down" in postgres("pg_controldata", data)
    result = run_throttlefs("umount", target)
    assert (result.returncode, result.stderr) == (0, "")
