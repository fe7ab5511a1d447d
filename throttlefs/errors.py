"""The errors that the command line turns into one line and an exit status."""

from __future__ import annotations


class ThrottlefsError(Exception):
    """Something went wrong that the user can mend; its text names the thing and the cure."""

    exit_status = 1


class UsageError(ThrottlefsError):
    """The command was given wrongly."""

    exit_status = 2


def unwrapped(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception that *group* holds, at whatever depth; of several the group itself.

    What one of trio's tasks raises comes wrapped, once for each nursery on its way.
    """
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        if len(error.exceptions) > 1:
            return group
        error = error.exceptions[0]
    return error
