"""Programs that commit numbers to a database until their disk loses power, and read them back.

``python -m tests.peers.cut_programs commit NAME DIRECTORY`` goes on after what it finds there, and
says after each commit which it was. ``read`` prints all numbers as JSON, or fails if the database
is damaged. Each runs as a process of its own, because a damaged database may end it.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple

import lmdb


class Program(NamedTuple):
    """How numbers are committed to a database, and read back in order."""

    commit: Callable[[str], None]
    """Commit number after number in the directory, until the disk fails."""
    read: Callable[[str], list[int]]
    """All numbers. Raises if a value is not as it was committed."""


def value_of(number: int) -> bytes:
    """What is committed with *number*: from 100 bytes to three pages."""
    rng = random.Random(number)
    return hashlib.sha256(b"%d" % number).digest() * rng.choice((3, 20, 100, 400))


def say(number: int) -> None:
    """Tell that *number* is committed."""
    os.write(1, b"%d\n" % number)


def checked(number: int, value: bytes) -> int:
    """*number*. Raises `ValueError` if *value* is not what was committed with it."""
    if value != value_of(number):
        raise ValueError(f"number {number} has another value")
    return number


# -- SQLite ---------------------------------------------------------------------------------


@contextmanager
def _sqlite(directory: str, journal: str, synchronous: str) -> Iterator[sqlite3.Connection]:
    with closing(
        sqlite3.connect(f"{directory}/data.db", isolation_level=None, timeout=60)
    ) as database:
        (mode,) = database.execute(f"PRAGMA journal_mode={journal}").fetchone()
        assert mode == journal
        database.execute(f"PRAGMA synchronous={synchronous}")
        database.execute("PRAGMA wal_autocheckpoint=20")
        yield database


def sqlite(journal: str, synchronous: str) -> Program:
    """SQLite with this journal. Each transaction adds a row and changes two others."""

    def commit(directory: str) -> None:
        with _sqlite(directory, journal, synchronous) as database:
            database.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, value BLOB)")
            database.execute("CREATE INDEX IF NOT EXISTS by_value ON t (value)")
            database.execute("CREATE TABLE IF NOT EXISTS last (id INTEGER)")
            (number,) = database.execute("SELECT coalesce(max(id), 0) FROM t").fetchone()
            while True:
                number += 1
                database.execute("BEGIN IMMEDIATE")
                database.execute("INSERT INTO t VALUES (?, ?)", (number, value_of(number)))
                database.execute("DELETE FROM last")
                database.execute("INSERT INTO last VALUES (?)", (number,))
                database.execute("COMMIT")
                say(number)

    def read(directory: str) -> list[int]:
        with _sqlite(directory, journal, synchronous) as database:
            (said,) = database.execute("PRAGMA integrity_check").fetchone()
            if said != "ok":
                raise ValueError(said)
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'last'").fetchone():
                return []
            rows = database.execute("SELECT id, value FROM t ORDER BY id").fetchall()
            last = database.execute("SELECT id FROM last").fetchall()
        numbers = [checked(number, value) for number, value in rows]
        if last != [(number,) for number in numbers[-1:]]:
            raise ValueError(f"the last is {last}, and not {numbers[-1:]}")
        return numbers

    return Program(commit, read)


# -- LMDB -----------------------------------------------------------------------------------


def _lmdb(directory: str, **options: Any) -> lmdb.Environment:
    return lmdb.open(directory, map_size=64 << 20, **options)


def lmdb_with(**options: Any) -> Program:
    """LMDB. Each transaction adds a value and shortens one, so that pages are used again."""

    def commit(directory: str) -> None:
        with _lmdb(directory, **options) as environment:
            with environment.begin() as transaction, transaction.cursor() as cursor:
                number = int(cursor.key()) if cursor.last() else 0
            while True:
                number += 1
                with environment.begin(write=True) as transaction:
                    transaction.put(b"%08d" % number, value_of(number))
                    if number > 5:
                        transaction.put(b"%08d" % (number - 5), b"done")
                say(number)

    def read(directory: str) -> list[int]:
        with _lmdb(directory, **options) as environment, environment.begin() as transaction:
            rows = [(int(key), value) for key, value in transaction.cursor()]
        return [number if value == b"done" else checked(number, value) for number, value in rows]

    return Program(commit, read)


# -- LevelDB --------------------------------------------------------------------------------


def leveldb(sync: bool) -> Program:
    """LevelDB with a small buffer, so that it begins a new log and compacts all the time."""

    def opened(directory: str) -> Any:
        import plyvel  # which not every Python has

        return plyvel.DB(directory, create_if_missing=True, write_buffer_size=64 << 10)

    def commit(directory: str) -> None:
        database = opened(directory)
        number = max((int(key) for key, _ in database), default=0)
        while True:
            number += 1
            database.put(b"%08d" % number, value_of(number), sync=sync)
            say(number)

    def read(directory: str) -> list[int]:
        database = opened(directory)
        numbers = [checked(int(key), value) for key, value in database]
        database.close()
        return numbers

    return Program(commit, read)


# -- files that are replaced ----------------------------------------------------------------


def _replace(directory: str) -> None:
    """Write a file anew as many programs do: a temporary one, renamed over it, without fsync."""
    try:
        number = _replaced(directory)[-1]
    except IndexError:
        number = 0
    while True:
        number += 1
        with open(f"{directory}/settings.tmp", "wb") as file:
            file.write(b"%d\n" % number + value_of(number))
        os.rename(f"{directory}/settings.tmp", f"{directory}/settings")
        say(number)


def _replaced(directory: str) -> list[int]:
    """The number of the file that is there. It says nothing of those before it."""
    try:
        with open(f"{directory}/settings", "rb") as file:
            line, value = file.readline(), file.read()
    except FileNotFoundError:
        return []
    return list(range(1, checked(int(line), value) + 1))


PROGRAMS = {
    "sqlite-delete": sqlite("delete", "extra"),
    "sqlite-wal": sqlite("wal", "full"),
    "sqlite-off": sqlite("delete", "off"),
    "lmdb": lmdb_with(),
    "lmdb-nosync": lmdb_with(sync=False),
    "leveldb": leveldb(sync=True),
    "leveldb-nosync": leveldb(sync=False),
    "rename": Program(_replace, _replaced),
}

if __name__ == "__main__":
    _, what, name, place = sys.argv
    if what == "commit":
        PROGRAMS[name].commit(place)
    else:
        print(json.dumps(PROGRAMS[name].read(place)))
