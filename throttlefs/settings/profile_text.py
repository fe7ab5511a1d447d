"""Writes a profile as TOML, which the configuration file takes as it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final

from .profiles import Source

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")


def write_profile(
    name: str,
    settings: Mapping[str, object],
    summary: str = "",
    sources: Iterable[Source] = (),
) -> str:
    """The table ``[profile.NAME]`` with *settings*, and where they come from."""
    key = name if _BARE_KEY.fullmatch(name) else _string(name)
    lines = [f"[profile.{key}]"]
    if summary:
        lines.append(f"summary = {_string(summary)}")
    lines += [f"{setting} = {_value(value)}" for setting, value in settings.items()]
    for source in sources:
        lines += ["", f"[[profile.{key}.source]]"]
        lines.append(f"of = [{', '.join(map(_string, source.of))}]")
        fields = {"kind": source.kind, "origin": source.origin, "url": source.url}
        lines += [f"{field} = {_string(text)}" for field, text in fields.items() if text]
        if source.date:
            day = source.date
            lines.append(f"date = {day if _DATE.fullmatch(day) else _string(day)}")
        if source.note:
            lines.append(f"note = {_string(source.note)}")
    return "\n".join([*lines, ""])


def _value(value: object) -> str:
    return _string(value) if isinstance(value, str) else str(value)


def _string(text: str) -> str:
    # JSON's escapes are TOML's too, except for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
