"""Decides from what /proc shows whether a thread or its process is dying.

Pure. A signal that a program handles, or that stops it, or that a debugger takes, must change
nothing: so only what cannot be called off is a proof. All else says no.
"""

from __future__ import annotations

from signal import Signals
from typing import Final

from .tasks import Task

_SIGKILL: Final = 1 << (Signals.SIGKILL - 1)

_DUMPING: Final = sum(
    1 << (number - 1)
    for number in (
        Signals.SIGQUIT,
        Signals.SIGILL,
        Signals.SIGTRAP,
        Signals.SIGABRT,
        Signals.SIGBUS,
        Signals.SIGFPE,
        Signals.SIGSEGV,
        Signals.SIGXCPU,
        Signals.SIGXFSZ,
        Signals.SIGSYS,
    )
)
"""The signals that dump core unless something else is said (signal(7))."""


def process_is_dying(leader: Task) -> bool:
    """Whether the process whose first thread is *leader* dies of a signal.

    SIGKILL stays pending until the process is gone. Another fatal signal shows when the process
    exits: its last thread may then wait for the end of its asynchronous requests. A process that
    exits by itself lets these complete, so that it exits is no proof.

    The first thread's own signals say nothing: execve(2) of another thread kills it as well, and
    the process goes on.
    """
    return bool(leader.group_pending & _SIGKILL) or (leader.exits and leader.exit_signal != 0)


def waiting_thread_is_dying(thread: Task) -> bool:
    """Whether *thread*, whose request was interrupted, dies as soon as that is answered.

    For most fatal signals the kernel adds SIGKILL to each thread at once (``complete_signal``).
    For one that dumps core it does not: that is pending until a thread takes it.
    """
    pending = thread.pending | thread.group_pending
    if pending & _SIGKILL:
        return True
    if thread.traced:
        return False  # the debugger may take it
    return bool(pending & _DUMPING & ~(thread.blocked | thread.ignored | thread.caught))
