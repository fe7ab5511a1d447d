"""A mounted disk for trio: a `Disk` whose methods are awaited."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import trio

from .disk import Disk, StrPath
from .fault import AsyncFault
from .figures import Change, ImageStats, PowerCut
from .options import Option

T = TypeVar("T")


class AsyncDisk:
    """What ``async with throttlefs.mounted(...)`` gives in trio: each method is that of `Disk`.

    A method waits in a thread for the daemon's answer; cancelled, it is left to its end there.
    """

    def __init__(self, disk: Disk) -> None:
        self.blocking = disk
        """The same disk, for code that does not await."""

    @property
    def source(self) -> Path:
        """`Disk.source`."""
        return self.blocking.source

    @property
    def path(self) -> Path:
        """`Disk.path`."""
        return self.blocking.path

    @property
    def pid(self) -> int:
        """`Disk.pid`."""
        return self.blocking.pid

    def __fspath__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: StrPath) -> Path:
        return self.path / name

    def __repr__(self) -> str:
        return repr(self.blocking)

    async def set(
        self,
        name: StrPath | None = None,
        /,
        *,
        off: bool = False,
        all: bool = False,
        **values: Option,
    ) -> list[Change]:
        """`Disk.set`."""
        return await _in_thread(partial(self.blocking.set, name, off=off, all=all, **values))

    async def set_group(
        self, group: str, /, *, create: bool = False, off: bool = False, **values: Option
    ) -> list[Change]:
        """`Disk.set_group`."""
        return await _in_thread(
            partial(self.blocking.set_group, group, create=create, off=off, **values)
        )

    async def reload(self) -> None:
        """`Disk.reload`."""
        await _in_thread(self.blocking.reload)

    def fault(self, name: StrPath | None = None, /, **rule: Any) -> AsyncFault:
        """`Disk.fault`, for ``async with``."""
        return AsyncFault(partial(self.blocking.fault, name, **rule))

    async def power_cut(self, *, seed: int | None = None, dry_run: bool = False) -> PowerCut:
        """`Disk.power_cut`."""
        return await _in_thread(partial(self.blocking.power_cut, seed=seed, dry_run=dry_run))

    async def power_on(self) -> None:
        """`Disk.power_on`."""
        await _in_thread(self.blocking.power_on)

    async def sync(self) -> None:
        """`Disk.sync`."""
        await _in_thread(self.blocking.sync)

    async def show(self, name: StrPath | None = None, /) -> dict[str, Any]:
        """`Disk.show`."""
        return await _in_thread(partial(self.blocking.show, name))

    @overload
    async def stats(self, name: StrPath, /) -> ImageStats: ...

    @overload
    async def stats(self, /) -> dict[str, ImageStats]: ...

    async def stats(self, name: StrPath | None = None, /) -> ImageStats | dict[str, ImageStats]:
        """`Disk.stats`."""
        if name is None:
            return await _in_thread(self.blocking.stats)
        return await _in_thread(partial(self.blocking.stats, name))

    async def qmp(self, command: str, /, **arguments: object) -> Any:
        """`Disk.qmp`."""
        return await _in_thread(partial(self.blocking.qmp, command, **arguments))


async def _in_thread(work: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
