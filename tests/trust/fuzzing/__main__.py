"""Runs one target under atheris, guided by coverage; its options follow the target's name."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["throttlefs"]):
    from tests.trust.fuzzing import TARGETS

target = TARGETS[sys.argv.pop(1)]
with target.opened() as check:
    for seed in target.seeds:
        check(seed)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
