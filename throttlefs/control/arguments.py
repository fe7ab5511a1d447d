"""Checks the arguments of commands, with QEMU's messages for mistakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .protocol import QmpError, shown

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a command; `type` is QEMU's name of it."""

    type: str
    required: bool = False


Signature = Mapping[str, Parameter]


def check_arguments(arguments: Mapping[str, Any], signature: Signature) -> None:
    """Raise `QmpError` unless *arguments* are as *signature* says."""
    for name, parameter in signature.items():
        if name not in arguments:
            if parameter.required:
                raise QmpError(f"Parameter '{name}' is missing")
            continue
        value = arguments[name]
        is_bool = isinstance(value, bool)
        if not isinstance(value, _TYPES[parameter.type]) or is_bool != (
            parameter.type == "boolean"
        ):
            raise QmpError(f"Invalid parameter type for '{name}', expected: {parameter.type}")
    for name in arguments:
        if name not in signature:
            raise QmpError(f"Parameter '{shown(name)}' is unexpected")
