"""The fault rules of a mount: those of the config file and live ones, and who hears of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import trio

from throttlefs.control.device_names import device_name
from throttlefs.device.faults import Rule
from throttlefs.fuse.faulty_names import let_faults_happen
from throttlefs.fuse.in_thread import RunInThread
from throttlefs.fuse.injector import Injector
from throttlefs.fuse.inode import Inode
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.notify import drop_pages
from throttlefs.fuse.operations import Operations
from throttlefs.policy.loading import check_waits
from throttlefs.settings.fault_words import Op
from throttlefs.settings.faults import Fault

from .fault_log import FaultLog

_AT_A_TIME: Final = 100
"""How many inodes are looked at before other tasks get a turn."""

_DROP_WITHIN_S: Final = 5.0
"""A read that hangs keeps its page, so the file's pages cannot be dropped before it ends."""

_MOST_DROPS: Final = 16
"""How many threads drop pages; those that wait for a read that hangs are given up, and go on."""


class MountFaults:
    """The fault rules of a mount. *log* is the file of ``fault_log``, if it was given.

    With *auto_cache* the kernel keeps pages of every file, else of mapped ones alone. A read from
    there asks nobody, so pages are dropped whenever rules for reads come or go.
    """

    def __init__(
        self,
        inodes: InodeTable,
        in_thread: RunInThread,
        log: FaultLog | None,
        auto_cache: bool,
    ) -> None:
        self._inodes = inodes
        self._log = log
        self._auto_cache = auto_cache
        self._clock = time.monotonic_ns
        self._injector = Injector(in_thread, self._tell, self._arm, self._clock)
        self._injector.period_changed_hook = self._period_changed
        self._operations: Operations | None = None
        self._fuse_fd = -1
        self._drops = trio.CapacityLimiter(_MOST_DROPS)
        self._mounted_at = self._clock()
        self._of_file: list[tuple[Fault, int]] = []  # the config file's, with their numbers
        self._news = trio.Event()
        self.announce: Callable[[Mapping[str, Any]], None] = lambda _: None
        """Called with each firing."""
        self.caller_pid: Callable[[], int] | None = None
        """Tells which process has made the request that is being begun with."""

    def attach(self, operations: Operations) -> None:
        """Let rules happen to the requests that *operations* serves."""
        self._operations = operations
        let_faults_happen(operations, self._inodes)
        self._arm(bool(self.rules()))

    def use_descriptor(self, fd: int) -> None:
        """Tell the kernel through *fd*, a FUSE descriptor, which pages to drop."""
        self._fuse_fd = fd

    async def run(self) -> None:
        """Let requests go on when their time has come; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._injector.parking.run)
            nursery.start_soon(self._drop_pages_at_changes)
            if self._log is not None:
                nursery.start_soon(self._log.run)

    # -- rules -----------------------------------------------------------------------------

    def rules(self) -> Sequence[Rule]:
        """All rules in their order."""
        return self._injector.table.rules()

    def is_on(self, rule: Rule) -> bool:
        """Whether its period, if it has one, holds now."""
        return rule.is_on(self._clock())

    def waiting(self, number: int) -> int:
        """How many requests wait in the rule *number*."""
        return self._injector.parking.waiting(number)

    async def add(self, fault: Fault) -> Rule:
        """Add a rule, which holds when this returns. Raises `ThrottlefsError`.

        Its times count from now.
        """
        check_waits([fault])
        rule = self._injector.add(fault)
        await self.drop_pages([rule])
        return rule

    def add_all(self, faults: Sequence[Fault], origin: int) -> Sequence[Rule]:
        """Add rules whose times count from *origin* (ns, monotonic). Raises `ThrottlefsError`.

        They hold for all reads after `drop_pages`.
        """
        check_waits(faults)
        return [self._injector.add(fault, origin) for fault in faults]

    async def remove(self, numbers: Sequence[int]) -> None:
        """Remove rules. Raises `NoSuchRuleError` if one is missing; none is removed then."""
        table = self._injector.table
        rules = [table.get(number) for number in numbers]
        for number in numbers:
            self._injector.remove(number)
        await self.drop_pages(rules)

    def use_file(self, faults: Iterable[Fault], others: Collection[int] = ()) -> None:
        """Have the rules of the config file, and those whose numbers are *others*, alone.

        If those of the file are what they were, they go on.
        """
        wanted = list(faults)
        known = {rule.number for rule in self.rules()}
        same = [fault for fault, _ in self._of_file] == wanted
        kept = {number for _, number in self._of_file} if same else set()
        if not kept <= known:
            kept = set()
        for number in known - kept - set(others):
            self._injector.remove(number)
        if not kept:
            rules = [self._injector.add(fault, self._mounted_at) for fault in wanted]
            self._of_file = [(rule.fault, rule.number) for rule in rules]
        self._news.set()

    # -- the end of the mount --------------------------------------------------------------

    def open_gates(self) -> None:
        """Let nothing wait: what is delayed goes on, what hangs gets EIO."""
        self._injector.parking.open_gates()

    def close_gates(self) -> None:
        """Let requests wait again."""
        self._injector.parking.close_gates()

    # -- what happens ----------------------------------------------------------------------

    def _arm(self, armed: bool) -> None:
        if self._operations is not None:
            self._operations.injector = self._injector if armed else None

    def _tell(self, record: Mapping[str, Any]) -> None:
        record = {
            key: device_name(value) if isinstance(value, bytes) else value
            for key, value in record.items()
        }
        self.announce(record)
        if self._log is not None:
            now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="microseconds")
            pid = {} if self.caller_pid is None else {"pid": self.caller_pid()}
            self._log.add({**record, "time": now, **pid})

    # -- the kernel's cache ----------------------------------------------------------------

    def _period_changed(self) -> None:
        self._news.set()

    async def _drop_pages_at_changes(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self.drop_pages(self.rules())

    async def drop_pages(self, rules: Iterable[Rule]) -> None:
        """Drop the pages of all files that *rules* are for, so that reads ask the daemon.

        Nothing is dropped while too many threads wait for reads that hang.
        """
        rules = [rule for rule in rules if rule.fault.ops & Op.READ]
        if not rules or self._fuse_fd < 0 or self._operations is None:
            return
        inodes = self._inodes.all() if self._auto_cache else self._operations.open_inodes()
        numbers = []
        for number, inode in enumerate(inodes, 1):
            if _is_for(inode, rules):
                numbers.append(inode.number)
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        if self._drops.available_tokens < 1:
            return
        with trio.move_on_after(_DROP_WITHIN_S):
            await trio.to_thread.run_sync(
                drop_pages,
                os.dup(self._fuse_fd),
                numbers,
                abandon_on_cancel=True,
                limiter=self._drops,
            )


def _is_for(inode: Inode, rules: Iterable[Rule]) -> bool:
    path = inode.path.decode("utf-8", "surrogateescape")
    return any(rule.takes(path) for rule in rules)
