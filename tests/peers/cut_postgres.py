"""A PostgreSQL server that commits numbers on a disk which loses power."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import wait_for

_FEWER_FILES = """
UPDATE pg_database SET datistemplate = false;
DROP DATABASE template0;
DROP DATABASE template1;
"""
"""Recovery flushes each file of the cluster, of which two thirds are in these."""

SCHEMA = """
CREATE TABLE t (id int PRIMARY KEY, value text);
CREATE TABLE account (id int PRIMARY KEY, sum int, filler text) WITH (fillfactor = 90);
INSERT INTO account SELECT n, 0, repeat('x', 60) FROM generate_series(0, 999) AS n;
CREATE FUNCTION transfer(n int) RETURNS int LANGUAGE sql AS $$
    UPDATE account SET sum = sum + 1 WHERE id IN (n * 7 % 1000, n * 131 % 1000);
    INSERT INTO t VALUES (n, repeat(md5(n::text), n % 40 + 1)) RETURNING id;
$$;
"""

_MOST_COMMITS = 3000

CHECK = """
SELECT count(*) FROM account;
SELECT coalesce(max(id), 0) FROM t;
SELECT count(*) FROM t WHERE value = repeat(md5(id::text), id % 40 + 1);
SELECT sum(sum) FROM account;
SELECT coalesce(sum(CASE WHEN id * 7 % 1000 = id * 131 % 1000 THEN 1 ELSE 2 END), 0) FROM t;
"""


class Damaged(Exception):
    """The server does not start, or finds that pages or rows are not as they were written."""


def programs() -> str | None:
    """The directory of PostgreSQL's programs, the newest; None if there are none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    return os.path.dirname(found[-1]) if found and shutil.which("setpriv") else None


def _is_gone(pid: int) -> bool:
    """Whether the process has ended, even if nobody has waited for it yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def _shared_memory(pids: list[int]) -> tuple[set[str], set[str]]:
    """What a killed server would leave behind: files of POSIX, and numbers of System V's memory."""
    files, segments = set(), set()
    for pid in pids:
        try:
            with open(f"/proc/{pid}/maps") as maps:
                for line in maps:  # proc(5)
                    _, _, _, _, inode, *rest = line.split(maxsplit=5)
                    path = "".join(rest).rstrip()
                    if path.startswith("/dev/shm/PostgreSQL."):
                        files.add(path)
                    elif path.startswith("/SYSV"):
                        segments.add(inode)
        except FileNotFoundError:
            continue  # it has just ended
    return files, segments


class Cluster:
    """A cluster whose files are in *data*; its socket and its log are in *place*."""

    def __init__(self, place: Path, data: Path, *settings: str) -> None:
        found = programs()
        assert found is not None, "install the package postgresql"
        self._programs = found
        self._place = place
        self._data = data
        self._settings = (
            *("listen_addresses=", f"unix_socket_directories={place}", "port=5433"),
            # Few buffers, so that pages are written all the time, and no other I/O.
            *("shared_buffers=1MB", "autovacuum=off", "max_wal_size=64MB", "min_wal_size=32MB"),
            *("bgwriter_delay=10ms", "bgwriter_lru_maxpages=1000", "max_connections=10"),
            *settings,
        )

    def _command(self, program: str, *arguments: object) -> list[str]:
        return [
            *("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"),
            *(f"{self._programs}/{program}", *map(str, arguments)),
        ]

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(program, *arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._place,
            timeout=100,
            check=False,
        )

    def make(self) -> None:
        """Make the cluster, with checksums of its pages, and the tables."""
        made = self._run(
            *("initdb", "-D", self._data, "-A", "trust", "-k", "--no-sync", "--wal-segsize=1")
        )
        assert made.returncode == 0, made.stdout
        self.start()
        self.sql(_FEWER_FILES + SCHEMA)
        self.stop()

    def start(self) -> None:
        """Start the server, which recovers. Raises `Damaged`."""
        options = " ".join(f"-c {one}" for one in self._settings)
        log = self._place / "log"
        log.unlink(missing_ok=True)
        # The process that they name is gone, or dead at least.
        for left in (self._data / "postmaster.pid", self._place / ".s.PGSQL.5433.lock"):
            left.unlink(missing_ok=True)
        started = self._run(
            "pg_ctl", "-D", self._data, "-w", "-t", 90, "-l", log, "-o", options, "start"
        )
        if started.returncode != 0:
            raise Damaged(log.read_text(errors="replace")[-1000:])

    def stop(self) -> None:
        """Stop it, with a checkpoint."""
        self._run("pg_ctl", "-D", self._data, "-w", "-m", "fast", "stop")

    def kill(self) -> None:
        """Kill the server, wait until all its processes are gone, and remove what they shared."""
        pids = self._pids()
        files, segments = _shared_memory(pids)
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        for pid in pids:
            wait_for(lambda: _is_gone(pid), 60)  # noqa: B023
        for file in files:
            Path(file).unlink(missing_ok=True)
        for segment in segments:
            subprocess.run(["ipcrm", "--shmem-id", segment], capture_output=True, check=False)

    def _pids(self) -> list[int]:
        """The processes whose files are in the cluster: those that its postmaster has begun."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                # Not by a look at the directory itself, whose disk may have no power.
                if os.readlink(f"/proc/{entry}/cwd") == str(self._data):
                    found.append(int(entry))
            except OSError:
                continue
        return found

    def sql(self, text: str) -> list[str]:
        """The lines that SQL prints. Raises `Damaged` if it fails."""
        ran = subprocess.run(
            self._command(*self._psql()),
            input=text,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        if ran.returncode != 0:
            raise Damaged(ran.stderr)
        return ran.stdout.split()

    def _psql(self) -> tuple[object, ...]:
        server = ("-h", self._place, "-p", "5433", "-d", "postgres")
        return ("psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *server)

    def committed(self) -> int:
        """The highest number that is there, if all before it are. Raises `Damaged`."""
        accounts, last, good, total, expected = map(int, self.sql(CHECK))
        if (accounts, good, total) != (1000, last, expected):
            raise Damaged(f"{accounts} accounts, {good} of {last} rows, sum {total} {expected}")
        return last

    @contextmanager
    def committing(self, first: int, checkpoint_every: int) -> Iterator[subprocess.Popen[str]]:
        """Commit number after number from *first* on; each is printed when it is committed."""
        script = self._place / "script.sql"
        with open(script, "w") as file:
            for number in range(first, first + _MOST_COMMITS):
                if number % checkpoint_every == 0:
                    file.write("CHECKPOINT;\n")
                file.write(f"SELECT transfer({number});\n")
        client = subprocess.Popen(
            self._command(*self._psql(), "-f", script),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            yield client
        finally:
            client.kill()
            client.wait()
