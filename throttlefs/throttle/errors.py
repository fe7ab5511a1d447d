"""The errors of calls of the limiter."""

from __future__ import annotations


class ThrottleError(ValueError):
    """A call that cannot be carried out; the message is one line. Nothing has changed."""


class UnknownGroupError(ThrottleError):
    """A group that does not exist."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no group {name!r}")
        self.name = name


class GroupExistsError(ThrottleError):
    """A group that exists already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"group {name!r} exists already")
        self.name = name


class GroupInUseError(ThrottleError):
    """A group that cannot be removed: it has members or is the default."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"group {name!r} is in use: {why}")
        self.name = name


class GroupCycleError(ThrottleError):
    """A group that would be above itself."""

    def __init__(self, name: str, parent: str) -> None:
        super().__init__(f"group {name!r} cannot have the parent {parent!r}: it is below it")
        self.name = name
        self.parent = parent
