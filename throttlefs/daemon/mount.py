"""The life of a mount: it is set up, mounted, served, drained and unmounted."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pyfuse3
import trio

from throttlefs import FUSE_SUBTYPE
from throttlefs.backing import (
    BlockingPool,
    Engine,
    EngineUnavailableError,
    block_device,
    create_engine,
)
from throttlefs.control.commands import MountFacts
from throttlefs.control.service import Control
from throttlefs.device import Disk
from throttlefs.errors import ThrottlefsError, unwrapped
from throttlefs.fuse import privileges
from throttlefs.fuse.attributes import Presentation, attributes_of
from throttlefs.fuse.channel import Channel
from throttlefs.fuse.deleted import let_go_of_deleted
from throttlefs.fuse.handshake import Agreement, open_fuse_descriptors, shake_hands
from throttlefs.fuse.holes import KernelPages
from throttlefs.fuse.inodes import InodeTable
from throttlefs.fuse.limit_attributes import LimitAttributes
from throttlefs.fuse.loop import SessionLoop
from throttlefs.fuse.operations import Operations
from throttlefs.fuse.pyfuse3_server import for_pyfuse3
from throttlefs.host import fusectl, memory, runtime
from throttlefs.host.mountinfo import MountEntry, mounted_at
from throttlefs.policy.governor import Governor
from throttlefs.policy.loading import read_policy
from throttlefs.settings.cachemode import CacheMode
from throttlefs.settings.mountflags import as_strict_as
from throttlefs.settings.options import ascii_name, escape
from throttlefs.stats import Statistics
from throttlefs.throttle import ON_THE_WAY_NS, Throttle, TimerfdAlarm

from .drain import HANDLED_SIGNALS, Drain
from .environment import check_environment, raise_descriptor_limit
from .failing import FailingDevice
from .fault_log import FaultLog, opened_fault_log
from .features import features_of, listed
from .request import MountRequest
from .sharing import make_cluster
from .volatile import Reserve, VolatileDisk, reserved

if TYPE_CHECKING:
    from .metrics_server import MetricsServer

log = logging.getLogger("throttlefs")

_MOST_WRITE_BACKS = 1000
"""Threads in which SEEK_DATA and SEEK_HOLE may wait for a write-back: one for each file."""

_MAX_REQUESTS = 10_000
"""The most requests under way at once; most of them wait for their limit."""


def serve_mount(request: MountRequest, ready: Callable[[], None]) -> int:
    """Mount and serve until the mount is gone; calls *ready* once DST is usable.

    Returns the exit status. Raises `ThrottlefsError` if it cannot be mounted; nothing is left
    mounted then.
    """
    check_environment(request.options)
    policy = read_policy(request.options)
    memory.keep_buffers()
    memory.collect_in_steps()
    privileges.lay_down()
    os.umask(0)  # modes come from the callers, with their own umask
    max_descriptors = raise_descriptor_limit()
    with ExitStack() as stack:
        paths = request.paths
        owner = request.owner
        owner_fd = None if owner is None else owner.open_pidfd()
        if owner_fd is not None:
            stack.callback(os.close, owner_fd)
        try:
            root_fd = paths.open_source()
            size = block_device.device_size(root_fd, stack)
        except OSError as exc:
            raise ThrottlefsError(f"SRC {paths.source}: {exc.strerror}") from None
        root_name = os.fsencode(os.path.basename(paths.source)) if paths.is_file else b""
        inodes = InodeTable(root_fd, max_descriptors, root_name)
        stack.callback(inodes.close)
        reserve = stack.enter_context(reserved(paths, root_fd, request.options))
        alarm = TimerfdAlarm()
        stack.callback(alarm.close)
        try:
            engine = create_engine(request.options.engine, log)  # type: ignore[arg-type]
        except EngineUnavailableError as exc:
            raise ThrottlefsError(f"{exc}; leave out -o engine=uring") from None
        stack.callback(engine.close)
        governor = Governor(Throttle(alarm=alarm, new_model=Disk, early_ns=ON_THE_WAY_NS), policy)
        fault_log = stack.enter_context(opened_fault_log(request.options.fault_log))
        timeouts = (request.options.attr_timeout, request.options.entry_timeout)
        presentation = Presentation(*timeouts, size)
        mount = _Mount(request, inodes, governor, engine, presentation, fault_log, reserve)
        stack.callback(mount.close_sockets)
        mount.open_sockets()
        # Signals wait until the handlers are there. Otherwise a signal would leave a dead mount
        # behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)
        mount.attach()
        try:
            return trio.run(mount.serve, ready, owner_fd, strict_exception_groups=True)
        except BaseExceptionGroup as group:
            raise unwrapped(group) from None
        finally:
            mount.detach()


class _Mount:
    """The mounted session with everything that serves it."""

    def __init__(
        self,
        request: MountRequest,
        inodes: InodeTable,
        governor: Governor,
        engine: Engine,
        presentation: Presentation,
        fault_log: FaultLog | None,
        reserve: Reserve | None,
    ) -> None:
        options = request.options
        self._request = request
        self._inodes = inodes
        self._governor = governor
        self._throttle = governor.throttle
        self._engine = engine
        self._pool = BlockingPool()
        self._write_backs = BlockingPool(name="write back", at_most=_MOST_WRITE_BACKS)
        self._kernel_pages = KernelPages(self._write_backs.run)
        self._started = trio.Event()
        self._reloading = trio.Lock()
        cache = CacheMode(options.cache)
        paths = request.paths
        facts = MountFacts(paths.source, paths.target, options.read_only, cache)
        statistics = Statistics()
        self._failing = FailingDevice(governor, inodes, self._pool.run, fault_log, options)
        self._volatile: VolatileDisk | None = None
        if reserve is not None:
            self._volatile = VolatileDisk(
                *(reserve, paths, options, inodes, presentation, engine, self._pool.run)
            )
        self._control = Control(
            facts,
            inodes,
            governor,
            statistics,
            self._restore_policy,
            self._counts,
            lambda: features_of(self._agreement, request.options.auto_cache),
            self._failing,
            make_cluster(self._throttle, governor.policy.stores()),
            None if self._volatile is None else self._volatile.power,
        )
        self._metrics: MetricsServer | None = None
        self._operations = Operations(
            inodes,
            self._volatile.attributes
            if self._volatile
            else attributes_of(options.server, presentation),
            LimitAttributes(inodes, self._control.tuner),
            governor,
            statistics,
            engine,
            self._pool.run,
            self._kernel_pages,
            cache=cache,
            auto_cache=options.auto_cache,
            noatime=options.noatime,
            nodiratime=options.nodiratime,
            source=request.paths.source,
            covers_source=request.paths.source == request.paths.target,
            max_inflight=options.max_inflight,
            discard_costs_bytes=options.discard == "bytes",
            on_init=self._handshake_began,
            threads_are_stuck=self._pool.has_stuck_call,
        )
        if self._volatile is not None:
            self._volatile.attach(self._operations)
        self._failing.attach(self._operations, self._control.server.broadcast)
        if self._volatile is not None:
            self._volatile.power.guard()
        self._libfuse_fd = -1
        self._agreement = Agreement()
        self._loop: SessionLoop | None = None
        self._entry: MountEntry | None = None
        self._drain = Drain(
            paths.target,
            self._failing,
            self._restore_policy,
            lambda: self._control.quit_asked,
        )

    # -- tuning and watching ---------------------------------------------------------------

    def open_sockets(self) -> None:
        """Open the sockets of --qmp and metrics=. Raises `ThrottlefsError` if that fails."""
        if self._request.qmp is not None:
            self._control.server.listen(self._request.qmp)
        address = self._request.options.metrics
        if address is not None:
            from .metrics_server import MetricsServer

            self._metrics = MetricsServer(address)

    def close_sockets(self) -> None:
        """Close them all."""
        self._control.server.close()
        if self._metrics is not None:
            self._metrics.close()

    def _counts(self) -> dict[str, int | None]:
        """Counts of what the daemon holds. pyfuse3's own loop does not count its requests."""
        waiting = None if self._loop is None else self._loop.waiting
        return {**self._operations.counts(), "requests": waiting}

    def _serve_sockets(self, nursery: trio.Nursery) -> None:
        if self._entry is not None:
            # The kernel has given us the number in its name. The mount that had it before may be
            # gone while its daemon has not yet closed its socket.
            self._control.server.listen(
                runtime.socket_path(self._request.state, self._entry), take_over=True
            )
        nursery.start_soon(self._control.server.run)
        nursery.start_soon(self._control.cluster.run)
        if self._metrics is not None:
            from .metrics import metrics_of

            metrics = metrics_of(self._control, self._throttle, self._request.paths)
            nursery.start_soon(self._metrics.run, metrics.text)

    # -- mounting --------------------------------------------------------------------------

    def attach(self) -> None:
        """Mount the session. Raises `ThrottlefsError` with the message of libfuse."""
        source = self._request.options.fsname or self._request.paths.source
        options = [
            f"fsname={escape(ascii_name(source))}",
            f"subtype={FUSE_SUBTYPE}",
            *as_strict_as(self._inodes.root.fd, self._request.options.fuse_options()),
        ]
        target = self._request.paths.target
        with ExitStack() as stack:
            by_fusermount = os.geteuid() != 0 or self._request.options.auto_unmount
            # fusermount3 cannot use our descriptor: it takes the path, for root without a check.
            point = target if by_fusermount else self._request.paths.pinned_target(stack)
            said = stack.enter_context(tempfile.TemporaryFile())
            saved = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                before = open_fuse_descriptors()
                pyfuse3.init(for_pyfuse3(self._operations), point, options)  # type: ignore[arg-type]
                (self._libfuse_fd,) = open_fuse_descriptors() - before
                self._failing.faults.use_descriptor(self._libfuse_fd)
            except RuntimeError:
                said.seek(0)
                lines = said.read().decode(errors="replace").strip().splitlines()
                detail = lines[-1].replace(point, target) if lines else "libfuse gave no reason"
                raise ThrottlefsError(f"cannot mount on {target}: {detail}") from None
            finally:
                os.dup2(saved, 2)
                os.close(saved)
        # From mountinfo, because a stat of our own mount would wait for ourselves.
        self._entry = mounted_at(os.fsencode(target))

    def detach(self) -> None:
        """Free the session; unmount too if serving ended before the mount did."""
        if self._entry is not None:
            runtime.remove_record(self._request.state, self._entry)
        pyfuse3.close(unmount=False)
        self._operations.close()
        if self._volatile is not None:
            self._volatile.end()
        self._drain.clear_away()

    # -- serving ---------------------------------------------------------------------------

    async def serve(self, ready: Callable[[], None], owner_fd: int | None) -> int:
        """Serve until the mount is gone; returns the exit status.

        *owner_fd* is a pidfd of the mount's owner, if it has one.
        """
        owner = self._request.owner
        async with trio.open_nursery() as nursery:
            self._drain.watch(self._entry, nursery.cancel_scope.cancel)
            if owner is not None and owner_fd is not None:
                nursery.start_soon(self._drain.end_with, owner.pid, owner_fd)
            nursery.start_soon(self._announce, ready, nursery)
            await nursery.start(self._drain.handle_signals)
            nursery.start_soon(self._failing.run)
            if self._volatile is not None:
                nursery.start_soon(self._volatile.power.run)
            await self._serve_session(nursery)
            self._drain.session_ended()
            await self._control.announce_end(self._drain.draining)
            nursery.cancel_scope.cancel()
        log.info("unmounted %s", self._request.paths.target)
        return self._drain.status

    async def _serve_session(self, nursery: trio.Nursery) -> None:
        if self._request.options.server == "pyfuse3":
            nursery.start_soon(self._throttle.dispatcher.run)
            nursery.start_soon(self._engine.run)
            await pyfuse3.main(max_tasks=_MAX_REQUESTS)
            return
        fd = os.dup(self._libfuse_fd)
        # Between epoll and read the client may be killed and its request withdrawn. A blocking read
        # would then freeze the whole loop.
        os.set_blocking(fd, False)
        loop = SessionLoop(
            self._throttle.dispatcher,
            (self._engine, self._pool, self._write_backs),
            self._operations.has_room,
            self._failing.open_gates,
            threads_work=self._pool.is_at_work,
        )
        self._loop = loop
        try:
            wants_mmap = not self._request.options.no_mmap
            self._agreement = agreement = await shake_hands(self._libfuse_fd, fd, wants_mmap)
            self._operations.agreed(agreement)
            self._kernel_pages.fd = fd
            channel = Channel(
                fd,
                self._operations,
                loop.start,
                loop.interrupts,
                max_write=agreement.max_write,
                has_long_setxattr=agreement.has_long_setxattr,
            )
            self._failing.faults.caller_pid = channel.caller_pid
            if self._volatile is not None:
                self._volatile.power.serve(loop, fd)
            self._started.set()
            await loop.serve(channel)
        finally:
            loop.close()
            self._kernel_pages.fd = -1
            os.close(fd)

    def _handshake_began(self) -> None:
        """Note that INIT has come. Our own server notes itself when the reply is sent."""
        if self._request.options.server == "pyfuse3":
            self._started.set()

    async def _announce(self, ready: Callable[[], None], nursery: trio.Nursery) -> None:
        await self._started.wait()
        await trio.lowlevel.checkpoint()  # the reply to FUSE_INIT goes out first
        paths = self._request.paths
        if self._entry is not None:
            fusectl.raise_queue_limits(self._entry, self._request.options.max_background)
        self._serve_sockets(nursery)
        nursery.start_soon(let_go_of_deleted, self._inodes, self._operations.close_descriptor)
        if self._entry is not None:
            owner = self._request.owner
            runtime.write_record(
                self._request.state,
                self._entry,
                paths.source,
                paths.target,
                (0, 0) if owner is None else (owner.pid, owner.start_time),
            )
        fusectl.warn_of_request_timeouts()
        log.info("mounted %s on %s", paths.source, paths.target)
        features = features_of(self._agreement, self._request.options.auto_cache)
        log.info("this mount has %s", listed(features))
        ready()

    # -- the limits ------------------------------------------------------------------------

    async def _restore_policy(self) -> None:
        """Restore the limits of ``-o`` and of the config file as it is now.

        Raises `ThrottlefsError` if the file cannot be used; nothing has changed then.
        """
        # In a thread, because the file may be on this very mount, or on one that does not answer.
        async with self._reloading:
            policy = await trio.to_thread.run_sync(
                read_policy, self._request.options, abandon_on_cancel=True
            )
            self._failing.reload(policy)
        log.info("reloaded the limits")
