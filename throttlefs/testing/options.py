"""Turns keyword arguments into what the command line takes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

from throttlefs.errors import UsageError
from throttlefs.settings.options import escape

Option: TypeAlias = "str | int | float | Fraction | os.PathLike[str] | bool | None"
"""The value of an option of ``-o``: True is the option without a value, None and False nothing."""

_ON_OR_OFF = ("auto_da_alloc",)
"""Options that are on unless they are switched off."""

_MILLIONTHS = 1_000_000  # the steps of a rate


def option_string(options: Mapping[str, Option]) -> str:
    """*options* as one string for ``-o``. Raises `UsageError` for what cannot be written there."""
    said = {
        name: ("on" if value else "off")
        if name in _ON_OR_OFF and isinstance(value, bool)
        else value
        for name, value in options.items()
    }
    return ",".join(
        name if value is True else f"{name}={escape(_text(name, value))}"
        for name, value in said.items()
        if value is not None and value is not False and _is_name(name)
    )


def changes(values: Mapping[str, Option]) -> dict[str, Any]:
    """*values* for a change in flight: None lifts a limit, or leaves a group.

    Raises `UsageError` for a value that is neither a number nor text.
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if value is None:
            found[name] = "" if name in ("group", "parent") else "0"
        else:
            found[name] = _text(name, value)
    return found


def _is_name(name: str) -> bool:
    if not name or "," in name or "=" in name:
        raise UsageError(f"{name!r} is not the name of an option")
    return True


def _text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, os.PathLike):
        return str(os.path.abspath(value))
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        raise UsageError(f"{name}: {value!r} is neither a number nor text, e.g. {name}='1M'")
    if isinstance(value, Fraction):
        value = Decimal(round(value * _MILLIONTHS)) / _MILLIONTHS
    elif isinstance(value, float):
        value = Decimal(repr(value))
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
