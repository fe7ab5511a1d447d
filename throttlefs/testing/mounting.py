"""`mounted`: a slow disk for as long as a block runs."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host.daemons import Daemon, find_daemon
from throttlefs.host.mountinfo import MountEntry, mounted_at
from throttlefs.host.owner import this_process
from throttlefs.host.runtime import process_start_time, read_record
from throttlefs.host.temporary import temporary_target
from throttlefs.host.unmounting import end_at_any_rate

from .command import run_command
from .disk import Disk, StrPath
from .options import Option, option_string

if TYPE_CHECKING:
    from .async_disk import AsyncDisk

log = logging.getLogger("throttlefs")

_SEEN_OFF_WITHIN_S = 10.0


def mounted(
    source: StrPath,
    target: StrPath | None = None,
    /,
    *,
    log_file: StrPath | None = None,
    qmp: str | None = None,
    **options: Option,
) -> Mounting:
    """Show the files of *source* at *target*, held to limits, while a ``with`` block runs.

    *source* and *target* are two directories or two files, as for ``throttlefs mount``. Without
    *target* there is a temporary one. *options* are those of ``-o``: ``bps="1M"``, ``iops=100``,
    ``allow_other=True``. *log_file* gets the daemon's log; *qmp* is one more control socket
    (``unix:PATH``).

    ``with`` gives a `Disk`; ``async with``, in trio, an `AsyncDisk`. The block raises
    `ThrottlefsError` with the command's one line if it cannot be mounted, and `UsageError` for an
    option that is wrong. At the end of the block what still uses the disk has a second to close
    it; then it is cut off, and a warning is logged that names it. The disk also ends with this
    process.
    """
    return Mounting(source, target, log_file, qmp, options)


class Mounting:
    """A disk that is mounted while a ``with`` block runs; made by `mounted`."""

    def __init__(
        self,
        source: StrPath,
        target: StrPath | None,
        log_file: StrPath | None,
        qmp: str | None,
        options: dict[str, Option],
        defaults: str = "",
    ) -> None:
        self._source = os.path.abspath(source)
        self._target = None if target is None else os.path.realpath(target)
        self._arguments: list[str] = []
        if log_file is not None:
            self._arguments += ["--log-file", os.path.abspath(log_file)]
        if qmp is not None:
            self._arguments += ["--qmp", qmp]
        self._options = options
        self._defaults = defaults
        self._process = 0
        self._end: ExitStack | None = None

    @property
    def options_text(self) -> str:
        """What ``-o`` gets; of two values for one option the later holds. Raises `UsageError`."""
        return ",".join(filter(None, (self._defaults, option_string(self._options))))

    # -- with ------------------------------------------------------------------------------

    def __enter__(self) -> Disk:
        if self._end is not None:
            raise UsageError("this disk is mounted already; call throttlefs.mounted for another")
        with ExitStack() as stack:
            target = self._target or stack.enter_context(temporary_target(self._source))
            disk = self._mount(target, stack)
            self._process = os.getpid()
            self._end = stack.pop_all()
        return disk

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end, self._end = self._end, None
        # A child that was forked in the block leaves it, too, and it is not the child's.
        if end is not None and self._process == os.getpid():
            end.close()

    def _mount(self, target: str, stack: ExitStack) -> Disk:
        """Mount on *target*, and let *stack* end that. Raises `ThrottlefsError`."""
        options = self.options_text
        stack.callback(_clear_away, target, mounted_at(os.fsencode(target)))
        run_command(
            *("mount", *self._arguments, "--end-with", str(this_process())),
            *(("-o", options) if options else ()),
            *("--", self._source, target),
        )
        mount = mounted_at(os.fsencode(target))
        daemon = None if mount is None else find_daemon(mount)
        if mount is None or daemon is None:
            raise ThrottlefsError(f"{target} has been unmounted by somebody else")
        stack.callback(_end, mount, daemon)
        return Disk(self._source, mount, daemon)

    # -- async with ------------------------------------------------------------------------

    async def __aenter__(self) -> AsyncDisk:
        _check_trio()
        import trio

        from .async_disk import AsyncDisk

        # Not to be abandoned: it would go on to mount with nobody there to unmount.
        return AsyncDisk(await trio.to_thread.run_sync(self.__enter__))

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        import trio

        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self.__exit__, exc_type, exc, traceback)


def _check_trio() -> None:
    """Raise `UsageError` outside of trio."""
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
            return
        except RuntimeError:
            pass
    raise UsageError(
        "async with throttlefs.mounted(...) needs trio, and this is another event loop;"
        " write with throttlefs.mounted(...): mounting and unmounting take a moment each"
    )


def _end(mount: MountEntry, daemon: Daemon) -> None:
    """End the mount, whoever uses it. Raises `ThrottlefsError` only if it cannot be unmounted."""
    point = os.fsdecode(mount.point)
    try:
        now = mounted_at(mount.point)
        if now is None or not now.shows_same_as(mount):
            daemon.has_ended(_SEEN_OFF_WITHIN_S)  # it was unmounted in the block
            return
        # A killed daemon has ended for its pidfd only when its last thread has.
        if process_start_time(daemon.pid) is None or daemon.has_ended():
            log.warning("the daemon of %s has died; its log says more (log_file=)", point)
        users = end_at_any_rate(now, daemon)
        if users is not None:
            log.warning("%s was still in use by %s: cut off", point, users)
    finally:
        daemon.close()


def _clear_away(target: str, before: MountEntry | None) -> None:
    """End what a mount that was interrupted has left at *target*, where *before* was mounted."""
    mount = mounted_at(os.fsencode(target))
    if mount is None or (before is not None and mount.shows_same_as(before)):
        return
    record = read_record(mount)
    if record is not None and record.owner_pid == os.getpid():
        end_at_any_rate(mount)
