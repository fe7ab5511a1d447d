"""Makes the package of the benchmarks importable, as ./scripts/bench does."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts"))

# The benchmarks have dependencies of their own, which a run of the tests need not have.
pytest.importorskip("rich")
