"""``throttlefs run``: mounts for one command, and ends with it.

Its exit statuses are those of env(1): 125 if it fails itself, 126 and 127 if the command cannot be
started, else the command's. For a command that a signal has killed it is 128 + the signal, as a
shell has it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import click

from throttlefs.errors import ThrottlefsError, UsageError
from throttlefs.host.descriptors import beside_standard

from .control import MountPath
from .hints import MountOptionsCommand
from .mounting import MountCall, mount_options, start_in_background
from .text import message_text

if TYPE_CHECKING:
    from throttlefs.host.daemons import Daemon

_ENDS_WITHIN_S: Final = 10.0

_OWN_FAILURE: Final = 125
_CANNOT_START: Final = 126
_NOT_FOUND: Final = 127
_KILLED: Final = 128

MOUNT_VARIABLE: Final = "THROTTLEFS_MOUNT"
"""The environment variable that tells the command where the mount is."""

_PLACE: Final = "{}"
_COMMAND: Final = "throttlefs.run.command"  # in click's Context.meta

_FROM_KERNEL: Final = 0x80  # SI_KERNEL, sigaction(2)
_NOT_PASSED_ON: Final = {
    *(signal.SIGKILL, signal.SIGSTOP),  # cannot be caught
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),  # stop us beside the command
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
    *(signal.SIGPIPE, signal.SIGXFSZ, signal.SIGXCPU, signal.SIGABRT),  # are about ourselves
    *(signal.SIGCHLD, signal.SIGWINCH, signal.SIGURG),
}
_PASSED_ON: Final = signal.valid_signals() - _NOT_PASSED_ON


class _RunCommand(MountOptionsCommand):
    """``run``. What follows ``--`` is the command; its failures have statuses of their own."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before ``--``."""
        own, dashes, command = _split(args)
        ctx.meta[_COMMAND] = command
        try:
            rest = super().parse_args(ctx, own)
            if not command and not ctx.resilient_parsing:
                raise UsageError(
                    "the command is missing: it follows --, as in:"
                    " throttlefs run images/ -o bps=1M -- ls -l {}"
                    if not dashes
                    else "the command is missing after --"
                )
        except (ThrottlefsError, click.ClickException) as exc:
            raise _as_own_failure(exc) from None
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except (ThrottlefsError, click.ClickException) as exc:
            raise _as_own_failure(exc) from None

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The usage, with the command at its end."""
        return [*super().collect_usage_pieces(ctx), "-- CMD..."]


def _split(args: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    """*args* before the first ``--``, whether there is one, and what follows it."""
    if "--" not in args:
        return list(args), False, []
    place = list(args).index("--")
    return list(args[:place]), True, list(args[place + 1 :])


def _as_own_failure(error: Exception) -> Exception:
    if isinstance(error, click.ClickException):
        error.exit_code = _OWN_FAILURE  # type: ignore[misc]  # a plain attribute, read by main()
    elif isinstance(error, ThrottlefsError) and not isinstance(error, _CommandError):
        error.exit_status = _OWN_FAILURE
    return error


class _CommandError(ThrottlefsError):
    """The command could not be started."""

    def __init__(self, command: str, error: OSError) -> None:
        super().__init__(f"cannot run {command}: {error.strerror}")
        self.exit_status = _NOT_FOUND if isinstance(error, FileNotFoundError) else _CANNOT_START


@click.command(cls=_RunCommand, short_help="Mount SRC for one command.")
@click.argument("source", metavar="SRC", type=MountPath())
@click.argument("target", metavar="[DST]", required=False, type=MountPath())
@mount_options
@click.pass_context
def run(ctx: click.Context, /, source: str, target: str | None, **call: Any) -> None:
    """Mount SRC, run CMD, and end the mount; the exit status is CMD's.

    SRC is shown at DST. Without DST it is shown in a temporary place. Then {} stands for its path
    in arguments of CMD that are {} or begin with {}/. CMD finds the path in THROTTLEFS_MOUNT as
    well. The options are those of throttlefs mount.

    Signals go to CMD. When CMD has ended, what still uses the mount has a second to close it. The
    exit status is 125 if throttlefs fails, 126 if CMD cannot be started, 127 if it is not found,
    and 128 + N if signal N killed it.

    \b
    Examples:
      throttlefs run images/ -o bps=1M -- cp {}/disk.img /tmp
      throttlefs run db/ slow/ -o iops=100 -- pytest --basetemp=slow/tmp
    """
    from_outside = beside_standard()  # nothing has been opened yet
    command = ctx.meta[_COMMAND]
    with ExitStack() as stack:
        if target is None:
            from throttlefs.host.temporary import temporary_target

            target = stack.enter_context(temporary_target(source))
            command = with_place(command, target)
        status = _run_mounted(source, target, MountCall(**call), command, from_outside)
    raise SystemExit(status)


def with_place(command: Sequence[str], target: str) -> list[str]:
    """*command* with *target* for ``{}``, and for the ``{}`` of what begins with ``{}/``."""
    return [
        target + word.removeprefix(_PLACE)
        if word == _PLACE or word.startswith(_PLACE + "/")
        else word
        for word in command
    ]


def _run_mounted(
    source: str, target: str, call: MountCall, command: list[str], from_outside: frozenset[int]
) -> int:
    from throttlefs.host.daemons import Daemon
    from throttlefs.host.owner import this_process

    request = call.prepare(source, target, this_process())
    pid = start_in_background(request, from_outside)
    point = request.paths.target
    daemon = Daemon(pid, os.pidfd_open(pid))  # our child: its id stays its own until we wait
    try:
        return run_command(command, {**os.environ, MOUNT_VARIABLE: point})
    finally:
        _end(point, daemon)


def _end(point: str, daemon: Daemon) -> None:
    """End the mount at *point*; what is to be said about that goes to stderr."""
    from throttlefs.host.mountinfo import mounted_at
    from throttlefs.host.unmounting import end_at_any_rate

    mount = mounted_at(os.fsencode(point))
    users = None
    if mount is not None:  # or the command has ended it
        try:
            users = end_at_any_rate(mount, daemon)
        except ThrottlefsError as exc:
            _say(str(exc))
    if users is not None:
        _say(f"{point} was still in use by {users}; it is detached, and what they do there fails")
    if daemon.has_ended(_ENDS_WITHIN_S) and os.waitpid(daemon.pid, 0)[1] != 0:
        _say(f"the daemon of {point} died while the command ran; --log-file FILE says more")
    daemon.close()


def _say(text: str) -> None:
    print(f"throttlefs: {message_text(text, ())}", file=sys.stderr)


def run_command(command: list[str], environment: Mapping[str, str]) -> int:
    """Run *command* to its end, pass signals on to it, and return its exit status.

    No signal that can be caught ends this process from then on: the caller has to clean up. A
    signal of the kernel is not passed on, because what a terminal sends (Ctrl-C) goes to the
    command, too. Raises `ThrottlefsError` if the command cannot be started.
    """
    awaited = _PASSED_ON | {signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        # Python ignores these two; a program expects their defaults.
        defaults = (signal.SIGPIPE, signal.SIGXFSZ)
        pid = os.posix_spawnp(command[0], command, environment, setsigmask=mask, setsigdef=defaults)
    except OSError as exc:
        raise _CommandError(command[0], exc) from None
    while True:
        info = signal.sigwaitinfo(awaited)
        if info.si_signo != signal.SIGCHLD:
            if info.si_code != _FROM_KERNEL:
                os.kill(pid, info.si_signo)
            continue
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else _KILLED - code
