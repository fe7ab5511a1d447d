"""Everything that throttlefs takes from people and programs, as functions that take any bytes.

Each lets only what its docstring declares pass: nothing at all. What is checked beside that stands
there too. tests/trust/fuzz.py runs one under atheris, tests/trust/test_fuzz.py all of them.
"""

from __future__ import annotations

from . import bytestreams, sessions, texts
from .target import Check, Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (*texts.TARGETS, *bytestreams.TARGETS, *sessions.TARGETS)
}

__all__ = ["TARGETS", "Check", "Target"]
