"""From whatever goes wrong in a handler to the errno that the program gets."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import pyfuse3

log = logging.getLogger("throttlefs")

Self_ = TypeVar("Self_")
P = ParamSpec("P")
T = TypeVar("T")


def to_fuse_error(exc: Exception, handler: str) -> pyfuse3.FUSEError:
    """The error to reply with: an `OSError`'s own errno, EIO for what nobody expected.

    pyfuse3 ends the whole mount on any other exception, so none may pass; the unexpected
    is logged with its traceback.
    """
    if isinstance(exc, pyfuse3.FUSEError):
        return exc
    if isinstance(exc, OSError) and exc.errno:
        return pyfuse3.FUSEError(exc.errno)
    log.error("internal error in %s; the program gets EIO", handler, exc_info=exc)
    return pyfuse3.FUSEError(errno.EIO)


def replies_errno(
    handler: Callable[Concatenate[Self_, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Self_, P], Coroutine[Any, Any, T]]:
    """Wrap a metadata *handler* so that it raises nothing but `pyfuse3.FUSEError`.

    The handlers of reads and writes do the same by themselves and save the extra coroutine.
    """

    @functools.wraps(handler)
    async def wrapper(self: Self_, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(self, *args, **kwargs)
        except Exception as exc:
            raise to_fuse_error(exc, handler.__name__) from None

    return wrapper
