"""The errors that the command line turns into one line and an exit status."""

from __future__ import annotations


class ThrottlefsError(Exception):
    """Something went wrong that the user can mend; its text names the thing and the cure."""

    exit_status = 1


class UsageError(ThrottlefsError):
    """The command was given wrongly."""

    exit_status = 2
