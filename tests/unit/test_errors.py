"""What a user is told of errors that come wrapped."""

from __future__ import annotations

from throttlefs.errors import ThrottlefsError, unwrapped


def test_one_error_in_groups_is_that_error() -> None:
    error = ThrottlefsError("cannot make the socket")
    assert unwrapped(ExceptionGroup("outer", [ExceptionGroup("inner", [error])])) is error


def test_of_several_none_is_lost() -> None:
    group = ExceptionGroup("inner", [ThrottlefsError("one"), OSError("other")])
    outer = ExceptionGroup("outer", [group])
    assert unwrapped(outer) is outer
