"""QEMU's Machine Protocol as text: takes messages apart and makes answers, without any I/O.

It follows QEMU's ``docs/interop/qmp-spec.rst``. The server greets; the client negotiates with
``qmp_capabilities`` and then sends commands, each one JSON object. A command need not end in a
newline (``qemu.qmp`` sends none) and may span several lines, so commands are told apart by their
brackets. Input that is not JSON gets an error and is skipped to the end of its line.

A command has at most `MAX_REQUEST` bytes, `MAX_DEPTH` levels and `MAX_TOKENS` tokens, so that
nobody makes the mount wait for its parser. Text is read once, in the pieces in which it arrives.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from throttlefs import __version__
from throttlefs.errors import ThrottlefsError
from throttlefs.settings.units import printable

MAX_REQUEST: Final = 1 << 20
"""The longest command, in bytes."""

MAX_DEPTH: Final = 64
MAX_TOKENS: Final = 20_000
_LONGEST_WORD: Final = 400  # characters; no sensible number is longer

QEMU_VERSION: Final = {"major": 7, "minor": 2, "micro": 0}
"""The version of QEMU that this server follows; clients look at it."""


class QmpError(ThrottlefsError):
    """A command failed; `error_class` is one of QEMU's ``QapiErrorClass``."""

    def __init__(self, message: str, error_class: str = "GenericError") -> None:
        super().__init__(message)
        self.error_class = error_class


class DeviceNotFoundError(QmpError):
    """No image has that name; the text is QEMU's, with the reason if there is one."""

    def __init__(self, device: str, reason: str = "") -> None:
        super().__init__(
            f"Device '{shown(device, 200)}' not found{reason and f': {reason}'}", "DeviceNotFound"
        )


class TooLongError(QmpError):
    """The command is longer than `MAX_REQUEST`; the session cannot go on."""

    def __init__(self) -> None:
        super().__init__(f"QMP input is longer than {MAX_REQUEST} bytes")


# -- taking the stream apart ---------------------------------------------------------------


_SPACE: Final = re.compile(rb"[ \t\r\n]+")
_PUNCTUATION: Final = re.compile(rb"[{}\[\]:,]")
_WORD: Final = re.compile(rb"[A-Za-z0-9+.-]+")
_VALID_WORD: Final = re.compile(rb"true|false|null|-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_IN_STRING: Final = re.compile(rb"(?:[^\"\\\x00-\x1f]|\\[^\x00-\x1f])*")


class Framer:
    """Takes a client's stream apart into commands.

    `feed` takes the bytes that arrive. It yields the text of each complete value, and a `QmpError`
    for each piece that cannot be one. It raises `TooLongError`, after which the object is useless.
    """

    def __init__(self) -> None:
        self._text = bytearray()  # of the value that has begun
        self._start = 0  # where in _text the value begins; before it is what is done with
        self._scanned = 0  # up to where _text was looked at
        self._depth = 0
        self._tokens = 0
        self._in_string = False
        self._skipping = False  # to the end of the line, after an error

    def feed(self, data: bytes) -> Iterator[bytes | QmpError]:
        """Look at *data*, which follows what came before."""
        self._text += data
        while (found := self._next()) is not None:
            yield found
        del self._text[: self._start]
        self._scanned -= self._start
        self._start = 0
        if len(self._text) > MAX_REQUEST:
            raise TooLongError

    def _next(self) -> bytes | QmpError | None:
        """The next value or error; None if more has to arrive first."""
        text = self._text
        while self._scanned < len(text):
            if self._skipping:
                self._skip_line()
                continue
            if self._in_string:
                if (error := self._scan_string()) is not None:
                    return error
                if self._in_string:
                    return None
            elif space := _SPACE.match(text, self._scanned):
                self._scanned = space.end()
                if not self._depth:
                    self._start = self._scanned
                continue
            else:
                before = self._scanned
                if (error := self._scan_token()) is not None:
                    return error
                if self._scanned == before:
                    return None
            if not self._depth and not self._in_string:
                return self._take()
        return None

    def _skip_line(self) -> None:
        end = self._text.find(b"\n", self._scanned)
        self._skipping = end < 0
        self._scanned = self._start = len(self._text) if end < 0 else end + 1

    def _scan_string(self) -> QmpError | None:
        match = _IN_STRING.match(self._text, self._scanned)
        assert match is not None
        self._scanned = match.end()
        if self._scanned == len(self._text):
            return None
        following = self._text[self._scanned]
        if following == ord('"'):
            self._scanned += 1
            self._in_string = False
        elif following != ord("\\") or self._scanned + 1 < len(self._text):
            return self._malformed("a string has no end")
        return None

    def _scan_token(self) -> QmpError | None:
        text, at = self._text, self._scanned
        self._tokens += 1
        if self._tokens > MAX_TOKENS:
            return self._malformed(f"more than {MAX_TOKENS} tokens")
        character = text[at : at + 1]
        if character == b'"':
            self._in_string = True
            self._scanned += 1
        elif _PUNCTUATION.match(text, at):
            if character == b"{" and self._depth and self._is_misplaced(at):
                # This is half a command, and then the next one.
                error = self._malformed("a command has no end")
                self._skipping = False
                self._scanned = self._start = at
                return error
            if character in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    return self._malformed(f"nested deeper than {MAX_DEPTH}")
            elif character in b"}]":
                self._depth -= 1
            if self._depth < 0 or (self._depth == 0 and character in b":,"):
                return self._malformed(f"stray '{character.decode()}'")
            self._scanned += 1
        elif word := _WORD.match(text, at):
            if word.end() == len(text) and len(word[0]) <= _LONGEST_WORD:
                self._tokens -= 1  # it may go on in what arrives next
                return None
            if len(word[0]) > _LONGEST_WORD or not _VALID_WORD.fullmatch(word[0]):
                return self._malformed(f"invalid keyword '{word[0][:40].decode()}'")
            self._scanned = word.end()
        else:
            return self._malformed(f"stray {chr(text[at])!a}")
        return None

    def _is_misplaced(self, at: int) -> bool:
        """Whether an object cannot begin *at* here, inside another value."""
        while at > self._start and self._text[at - 1] in b" \t\r\n":
            at -= 1
        return at > self._start and self._text[at - 1] not in b"[:,"

    def _malformed(self, what: str) -> QmpError:
        self._reset()
        self._skipping = True
        return QmpError(f"JSON parse error, {what}")

    def _take(self) -> bytes:
        value = bytes(self._text[self._start : self._scanned])
        self._reset()
        self._start = self._scanned
        return value

    def _reset(self) -> None:
        self._depth = self._tokens = 0
        self._in_string = False


# -- commands ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One command of a client."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: Any = None
    has_id: bool = False


class BadRequestError(QmpError):
    """The message is no command; `id` is its id if it had one."""

    def __init__(self, message: str, request_id: Any = None, has_id: bool = False) -> None:
        super().__init__(message)
        self.id = request_id
        self.has_id = has_id


def parse_request(text: bytes) -> Request:
    """The command in *text*, one JSON value. Raises `BadRequestError`."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, **_STRICT)
    except (ValueError, RecursionError) as exc:
        reason = str(exc) if isinstance(exc, _DuplicateKeyError) else "invalid syntax"
        raise BadRequestError(f"JSON parse error, {reason}") from None
    if not isinstance(value, dict):
        raise BadRequestError("QMP input must be a JSON object")
    has_id = "id" in value
    request_id = value.pop("id", None)

    def error(message: str) -> BadRequestError:
        return BadRequestError(f"QMP input {message}", request_id, has_id)

    name = value.pop("execute", None)
    arguments = value.pop("arguments", {})
    if value:
        raise error(f"member '{shown(next(iter(value)))}' is unexpected")
    if name is None:
        raise error("lacks member 'execute'")
    if not isinstance(name, str):
        raise error("member 'execute' must be a string")
    if not isinstance(arguments, dict):
        raise error("member 'arguments' must be an object")
    return Request(name, arguments, request_id, has_id)


class _DuplicateKeyError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _DuplicateKeyError("duplicate key")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # JSON could not hold it when the id is sent back
        raise ValueError(digits)
    return number


_STRICT: Final[dict[str, Any]] = {"parse_constant": _refuse, "parse_float": _finite}


def shown(name: str, longest: int = 80) -> str:
    """Text of a client for a message: printable and not too long."""
    text = name if len(name) <= longest else f"{name[:longest]}..."
    return printable(text)


# -- answers -------------------------------------------------------------------------------


def encode(message: object) -> bytes:
    """*message* as a line for the client; ASCII, whatever is in it.

    A fraction becomes a number with decimals, which is exact for a rate.
    """
    return json.dumps(message, default=_number).encode("ascii") + b"\r\n"


def _number(value: object) -> float:
    if isinstance(value, Fraction):
        return float(value)
    raise TypeError(f"{value!r} cannot be sent")


def version() -> dict[str, object]:
    """The result of ``query-version``."""
    return {"qemu": dict(QEMU_VERSION), "package": f"throttlefs {__version__}"}


def greeting() -> bytes:
    """What the server says first."""
    return encode({"QMP": {"version": version(), "capabilities": []}})


def success(result: object, request: Request) -> bytes:
    """The answer to a command that returned *result*."""
    answer = {"return": result}
    return encode(answer | {"id": request.id} if request.has_id else answer)


def failure(error: QmpError, request: Request | BadRequestError | None = None) -> bytes:
    """The answer to a command that failed, or to what was no command."""
    answer: dict[str, object] = {"error": {"class": error.error_class, "desc": str(error)}}
    return encode({"id": request.id} | answer if request and request.has_id else answer)


def event(name: str, data: Mapping[str, object]) -> bytes:
    """An event that happens now."""
    microseconds = time.time_ns() // 1000
    seconds, rest = divmod(microseconds, 1_000_000)
    stamp = {"seconds": seconds, "microseconds": rest}
    return encode({"timestamp": stamp, "event": name, "data": dict(data)})
