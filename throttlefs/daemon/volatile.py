"""Puts together what a volatile mount has beside any other: journal, undo log, hidden directory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from throttlefs.backing import Engine
from throttlefs.backing.undo_log import UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.journal import Journal
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.attributes import Presentation, WireAttributes, WireEntry
from throttlefs.fuse.in_thread import RunInThread
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.names_in_use import NamesInUse
from throttlefs.fuse.operations import Operations
from throttlefs.fuse.volatile_files import VolatileFiles
from throttlefs.fuse.volatile_names import VolatileNames
from throttlefs.host.paths import MountPaths
from throttlefs.host.stash import Stash, open_stash, stash_name
from throttlefs.settings.cachemode import CacheMode
from throttlefs.settings.options import MountOptions

from .finishing import clear_up
from .power import Power

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Reserve:
    """The hidden directory of a volatile mount, and its undo log.

    *directory* is where the hidden one lies: SRC, or the directory of SRC if it is one file.
    """

    def __init__(self, stash: Stash, directory: int, undo_log: UndoLog) -> None:
        self.stash = stash
        self.directory = directory
        self.undo_log = undo_log
        self.keep = False
        """Whether the hidden directory must stay, with a cut that the next mount has to finish."""


@contextmanager
def reserved(paths: MountPaths, root_fd: int, options: MountOptions) -> Iterator[Reserve | None]:
    """What a volatile mount of SRC keeps, until it ends; None for any other mount.

    What an earlier mount has left in SRC is cleared up before, and a power cut finished. Raises
    `ThrottlefsError`, also while a volatile mount of SRC lives.
    """
    with ExitStack() as stack:
        name, directory = b"", root_fd
        if paths.is_file:
            if not stat.S_ISREG(os.fstat(root_fd).st_mode):
                yield None
                return
            name = os.fsencode(os.path.basename(paths.source))
            directory = os.open(os.path.dirname(paths.source), _DIRECTORY)
            stack.callback(os.close, directory)
        make = options.volatile
        stash = open_stash(paths.source, directory, stash_name(name), make=make)
        if stash is None:
            yield None
            return
        reserve = None
        try:
            clear_up(paths.source, directory, stash)
            if make:
                stash.check_links()
                reserve = Reserve(stash, directory, _undo_log(options, stack))
        except BaseException:
            stash.close(keep=True)
            raise
        if reserve is None:
            stash.close()
        try:
            yield reserve
        finally:
            if reserve is not None:
                stash.close(keep=reserve.keep)


def _undo_log(options: MountOptions, stack: ExitStack) -> UndoLog:
    try:
        undo_log = UndoLog(options.volatile_dir)
    except OSError as exc:
        raise ThrottlefsError(f"volatile_dir={options.volatile_dir}: {exc.strerror}") from None
    stack.callback(undo_log.close)
    return undo_log


class HiddenLinks(WireAttributes):
    """Makes entries in which a file's place in the hidden directory *stash* does not count."""

    def __init__(self, presentation: Presentation, stash: Stash) -> None:
        super().__init__(presentation)
        self._stash = stash

    def entry(self, number: int, st: os.stat_result) -> WireEntry:
        """See `Attributes.entry`."""
        if (st.st_dev, st.st_ino) in self._stash.keys:
            seen: Any = _WithoutLink(st)
            return super().entry(number, seen)
        return super().entry(number, st)


class _WithoutLink:
    """The status of a file, or removed directory, without its place in the hidden directory."""

    def __init__(self, st: os.stat_result) -> None:
        self._st = st
        self.st_nlink = 0 if stat.S_ISDIR(st.st_mode) else st.st_nlink - 1

    def __getattr__(self, name: str) -> object:
        return getattr(self._st, name)


class VolatileDisk:
    """All that a volatile mount has beside any other. ``power`` is that of the disk."""

    def __init__(
        self,
        reserve: Reserve,
        paths: MountPaths,
        options: MountOptions,
        inodes: InodeTable,
        presentation: Presentation,
        engine: Engine,
        in_thread: RunInThread,
    ) -> None:
        self.attributes = HiddenLinks(presentation, reserve.stash)
        self._reserve = reserve
        self._options = options
        self._inodes = inodes
        self._engine = engine
        self._in_thread = in_thread
        self._journal = Journal(ordered=options.names == "ordered")
        self._contents = Contents(self._journal, options.sector)
        self._in_use = NamesInUse()
        inodes.look_in(reserve.stash)
        self.power = Power(
            *(paths.target, inodes, self._journal, self._contents, reserve.undo_log, self._in_use),
            *(reserve.stash, reserve.directory, in_thread, self._begin_generation),
        )

    def attach(self, operations: Operations) -> None:
        """Let *operations* serve this disk; call it before anything else stands before them."""
        options = self._options
        files = VolatileFiles(
            *(self._contents, self._reserve.undo_log, self._inodes, self._in_thread, self._engine),
            operations.forget,
            stays_dirty=options.fsync_failure == "dirty",
            flushes_at_close=options.auto_da_alloc,
            all_durable=CacheMode(options.cache).durable_writes,
        )
        operations.volatile = files
        VolatileNames(
            *(operations, self._inodes, self._journal, self._contents),
            *(self._reserve.stash, self._in_use, self._in_thread),
            flushes_replaced=options.auto_da_alloc,
        ).attach()
        self.power.attach(operations, files)

    def end(self) -> None:
        """Note that the mount has ended: the hidden directory stays if a cut is unfinished."""
        self._reserve.keep = self.power.is_unfinished

    def _begin_generation(self) -> None:
        self.attributes.generation += 1
        self._inodes.begin_generation()
