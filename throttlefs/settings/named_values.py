"""What limits and the settings of a device have in common: values by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any


def read_values(
    values: Mapping[str, Any],
    canonical_name: Callable[[str], str | None],
    parse: Callable[[str, Any], Any],
    given_twice: Callable[[str, str], Exception],
) -> tuple[dict[str, Any], dict[str, str]]:
    """*values* as *parse* reads them, and the names that they have in *values*.

    The keys of both are canonical names. Raises what *parse* raises, and *given_twice* of two names
    for one.
    """
    parsed: dict[str, Any] = {}
    spelling: dict[str, str] = {}
    for name, value in values.items():
        result = parse(name, value)
        canonical = canonical_name(name) or name
        if canonical in parsed:
            raise given_twice(name, spelling[canonical])
        parsed[canonical] = result
        spelling[canonical] = name
    return parsed, spelling


def not_at_default(settings: Any) -> dict[str, Any]:
    """The fields of the dataclass *settings* that are not at their default."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    }
