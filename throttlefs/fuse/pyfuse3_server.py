"""Serves a mount in pyfuse3's own loop: ``-o server=pyfuse3``.

It uses the same handlers. It is the fallback where our own server does not work, and tests compare
our server with it. It costs two rounds of trio's scheduler for each request, and lacks everything
that pyfuse3 has no handler for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pyfuse3

from .errors import errno_of
from .operations import Operations

_HANDLERS: Final = (
    *("lookup", "forget", "getattr", "setattr", "readlink", "statfs"),
    *("mknod", "mkdir", "symlink", "link", "unlink", "rmdir", "rename"),
    *("open", "create", "read", "write", "flush", "fsync", "release"),
    *("opendir", "readdir", "fsyncdir", "releasedir"),
    *("getxattr", "setxattr", "listxattr", "removexattr"),
)

Handler = Callable[..., Coroutine[Any, Any, Any]]


def for_pyfuse3(operations: Operations) -> pyfuse3.Operations:
    """*operations* with handlers that raise only FUSEError, as pyfuse3 demands."""
    adapted = pyfuse3.Operations()
    adapted.supports_dot_lookup = False
    adapted.enable_writeback_cache = False
    adapted.enable_acl = True
    setattr(adapted, "init", operations.init)  # noqa: B010  (mypy: a method is not for assigning)
    for name in _HANDLERS:
        setattr(adapted, name, _raising_fuse_errors(getattr(operations, name)))
    return adapted


def _raising_fuse_errors(handler: Handler) -> Handler:
    @functools.wraps(handler)
    async def adapted(*args: Any) -> Any:
        try:
            return await handler(*args)
        except Exception as exc:
            raise pyfuse3.FUSEError(errno_of(exc, handler.__name__)) from None

    return adapted
