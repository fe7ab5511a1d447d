"""Runs one target of tests/trust/fuzzing under atheris (PyPI), which is guided by coverage::

python -m tests.trust.fuzz globs -max_total_time=60
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["throttlefs"]):
    from tests.trust.fuzzing import TARGETS

target = TARGETS[sys.argv.pop(1)]
with tempfile.TemporaryDirectory() as directory, target.opened() as check:
    for number, seed in enumerate(target.seeds):
        (Path(directory) / f"seed{number}").write_bytes(seed)
    words = ["".join(f"\\x{byte:02x}" for byte in word) for word in target.words]
    dictionary = Path(directory) / "words"
    dictionary.write_text("".join(f'"{word}"\n' for word in words))
    atheris.Setup([*sys.argv, f"-dict={dictionary}", directory], check)
    atheris.Fuzz()
