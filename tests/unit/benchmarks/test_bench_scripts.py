"""The measurements that are scripts of their own still run: they use the package's insides."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[3] / "scripts/benchmarks"


def run(script: str, *words: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("group", "cases"),
    [("random_reads", 12), ("ways", 120), ("direct_sizes", 24), ("batches", 12), ("pools", 6)],
)
def test_each_case_of_the_backing_is_measured(tmp_path: Path, group: str, cases: int) -> None:
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR | os.O_DIRECT))
    except OSError:
        pytest.skip("no O_DIRECT in the temporary directory")
    words = ["--directory", str(tmp_path), "--file-size", "4", "--seconds", "0.001"]
    lines = run("backing_io.py", *words, group)[2:]
    assert len(lines) == cases
    assert len({line[:44] for line in lines}) == cases
    for line in lines:
        assert re.search(r" us loop +[\d.]+ us CPU  p99 +\d+ us$", line), line
    assert list(tmp_path.iterdir()) == []


def test_each_kind_of_limits_has_the_cost_of_its_admission() -> None:
    pytest.importorskip("pyperf")
    lines = [line for line in run("admission_cost.py", "--debug-single-value", "--quiet") if line]
    assert [line.partition(":")[0] for line in lines][:2] == ["unlimited", "bps"]
    assert len(lines) == 8
    assert all(re.search(r": [\d.]+ [nu]s$", line) for line in lines), lines
