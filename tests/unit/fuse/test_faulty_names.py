"""Fault rules in front of handlers: which requests they are for, and what they cost without any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import trio

from throttlefs.fuse import faulty_names
from throttlefs.fuse.injector import Injector
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.table import TABLE
from throttlefs.settings.faults import Fault

UNTOUCHED = {"forget", "release", "flush", "lseek", "statfs", "releasedir"}
"""Handlers that no rule is for."""

OF_CONTENTS = {"fsync", "fallocate", "copy_file_range"}
"""Handlers that ask for rules themselves, after the limiter."""


def test_every_handler_is_for_rules_or_known_not_to_be() -> None:
    handlers = {operation.handler for operation in TABLE.values()}
    assert set(faulty_names._HANDLERS) | UNTOUCHED | OF_CONTENTS == handlers


class Served:
    """Handlers that say that they were called."""

    def __init__(self) -> None:
        self.injector: Injector | None = None
        self.calls: list[tuple[Any, ...]] = []
        for name in faulty_names._HANDLERS:
            setattr(self, name, self._handler(name))

    def _handler(self, name: str) -> Any:
        async def handler(*args: Any) -> str:
            self.calls.append((name, *args))
            return "done"

        return handler

    def directory_inode(self, fh: int) -> Any:
        raise KeyError(fh)


@pytest.fixture
def served(tmp_path: Path) -> Served:
    made = Served()
    faulty_names.let_faults_happen(made, InodeTable(os.open(tmp_path, os.O_PATH), 10))
    return made


def injector() -> tuple[Injector, list[Any]]:
    async def no_thread(*_: object, **__: object) -> None:
        raise AssertionError

    told: list[Any] = []
    return Injector(no_thread, told.append, lambda _: None, lambda: 0), told


def test_without_rules_the_handler_itself_is_called(served: Served) -> None:
    handler: Any = served
    assert trio.run(handler.unlink, 1, b"a", None) == "done"
    assert served.calls == [("unlink", 1, b"a", None)]


def test_a_request_that_breaks_the_protocol_is_left_to_its_handler(served: Served) -> None:
    served.injector, told = injector()
    served.injector.add(Fault.parse({"error": "EIO", "op": ["unlink", "list", "rename"]}))
    handler: Any = served
    assert trio.run(handler.unlink, 99, b"a", None) == "done"
    assert trio.run(handler.list_entries, 99, 0, None) == "done"
    assert told == []


def test_a_rule_fires_before_the_handler(served: Served) -> None:
    served.injector, told = injector()
    served.injector.add(Fault.parse({"error": "EIO", "op": "rename", "path": "new"}))
    handler: Any = served
    with pytest.raises(OSError):
        trio.run(handler.rename, 1, b"old", 1, b"new", 0, None)
    assert served.calls == []
    assert told == [
        {
            "rule": 1,
            "count": 1,
            "op": "rename",
            "file": b"old",
            "to": b"new",
            "error": "EIO",
        }
    ]
    assert trio.run(handler.rename, 1, b"old", 1, b"other", 0, None) == "done"


def test_a_lost_flush_of_a_directory_is_answered(served: Served) -> None:
    served.injector, _ = injector()
    served.injector.add(Fault.parse({"lose": True, "op": "flush"}))
    root = served.injector

    class Root:
        path = b""

    served.directory_inode = lambda fh: Root()  # type: ignore[method-assign]
    handler: Any = served
    assert trio.run(handler.fsyncdir, 5, False) is None
    assert served.calls == []
    assert root.table.rules()[0].fired == 1
