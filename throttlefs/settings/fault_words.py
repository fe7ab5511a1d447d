"""The words of fault rules: operations, effects, and how the values of both are read."""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable
from typing import Any, Final

from . import suggest, units
from .timeline import PERIOD_NAMES
from .units import quoted


class FaultError(ValueError):
    """A rule that cannot be used; the message is one line that names the culprit and the cure."""


class Op(enum.IntFlag):
    """What a request asks for. A request may ask for several: a durable write is a flush, too."""

    READ = enum.auto()
    WRITE = enum.auto()
    FLUSH = enum.auto()
    DISCARD = enum.auto()
    ALLOCATE = enum.auto()
    OPEN = enum.auto()
    CREATE = enum.auto()
    RENAME = enum.auto()
    UNLINK = enum.auto()
    TRUNCATE = enum.auto()
    MKDIR = enum.auto()
    RMDIR = enum.auto()
    LINK = enum.auto()
    SYMLINK = enum.auto()
    READLINK = enum.auto()
    SETATTR = enum.auto()
    GETATTR = enum.auto()
    SETXATTR = enum.auto()
    GETXATTR = enum.auto()
    LOOKUP = enum.auto()
    OPENDIR = enum.auto()
    LIST = enum.auto()


OP_HELP: Final = {
    "read": "the contents of a file are read",
    "write": "the contents of a file are written",
    "flush": "fsync or fdatasync, also of a directory, or a write with O_DSYNC or O_SYNC",
    "discard": "fallocate punches a hole or zeroes a range",
    "allocate": "fallocate does anything else",
    "open": "a file is opened",
    "create": "a file is made, also one without a name, a FIFO, a socket or a device",
    "rename": "a name changes; the old path or the new one may match",
    "unlink": "a name of a file is removed",
    "truncate": "the size of a file is changed, also by opening with O_TRUNC",
    "mkdir": "a directory is made",
    "rmdir": "a directory is removed",
    "link": "a file gets one more name; the path of either may match",
    "symlink": "a symlink is made",
    "readlink": "a symlink is read",
    "setattr": "mode, owner or times are changed",
    "getattr": "stat",
    "setxattr": "an extended attribute or an ACL is changed or removed",
    "getxattr": "extended attributes or ACLs are read",
    "lookup": "a name is looked for, before most other operations on it",
    "opendir": "a directory is opened",
    "list": "entries of an open directory are read",
}
"""The name of each `Op`, with what it means."""

_OP_SYNONYMS: Final = {
    **dict.fromkeys(("fsync", "fdatasync", "sync", "fsyncdir"), "flush"),
    **dict.fromkeys(("trim", "unmap", "punch", "zero"), "discard"),
    **dict.fromkeys(("fallocate", "preallocate"), "allocate"),
    **dict.fromkeys(("ftruncate", "resize"), "truncate"),
    **dict.fromkeys(("chmod", "chown", "utimens", "utime", "touch"), "setattr"),
    **dict.fromkeys(("stat", "fstat"), "getattr"),
    **dict.fromkeys(("readdir", "listing", "getdents", "ls"), "list"),
    **dict.fromkeys(("remove", "delete", "rm"), "unlink"),
    **dict.fromkeys(("mknod", "tmpfile"), "create"),
    "move": "rename",
}
"""What others call an operation; for a suggestion."""

RANGED: Final = Op.READ | Op.WRITE | Op.DISCARD | Op.ALLOCATE
"""The operations that touch a range of bytes."""

CONTENTS: Final = Op.READ | Op.WRITE


class Effect(enum.Enum):
    """What happens to a request; the value is its name in a rule."""

    ERROR = "error"
    DELAY = "delay"
    HANG = "hang"
    CORRUPT = "corrupt"
    TORN = "torn"
    LOSE = "lose"
    MISDIRECT = "misdirect"


EFFECT_HELP: Final = {
    "error=NAME": "it fails with this errno, e.g. EIO or ENOSPC",
    "delay=TIME": "it is served so much later, e.g. 2s",
    "hang": "it waits until the rule is removed or its time is over",
    "corrupt=flip|zeros|noise": "a read gets wrong bytes; the file stays as it is",
    "torn=BYTES": "only a part of a write, in such units, reaches the file, and it succeeds",
    "lose": "a write, flush or discard succeeds and is not done",
    "misdirect=+BYTES": "a write goes so far beyond its place (-BYTES: before it)",
}
"""How each effect is written, with what it means."""

TRIGGER_HELP: Final = {
    "nth=N": "only the Nth request that matches",
    "every=N": "each Nth",
    "after=N": "not the first N; the others are counted from there",
    "times=N": "at most N times",
    "probability=P": "each with a chance of P, above 0 and at most 1; seed=N draws others",
    "at=TIME": "from then on, after the mount or the command",
    "lasting=TIME": "for so long",
    "repeat=TIME": "and again each TIME",
}
"""How each trigger is written, with what it means."""

GOES_WITH: Final = {
    Effect.CORRUPT: Op.READ,
    Effect.TORN: Op.WRITE,
    Effect.MISDIRECT: Op.WRITE,
    Effect.LOSE: Op.WRITE | Op.FLUSH | Op.DISCARD,
}
"""The operations that an effect can happen to; the others happen to all."""

CORRUPTIONS: Final = ("flip", "zeros", "noise")

_REFUSED_ERRORS: Final = {
    "ENOSYS": "the kernel remembers it for the whole mount and sends no more such requests,"
    " and then every fsync succeeds; write EOPNOTSUPP",
    "EINTR": "programs take it for a signal and try again; write EIO",
    "ERESTART": "no program ever sees it; write EIO",
}

_LIKELY_ERRORS: Final = ("eio", "enospc", "edquot", "erofs", "eacces", "eperm", "enoent")
"""What a disk or a filesystem answers most often; for a suggestion."""

_MOST: Final = 10**9
OTHER_KEYS: Final = ("nth", "every", "after", "times", "probability", "seed")
KEYS: Final = ("path", "op", "range", *(one.value for one in Effect), *OTHER_KEYS, *PERIOD_NAMES)
"""All names of a rule's settings, in the usual order."""


def _whole(name: str, value: object, smallest: int = 1, largest: int = _MOST) -> int:
    try:
        return units.parse_whole(value, smallest, largest)
    except units.UnitError as error:
        raise FaultError(f"{name}: {error}") from None


def _seed(name: str, value: object) -> int:
    return _whole(name, value, 0, units.MAX_SEED)


def _probability(name: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else -1.0
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or not 0 < number <= 1:
        raise FaultError(
            f"{name}: {quoted(value)} is not a number above 0 and at most 1, e.g. 0.01"
        )
    return number


def _duration(name: str, value: Any) -> int:
    return _above_0(name, value, units.parse_duration, "is no time at all; leave the rule out")


def _bytes(name: str, value: Any) -> int:
    return _above_0(name, value, units.parse_bytes, f"is too little; write e.g. {name}=512")


def _above_0(name: str, value: Any, parse: Callable[[Any], int], why_not_0: str) -> int:
    try:
        number = parse(value)
    except units.UnitError as error:
        raise FaultError(f"{name}: {error}") from None
    if not number:
        raise FaultError(f"{name}: 0 {why_not_0}")
    return number


def _shift(name: str, value: Any) -> int:
    text = str(value)
    if not isinstance(value, str) or text[:1] not in ("+", "-"):
        raise FaultError(f"{name}: {quoted(value)} is not +BYTES or -BYTES, e.g. +4K")
    size = _bytes(name, text[1:])
    return -size if text[0] == "-" else size


def _switch(name: str, value: object) -> bool:
    if value in (True, "true", "yes", "on"):
        return True
    raise FaultError(f"{name}: {quoted(value)} is not true; a rule without {name} leaves it out")


def read_error(name: str, value: object) -> str:
    """The name of an errno that a rule may have. Raises `FaultError`."""
    text = value.upper() if isinstance(value, str) else ""
    if text in _REFUSED_ERRORS:
        raise FaultError(f"{name}: {text} cannot be used: {_REFUSED_ERRORS[text]}")
    if text not in errno.errorcode.values() and not hasattr(errno, text or "-"):
        best = suggest.nearest(text, _LIKELY_ERRORS) or suggest.nearest(
            text, map(str.lower, errno.errorcode.values())
        )
        hint = f"did you mean {best.upper()}?" if best else "write e.g. EIO, ENOSPC or EDQUOT"
        raise FaultError(f"{name}: {quoted(value)} is not the name of an errno; {hint}")
    return text


def _corruption(name: str, value: object) -> str:
    if value not in CORRUPTIONS:
        raise FaultError(f"{name}: {quoted(value)} is none of {', '.join(CORRUPTIONS)}")
    return str(value)


EFFECT_VALUES: Final[dict[Effect, Callable[[str, Any], Any]]] = {
    Effect.ERROR: read_error,
    Effect.DELAY: _duration,
    Effect.HANG: _switch,
    Effect.CORRUPT: _corruption,
    Effect.TORN: _bytes,
    Effect.LOSE: _switch,
    Effect.MISDIRECT: _shift,
}

OTHER_VALUES: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("nth", "every", "after", "times"), _whole),
    "probability": _probability,
    "seed": _seed,
}


def op_names(ops: Op) -> list[str]:
    """The names of *ops*, in the usual order."""
    return [one.name.lower() for one in Op if one in ops and one.name]


def read_op(name: object) -> Op:
    """The operation *name*. Raises `FaultError`."""
    plain = name.strip().lower() if isinstance(name, str) else ""
    if plain in OP_HELP:
        return Op[plain.upper()]
    best = _OP_SYNONYMS.get(plain) or suggest.nearest(plain, OP_HELP)
    hint = f"did you mean {best}?" if best else f"the operations are {', '.join(OP_HELP)}"
    raise FaultError(f"op: {quoted(name)} is not the name of an operation; {hint}")
