"""The benchmarks on real mounts: each row gets its figures, and nothing stays behind."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.cli import main
from benchmarks.mounts import mounted_below
from benchmarks.speed import names

pytestmark = pytest.mark.timeout(240)


def measure(tmp_path: Path, *words: str) -> tuple[str, dict[str, Any]]:
    """Run scripts/bench with these words; what it prints, and its JSON file."""
    file = tmp_path / "results.json"
    place = tmp_path / "scratch"
    place.mkdir()
    done = CliRunner().invoke(main, [*words, "--dir", str(place), "--json", str(file)])
    assert done.exit_code == 0, done.output
    assert mounted_below(place) == []
    assert list(place.iterdir()) == []
    return done.stdout, json.loads(file.read_text())


@pytest.mark.skipif(shutil.which("bindfs") is None, reason="no bindfs")
@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_names_are_measured_through_each_peer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in (("FILES", 16), ("ENTRIES", 20), ("CLONED", 10), ("READERS", 2)):
        monkeypatch.setattr(names, name, few)
    monkeypatch.setattr(names, "SETTLING", 0.05)
    monkeypatch.setattr(names, "CLIENTS", (2,))
    words = ["speed", "--only", "names/*", "--rounds", "1", "--seconds", "0.5"]
    printed, document = measure(tmp_path, *words, "--peer", "bindfs", "--peer", "native")
    for label in (*names.LABELS.values(), "PSS", "RSS"):
        assert label in printed
    rows = {
        (case, figure): values
        for case, figures in document["summary"]["names"].items()
        for figure, values in figures.items()
    }
    assert len(rows) == 8 + 2 + 2 + 2
    for (_, figure), values in rows.items():
        mounts = {"throttlefs", "bindfs"}
        assert set(values) == (mounts if figure in names.MEMORY else {*mounts, "native"})
        assert min(values.values()) > 0
