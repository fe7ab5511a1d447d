"""Writes keys and strings of TOML."""

from __future__ import annotations

import json
import re
from typing import Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_key(name: str) -> str:
    """*name* as a key, bare if that is possible."""
    return name if _BARE_KEY.fullmatch(name) else toml_string(name)


def toml_string(text: str) -> str:
    """*text* as a basic string."""
    # JSON's escapes are TOML's too, except for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
