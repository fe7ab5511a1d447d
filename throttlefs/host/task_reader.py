"""Reads of /proc what owners of waiting requests do, in threads of its own.

To read a process's status is to hold its memory for a moment. If the process exits just then, we
drop the last reference to that memory, and the end of its asynchronous requests (``exit_aio``) is
waited for in *our* thread. These requests may wait for us. So no thread reads /proc that serves
requests. A thread that is stuck that way is replaced.

Nor may such a thread keep a mount alive: it cannot be killed. If the daemon is killed, the kernel
closes its FUSE descriptor, and so ends all requests, when no thread has it any more. So these
threads have a table of descriptors of their own (close_range(2)), with nothing of ours in it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from queue import SimpleQueue
from typing import Final, NamedTuple

from .departed import Departed
from .namespaces import proc_shows_own_ids
from .syscalls import keep_only
from .tasks import Task, process_of, read_task

_MOST_THREADS: Final = 8

_STUCK_AFTER_S: Final = 0.3


class Look(NamedTuple):
    """A question: what do *thread* and its process do?

    *group* is its process if that is known, else 0. *asked* is the instant of the question, in ns
    since boot.
    """

    thread: int
    group: int
    asked: int


class Sight(NamedTuple):
    """The answer: *thread*, and the first thread of its process; None for what is gone.

    If a process is gone of which it is known how it ended, *leader* is what it was then.
    """

    look: Look
    thread: Task | None
    leader: Task | None


def take_look(look: Look, departed: Departed) -> Sight:
    """Read /proc for *look*."""
    thread = read_task(look.thread)
    group = look.group if thread is None else thread.group
    if thread is not None and group == thread.number:
        leader: Task | None = thread
    else:
        leader = read_task(group) if group else None
    if leader is not None:
        departed.remember(leader)
    elif thread is None:
        leader = departed.take(group)
    return Sight(look, thread, leader)


class TaskReader:
    """Answers looks in the order they come. All but its threads' work belongs to one loop."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Look | None] = SimpleQueue()
        self._answers: deque[Sight] = deque()
        self._threads = 0
        self._asked_count = 0
        self._answered_count = 0
        self._progress = 0.0  # s: when something was last asked of idle threads, or answered
        self._event_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    @staticmethod
    def is_usable() -> bool:
        """Whether /proc is there and has the ids of our own PID namespace."""
        try:
            return proc_shows_own_ids()
        except OSError:
            return False

    def fileno(self) -> int:
        """A descriptor that becomes readable when there are answers."""
        return self._event_fd

    def start(self) -> None:
        """Start a thread, so that the first look is not late; if that fails, a look tries again."""
        try:
            threading.Thread(target=self._work, name="owners", daemon=True).start()
        except RuntimeError:  # there are too many threads
            return
        self._threads += 1

    def ask(self, look: Look) -> None:
        """Have *look* answered some time.

        Whose thread it is, is found out at once: the thread may be gone when its turn comes.
        """
        if not look.group:
            look = look._replace(group=process_of(look.thread))
        now = time.monotonic()
        if self._asked_count == self._answered_count:
            self._progress = now
        stuck = now - self._progress > _STUCK_AFTER_S
        if not self._threads or (stuck and self._threads < _MOST_THREADS):
            self._progress = now
            self.start()
        self._asked_count += 1
        self._asked.put(look)

    def ring(self) -> None:
        """Let the descriptor become readable although there is no answer."""
        os.eventfd_write(self._event_fd, 1)

    def answers(self) -> list[Sight]:
        """All answers since the last call."""
        try:
            os.eventfd_read(self._event_fd)
        except BlockingIOError:
            pass
        found = []
        while self._answers:
            found.append(self._answers.popleft())
        if found:
            self._answered_count += len(found)
            self._progress = time.monotonic()
        return found

    def close(self) -> None:
        """Let the threads end, without waiting for one that is stuck."""
        for _ in range(self._threads):
            self._asked.put(None)
        if self._asked_count == self._answered_count:
            os.close(self._event_fd)

    def _work(self) -> None:
        keep_only(self._event_fd)
        departed = Departed()
        while (look := self._asked.get()) is not None:
            self._answers.append(take_look(look, departed))
            os.eventfd_write(self._event_fd, 1)
        departed.close()
