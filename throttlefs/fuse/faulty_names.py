"""Lets fault rules happen to requests on names and attributes, in front of their handlers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, Protocol

from throttlefs.device.faults import Firing
from throttlefs.settings.fault_words import Op

from .faulty_file import suffer
from .injector import Injector
from .inode import Inode
from .inodes import InodeTable
from .limit_attributes import LIMIT_PREFIX

Handler = Callable[..., Coroutine[Any, Any, Any]]


class Served(Protocol):
    """What has handlers, and files."""

    injector: Injector | None

    def directory_inode(self, fh: int) -> Inode:
        """The inode of the open directory *fh*."""


class _Asked(NamedTuple):
    """What a request on names asks for."""

    ops: Op
    op: str
    path: bytes
    other: bytes | None = None


Describe = Callable[[Served, InodeTable, tuple[Any, ...]], _Asked | None]
"""What a request with these arguments asks for; None if no rule can be for it."""


def _below(inode: Inode, name: bytes) -> bytes:
    path = inode.path
    return path + b"/" + name if path else name


def _entry(op: Op) -> Describe:
    """A handler whose arguments begin with a directory and a name in it."""

    def describe(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
        return _Asked(op, _name(op), _below(inodes.get(args[0]), args[1]))

    return describe


def _inode(op: Op) -> Describe:
    """A handler whose arguments begin with an inode."""

    def describe(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
        return _Asked(op, _name(op), inodes.get(args[0]).path)

    return describe


def _attribute(op: Op) -> Describe:
    """A handler whose arguments begin with an inode and the name of an extended attribute."""

    def describe(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked | None:
        if args[1].startswith(LIMIT_PREFIX):
            return None  # it is a way to control the mount
        return _Asked(op, _name(op), inodes.get(args[0]).path)

    return describe


def _open(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
    truncates = args[1] & os.O_TRUNC
    return _Asked(Op.OPEN | Op.TRUNCATE if truncates else Op.OPEN, "open", inodes.get(args[0]).path)


def _setattr(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
    op = Op.TRUNCATE if args[2].update_size else Op.SETATTR
    return _Asked(op, _name(op), inodes.get(args[0]).path)


def _rename(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
    old, new = _below(inodes.get(args[0]), args[1]), _below(inodes.get(args[2]), args[3])
    return _Asked(Op.RENAME, "rename", old, new)


def _link(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
    new = _below(inodes.get(args[1]), args[2])
    return _Asked(Op.LINK, "link", inodes.get(args[0]).path, new)


def _tmpfile(_: Served, inodes: InodeTable, args: tuple[Any, ...]) -> _Asked:
    return _Asked(Op.CREATE, "create", inodes.get(args[0]).path)


def _directory(op: Op) -> Describe:
    """A handler whose arguments begin with the handle of a directory."""

    def describe(served: Served, _: InodeTable, args: tuple[Any, ...]) -> _Asked:
        return _Asked(op, _name(op), served.directory_inode(args[0]).path)

    return describe


def _name(op: Op) -> str:
    return (op.name or "").lower()


_HANDLERS: Final[dict[str, Describe]] = {
    "lookup": _entry(Op.LOOKUP),
    "getattr": _inode(Op.GETATTR),
    "statx": _inode(Op.GETATTR),
    "setattr": _setattr,
    "readlink": _inode(Op.READLINK),
    "symlink": _entry(Op.SYMLINK),
    "mknod": _entry(Op.CREATE),
    "mkdir": _entry(Op.MKDIR),
    "unlink": _entry(Op.UNLINK),
    "rmdir": _entry(Op.RMDIR),
    "rename": _rename,
    "link": _link,
    "open": _open,
    "create": _entry(Op.CREATE),
    "tmpfile": _tmpfile,
    "setxattr_with_flags": _attribute(Op.SETXATTR),
    "removexattr": _attribute(Op.SETXATTR),
    "getxattr": _attribute(Op.GETXATTR),
    "listxattr": _inode(Op.GETXATTR),
    "opendir": _inode(Op.OPENDIR),
    "list_entries": _directory(Op.LIST),
    "fsyncdir": _directory(Op.FLUSH),
}
"""The handlers that rules may be for, beside those of contents.

Those that only pyfuse3 calls are not among them: they call one of these.
"""


def let_faults_happen(served: Served, inodes: InodeTable) -> None:
    """Put fault rules in front of the handlers of *served*; they cost nothing without a rule."""
    for name, describe in _HANDLERS.items():
        setattr(served, name, _guarded(getattr(served, name), describe, served, inodes))


def _guarded(handler: Handler, describe: Describe, served: Served, inodes: InodeTable) -> Handler:
    @functools.wraps(handler)
    def guarded(*args: Any) -> Coroutine[Any, Any, Any]:
        injector = served.injector
        if injector is None:
            return handler(*args)
        try:
            asked = describe(served, inodes, args)
        except (OSError, LookupError):
            asked = None  # the handler will say what is wrong
        firing = None if asked is None else injector.named(*asked)
        if firing is None:
            return handler(*args)
        return _after(firing, injector, handler, args)

    return guarded


async def _after(
    firing: Firing, injector: Injector, handler: Handler, args: tuple[Any, ...]
) -> Any:
    """Let *firing* happen, and then the request, unless it is lost. Raises `OSError`."""
    if await suffer(firing, injector.parking):
        return None
    return await handler(*args)
