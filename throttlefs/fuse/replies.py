"""The replies to requests that wait: what the loop does with the result of a coroutine."""

from __future__ import annotations

from typing import Any, Protocol

from throttlefs.backing import Data

from .errors import errno_of
from .table import Operation, Request


class Sender(Protocol):
    """Sends replies to the kernel: the channel."""

    def reply_data(self, unique: int, data: Data) -> None:
        """Reply with *data*."""

    def reply_written(self, unique: int, written: int) -> None:
        """Reply with the number of bytes written."""

    def reply_error(self, unique: int, number: int) -> None:
        """Reply with the errno *number*."""


class Reply(Protocol):
    """Sends the result of a coroutine to the kernel."""

    unique: int
    """The number of the request, which no other has."""
    owner: int
    """The thread that asked; 0 if it is not known, or if the request is not to be withdrawn."""

    def done(self, result: Any) -> None:
        """Reply with *result*."""

    def failed(self, error: Exception) -> None:
        """Reply with the errno of *error*."""


class ReadReply:
    """The reply to a READ that waits."""

    __slots__ = ("_channel", "owner", "unique")

    def __init__(self, channel: Sender, unique: int, owner: int) -> None:
        self._channel = channel
        self.unique = unique
        self.owner = owner

    def done(self, result: Data) -> None:
        """See `Reply.done`."""
        self._channel.reply_data(self.unique, result)

    def failed(self, error: Exception) -> None:
        """See `Reply.failed`."""
        self._channel.reply_error(self.unique, errno_of(error, "READ"))


class WriteReply:
    """The reply to a WRITE that waits."""

    __slots__ = ("_channel", "owner", "unique")

    def __init__(self, channel: Sender, unique: int, owner: int) -> None:
        self._channel = channel
        self.unique = unique
        self.owner = owner

    def done(self, result: int) -> None:
        """See `Reply.done`."""
        self._channel.reply_written(self.unique, result)

    def failed(self, error: Exception) -> None:
        """See `Reply.failed`."""
        self._channel.reply_error(self.unique, errno_of(error, "WRITE"))


class OperationReply:
    """The reply to a request of the table."""

    __slots__ = ("_channel", "_operation", "_request", "owner", "unique")

    def __init__(self, channel: Sender, operation: Operation, request: Request) -> None:
        self._channel = channel
        self._operation = operation
        self._request = request
        self.unique = request.unique
        self.owner = request.caller.pid

    def done(self, result: Any) -> None:
        """See `Reply.done`."""
        pack = self._operation.result
        if pack is None:
            return
        try:
            packed = pack(self._request, result)
        except Exception as exc:
            self.failed(exc)
            return
        self._channel.reply_data(self._request.unique, packed)

    def failed(self, error: Exception) -> None:
        """See `Reply.failed`."""
        number = errno_of(error, repr(self._request))
        if self._operation.result is not None:
            self._channel.reply_error(self._request.unique, number)
