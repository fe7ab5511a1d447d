"""A program that commits to a database for ever, and says after each commit which it was.

``python -m tests.peers.committer DATABASE DIRECTORY`` goes on after what it finds there.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from typing import NamedTuple

import lmdb

_VALUE = bytes(range(256)) * 8


class Database(NamedTuple):
    """How numbers are committed to a database, and read back in order."""

    commit: Callable[[str], None]
    """Commit number after number in the directory, until somebody ends it."""
    read: Callable[[str], list[int]]


def _sqlite(directory: str) -> sqlite3.Connection:
    database = sqlite3.connect(f"{directory}/data.db", isolation_level=None, timeout=60)
    assert database.execute("PRAGMA journal_mode=wal").fetchone() == ("wal",)
    database.execute("PRAGMA synchronous=full")
    database.execute("PRAGMA wal_autocheckpoint=50")
    database.execute("PRAGMA mmap_size=10000000")
    return database


def _commit_to_sqlite(directory: str) -> None:
    database = _sqlite(directory)
    database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, value BLOB)")
    (number,) = database.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()
    while True:
        number += 1
        database.execute("INSERT INTO t VALUES (?, ?)", (number, _VALUE))
        print(number, flush=True)


def _read_sqlite(directory: str) -> list[int]:
    database = _sqlite(directory)
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    rows = database.execute("SELECT id, value FROM t ORDER BY id").fetchall()
    database.close()
    assert all(value == _VALUE for _, value in rows)
    return [number for number, _ in rows]


def _lmdb(directory: str, writemap: bool) -> lmdb.Environment:
    return lmdb.open(directory, map_size=64 << 20, writemap=writemap)


def _commit_to_lmdb(directory: str, writemap: bool) -> None:
    environment = _lmdb(directory, writemap)
    number = environment.stat()["entries"]
    while True:
        number += 1
        with environment.begin(write=True) as transaction:
            transaction.put(b"%08d" % number, _VALUE)
        print(number, flush=True)


def _read_lmdb(directory: str) -> list[int]:
    with _lmdb(directory, False) as environment, environment.begin() as transaction:
        rows = list(transaction.cursor())
    assert all(value == _VALUE for _, value in rows)
    return [int(key) for key, _ in rows]


DATABASES = {
    "sqlite": Database(_commit_to_sqlite, _read_sqlite),
    "lmdb": Database(lambda directory: _commit_to_lmdb(directory, False), _read_lmdb),
    "lmdb-writemap": Database(lambda directory: _commit_to_lmdb(directory, True), _read_lmdb),
}
"""By name: SQLite with a WAL, LMDB as it is, and LMDB that writes by its mapping."""

if __name__ == "__main__":
    DATABASES[sys.argv[1]].commit(sys.argv[2])
