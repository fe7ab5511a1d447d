"""Fault rules for tests of mounts: added and removed over one connection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from throttlefs.control.client import QmpClient
from throttlefs.control.locate import locate
from throttlefs.settings.faults import assignments


def pattern(size: int) -> bytes:
    """*size* bytes, none of them 0, that differ from sector to sector."""
    return bytes(n % 251 + 1 for n in range(size))


class Rules:
    """The rules of the mount at *path*."""

    def __init__(self, client: QmpClient, path: Path) -> None:
        self._client = client
        self._path = path

    def add(self, line: str, file: str | None = None) -> int:
        """Add the rule of a command line, for one *file* or for all; returns its number."""
        arguments: dict[str, Any] = {"values": assignments(line.split())}
        if file is not None:
            arguments["device"] = file
        number: int = self._client.run("x-throttlefs-fault-add", **arguments)["rule"]
        return number

    @contextmanager
    def rule(self, line: str, file: str | None = None) -> Iterator[int]:
        """A rule for as long as the block lasts."""
        number = self.add(line, file)
        try:
            yield number
        finally:
            self._client.run("x-throttlefs-fault-remove", rule=number)

    def clear(self) -> None:
        self._client.run("x-throttlefs-fault-clear")

    def all(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.run("x-throttlefs-fault-list")
        return found

    def one(self, number: int) -> dict[str, Any]:
        return next(rule for rule in self.all() if rule["rule"] == number)


@contextmanager
def rules_of(path: Path) -> Iterator[Rules]:
    """The rules of the mount at *path*."""
    with locate(os.fspath(path)).session() as client:
        yield Rules(client, path)
