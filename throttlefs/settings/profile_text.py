"""Writes a profile as TOML, which the configuration file takes as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from .profiles import Source
from .toml_text import toml_key, toml_string

_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


def write_profile(
    name: str,
    settings: Mapping[str, object],
    summary: str = "",
    sources: Iterable[Source] = (),
) -> str:
    """The table ``[profile.NAME]`` with *settings*, and where they come from."""
    key = toml_key(name)
    lines = [f"[profile.{key}]"]
    if summary:
        lines.append(f"summary = {toml_string(summary)}")
    lines += [f"{setting} = {_value(value)}" for setting, value in settings.items()]
    for source in sources:
        lines += ["", f"[[profile.{key}.source]]"]
        lines.append(f"of = [{', '.join(map(toml_string, source.of))}]")
        fields = {"kind": source.kind, "origin": source.origin, "url": source.url}
        lines += [f"{field} = {toml_string(text)}" for field, text in fields.items() if text]
        if source.date:
            day = source.date
            lines.append(f"date = {day if _DATE.fullmatch(day) else toml_string(day)}")
        if source.note:
            lines.append(f"note = {toml_string(source.note)}")
    return "\n".join([*lines, ""])


def _value(value: object) -> str:
    return toml_string(value) if isinstance(value, str) else str(value)
