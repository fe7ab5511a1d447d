"""Checks the arguments of commands, with QEMU's messages for mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .protocol import QmpError, shown

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "any": (object,),
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a command."""

    type: str
    """QEMU's name of it."""
    required: bool = False
    choices: tuple[str, ...] = ()
    """The values of an enumeration, empty for a type that takes all."""


Signature = Mapping[str, Parameter]


def check_arguments(arguments: Mapping[str, Any], signature: Signature, within: str = "") -> None:
    """Raise `QmpError` unless *arguments* are as *signature* says.

    *within* comes before their names in messages: "limits." for the members of ``limits``.
    """
    for name, parameter in signature.items():
        if name in arguments:
            _check_value(within + name, arguments[name], parameter)
        elif parameter.required:
            raise QmpError(f"Parameter '{within}{name}' is missing")
    for name in arguments:
        if name not in signature:
            raise QmpError(f"Parameter '{within}{shown(name)}' is unexpected")


def _check_value(name: str, value: object, parameter: Parameter) -> None:
    expected = parameter.type
    # In Python a boolean is an integer.
    wrong_bool = isinstance(value, bool) and expected not in ("boolean", "any")
    if wrong_bool or not isinstance(value, _TYPES[expected]):
        raise QmpError(f"Invalid parameter type for '{name}', expected: {expected}")
    if parameter.choices and value not in parameter.choices:
        raise QmpError(f"Parameter '{name}' does not accept value '{shown(str(value))}'")
