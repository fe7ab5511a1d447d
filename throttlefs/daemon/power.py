"""The power of a volatile disk: cuts it, switches it on again, flushes everything."""

from __future__ import annotations

import errno
import logging
import os
import random
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import trio

from throttlefs.backing.undo_log import UndoLog
from throttlefs.device.volatile.contents import Contents
from throttlefs.device.volatile.journal import Journal
from throttlefs.errors import ThrottlefsError
from throttlefs.fuse.in_thread import RunInThread
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.loop import SessionLoop
from throttlefs.fuse.names_in_use import NamesInUse
from throttlefs.fuse.notify import drop_pages
from throttlefs.fuse.operations import Operations
from throttlefs.fuse.power_gate import PowerGate
from throttlefs.fuse.volatile_files import VolatileFiles
from throttlefs.host import syscalls
from throttlefs.host.files import FileKey
from throttlefs.host.stash import Stash

from .cut_plan import CutPlan, PlanFiles
from .cutting import Cut
from .finishing import do, not_done

log = logging.getLogger("throttlefs")

_LOOK_AGAIN_S: Final = 0.001
_DROP_WITHIN_S: Final = 5.0
_AT_ONCE: Final = 200


class Power:
    """Cuts the power of a mount (`throttlefs.control.power.Power`), when it is attached to it.

    *root_fd* is the directory that paths are relative to: SRC, or where it lies if it is one file.
    *new_generation* has the kernel look all files up again.
    """

    def __init__(
        self,
        target: str,
        inodes: InodeTable,
        journal: Journal,
        contents: Contents,
        undo_log: UndoLog,
        in_use: NamesInUse,
        stash: Stash,
        root_fd: int,
        in_thread: RunInThread,
        new_generation: Callable[[], None],
    ) -> None:
        self._target = target
        self._operations: Operations
        self._files: VolatileFiles
        self._inodes = inodes
        self._journal = journal
        self._contents = contents
        self._undo_log = undo_log
        self._in_use = in_use
        self._stash = stash
        self._root_fd = root_fd
        self._in_thread = in_thread
        self._new_generation = new_generation
        self._gate: PowerGate | None = None
        self._unfinished: CutPlan | None = None
        self._busy = trio.Lock()  # held while the hidden directory or SRC's names are at work
        self._news = trio.Event()
        self._loop: SessionLoop | None = None
        self._fuse_fd = -1
        self._file_removed: Callable[[FileKey], None]
        journal.committed_some = in_use.has_grown = self._look_again

    def attach(self, operations: Operations, files: VolatileFiles) -> None:
        """Have *operations* serve it, and *files* its contents."""
        self._operations = operations
        self._files = files
        self._file_removed = operations.file_removed
        operations.file_removed = self._forget_file  # type: ignore[method-assign]

    def guard(self) -> None:
        """Stand before all handlers, when everything else stands there already."""
        self._gate = PowerGate(self._operations)

    def serve(self, loop: SessionLoop, fuse_fd: int) -> None:
        """Note what serves the mount."""
        self._loop = loop
        self._fuse_fd = fuse_fd

    @property
    def is_unfinished(self) -> bool:
        """Whether a cut has begun and could not be done; the next mount may."""
        return self._unfinished is not None

    @property
    def _is_off(self) -> bool:
        return self._gate is not None and self._gate.is_off

    def state(self) -> Mapping[str, Any]:
        """Whether it is on, and what a cut could take back now."""
        return {
            "state": "off" if self._is_off else "on",
            "dirty-bytes": self._contents.dirty_bytes(),
            "changes": len(self._journal),
            "log-bytes": self._undo_log.size(),
        }

    # -- cutting ---------------------------------------------------------------------------

    async def cut(self, seed: int | None, *, dry_run: bool) -> Mapping[str, Any]:
        """Cut it, as *seed* has it; returns what is lost, or with *dry_run* would be.

        Raises `ThrottlefsError`.
        """
        if seed is None:
            seed = secrets.randbelow(1 << 63)
        async with self._busy:
            if self._is_off:
                raise ThrottlefsError(
                    f"the power of {self._target} is off already;"
                    f" switch it on with: throttlefs power-on {self._target}"
                )
            if dry_run:
                cut = self._draw(seed)
                await self._prepare(cut, link=False)
                return cut.report(seed, dry_run=True)
            return await self._cut(seed)

    async def _cut(self, seed: int) -> Mapping[str, Any]:
        assert self._gate is not None
        self._gate.shut()
        await self._end_requests()
        cut = self._draw(seed)
        try:
            await self._prepare(cut, link=True)
            report = dict(cut.report(seed, dry_run=False))
            gone = cut.gone()
            resized = [(one.key, one.size) for one in cut.restores.values() if one.size is not None]
            self._unfinished = await self._begin(cut)
        except ThrottlefsError:
            await self._drop_links()
            raise
        del cut  # of 10 GiB it is large
        failed = await self._finish()
        report["not-rolled-back"] = [*report["not-rolled-back"], *failed]
        for key, size in resized:
            self._operations.file_resized(key, size)
        for key in gone:
            self._file_removed(key)
        return report

    async def _begin(self, cut: Cut) -> CutPlan:
        """Write down what is to be done: from then on it will be."""
        plan, pieces = cut.plan(self._log_name())
        plan_files = PlanFiles(self._stash.fd)
        try:
            await self._in_thread(plan_files.write, plan, pieces)
            await self._in_thread(self._undo_log.make_next)
            await self._in_thread(self._undo_log.give_name, os.fsencode(plan.log))
            await self._in_thread(plan_files.begin)
        except OSError as exc:
            await self._in_thread(plan_files.remove_rest)
            raise ThrottlefsError(
                f"the power is off, but nothing was rolled back: the plan of the cut cannot be"
                f" written ({exc.strerror}); switch it on again with: throttlefs power-on"
                f" {self._target}"
            ) from None
        return plan

    async def _drop_links(self) -> None:
        """Take back the links in the hidden directory of a cut that has not begun.

        They have changed files, and the next cut must not take that for a change by others.
        """
        self._stash.unclaim_all()
        keys = [*self._stash.keys]
        for key in keys:
            if not self._journal.needs(key):
                self._hold_open(key)
        await self._in_thread(self._drop, keys)
        for key in keys:
            self._in_use.touched(key)

    def _draw(self, seed: int) -> Cut:
        return Cut(
            *(self._journal, self._contents, self._in_use, self._stash, self._inodes),
            self._root_fd,
            random.Random(seed),
        )

    async def _prepare(self, cut: Cut, *, link: bool) -> None:
        try:
            await cut.prepare(self._in_thread, link=link)
        except OSError as exc:
            then = "; switch the power on again with: throttlefs power-on " + self._target
            raise ThrottlefsError(
                f"SRC cannot be rolled back: {exc.strerror}{then if link else ''}"
            ) from None

    def _log_name(self) -> str:
        name = f".throttlefs-undo-{os.getpid()}-{secrets.token_hex(8)}"
        return os.path.join(self._undo_log.directory, name)

    async def _end_requests(self) -> None:
        """Withdraw what waits, and wait for what is in the backing."""
        loop = self._loop
        while loop is not None and loop.waiting:
            loop.withdraw_all(errno.EIO)
            await trio.sleep(_LOOK_AGAIN_S)
        await self._files.idle()

    async def _finish(self) -> list[str]:
        """Do what the plan says, from wherever it has come to; returns what could not be done."""
        plan = self._unfinished
        assert plan is not None
        try:
            failed = await self._in_thread(do, plan, self._root_fd, self._stash)
        except OSError as exc:
            raise ThrottlefsError(
                f"the power is off, and SRC is rolled back in part: {exc.strerror};"
                f" mend that, and go on with: throttlefs power-on {self._target}"
            ) from None
        self._unfinished = None
        await self._in_thread(self._stash.sweep)
        await self._in_thread(self._undo_log.begin_anew)
        self._files.begin_anew()
        self._journal.commit_all()
        self._journal.freed()
        await self._let_go_of([])
        await self._files.let_go()
        self._new_generation()
        await self._drop_pages()
        return [not_done(step) for step in failed]

    async def _drop_pages(self) -> None:
        """Have the kernel forget the pages and attributes of all files."""
        numbers = [inode.number for inode in self._inodes.all()]
        if self._fuse_fd >= 0:
            with trio.move_on_after(_DROP_WITHIN_S):
                await trio.to_thread.run_sync(
                    drop_pages, os.dup(self._fuse_fd), numbers, abandon_on_cancel=True
                )

    # -- and on again ----------------------------------------------------------------------

    async def power_on(self) -> None:
        """Serve again. Raises `ThrottlefsError`."""
        async with self._busy:
            if not self._is_off or self._gate is None:
                raise ThrottlefsError(
                    f"the power of {self._target} is on;"
                    f" cut it with: throttlefs power-cut {self._target}"
                )
            if self._unfinished is not None:
                await self._finish()
            self._gate.open()

    async def sync(self) -> None:
        """Make everything durable that was answered before. Raises `ThrottlefsError`."""
        async with self._busy:  # a cut must not take back what is flushed meanwhile
            if self._is_off:
                raise ThrottlefsError(
                    f"the power of {self._target} is off;"
                    f" switch it on with: throttlefs power-on {self._target}"
                )
            upto = self._journal.newest
            try:
                await self._files.flush_all(self._flush)
            except OSError as exc:
                raise ThrottlefsError(f"SRC cannot be flushed: {exc.strerror}") from None
            self._journal.commit_all(upto)

    async def _flush(self) -> None:
        await self._in_thread(syscalls.syncfs, self._stash.fd)

    # -- what is durable -------------------------------------------------------------------

    def _look_again(self) -> None:
        self._news.set()

    async def run(self) -> None:
        """Let go of what no power cut can bring back any more; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news = trio.Event()
            async with self._busy:
                if not self._is_off:
                    await self._tidy()

    async def _tidy(self) -> None:
        freed = [key for key in self._journal.freed() if key in self._stash.keys]
        for start in range(0, len(freed), _AT_ONCE):
            await self._remove(freed[start : start + _AT_ONCE])
        if not len(self._journal):
            await self._let_go_of([])
        elif self._in_use.has_too_many():
            await self._let_go_of(self._journal.mentioned())
        await self._files.let_go()

    async def _remove(self, keys: list[FileKey]) -> None:
        """Take files out of the hidden directory; those without another name are gone then."""
        for key in await self._in_thread(self._without_name, keys):
            self._contents.forget(key)
            self._journal.forget(key)
            if self._inodes.find(key) is None:
                self._file_removed(key)
        for key in keys:
            self._hold_open(key)
        await self._in_thread(self._drop, keys)
        for key in keys:
            if self._contents.is_dirty(key):
                self._in_use.touched(key)

    def _hold_open(self, key: FileKey) -> None:
        """Give a file that the kernel knows a descriptor before it cannot be found any more."""
        inode = self._inodes.find(key)
        if inode is not None and inode.fd < 0:
            try:
                self._inodes.keep_hold(self._stash.open(key, os.O_PATH), self._stash.stat(key))
            except OSError:
                pass  # no descriptor is left, or it is gone already

    def _without_name(self, keys: list[FileKey]) -> list[FileKey]:
        found = []
        for key in keys:
            try:
                if self._stash.is_last_name(key):
                    found.append(key)
            except OSError as exc:
                log.warning("a removed file: %s", exc.strerror)
        return found

    def _drop(self, keys: list[FileKey]) -> None:
        for key in keys:
            try:
                self._stash.drop(key, self._journal.needs)
            except OSError as exc:
                log.warning("a removed file stays in SRC's hidden directory: %s", exc.strerror)

    async def _let_go_of(self, keys: Any) -> None:
        named, is_dirty = self._journal.files(), self._contents.is_dirty
        others = self._in_use.keep_only(keys, lambda key: key in named or is_dirty(key))
        if others:
            forget: Callable[[Any], Awaitable[None]] = self._operations.forget
            await forget([(inode.number, 1) for inode in others])

    def _forget_file(self, key: FileKey) -> None:
        """Note that a file without a name was closed: the next of its number is another."""
        self._contents.forget(key)
        self._journal.forget(key)
        self._file_removed(key)
