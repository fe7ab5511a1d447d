"""The errors that the command line turns into one line and an exit status."""

from __future__ import annotations


class ThrottlefsError(Exception):
    """An error that the user can mend; its text names the thing and the cure."""

    exit_status = 1


class UsageError(ThrottlefsError):
    """The command was given wrongly."""

    exit_status = 2


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that *group* holds, at whatever depth; *group* itself if it holds several.

    trio wraps the exception of a task once for each nursery on its way.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) > 1:
            return group
        error = error.exceptions[0]
    return error
