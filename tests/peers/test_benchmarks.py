"""The benchmarks on real mounts: each row gets its figures, and nothing stays behind."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmarks.cli import main
from benchmarks.mounts import mounted_below
from benchmarks.profiles import depths, quantiles
from benchmarks.scale import growth
from benchmarks.scale.loads import GROUPS, IMAGES, MOUNTS, TOTAL
from benchmarks.speed import names, waiting

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.skipif(not (ROOT / ".venv/bin/python").exists(), reason="no .venv in this checkout")
def test_two_versions_are_measured_beside_each_other(tmp_path: Path) -> None:
    """This checkout against itself: by its own Python, in rounds, each row with its verdict."""
    other = f"checkout:{ROOT.name}"
    only = ["--only", "latency/iops-3000-4k-qd1", "--only", "release/1-image"]
    words = ["accuracy", *only, "--peer", f"checkout:{ROOT}", "--seconds", "0.5", "--rounds", "2"]
    printed, document = measure(tmp_path, *words)
    assert f"Worse than {other} by over 5 %: " in printed
    assert "of 4 rows, " in printed
    assert set(document["versions"]) == {"fio", "throttlefs", other}
    rows = document["comparison"][other]
    assert [(row["name"], row["what"]) for row in rows] == [
        ("latency/iops-3000-4k-qd1", "p99, us"),
        ("latency/iops-3000-4k-qd1", "p50, us"),
        ("release/1-image", "releasing one, us"),
        ("release/1-image", "queueing one, us"),
    ]
    for row in rows:
        assert len(row["changes"]) == 2
        assert min(row["ours"], row["theirs"], row["ratio"]) > 0
    order = [(result["peer"], result["round"]) for result in document["results"]]
    assert order[:4] == [("throttlefs", 1), (other, 1), (other, 2), ("throttlefs", 2)]


def test_the_cost_of_waiting_is_that_of_all_mounts_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = {"1-mount": waiting.Load(1, 500, 1), "2-mounts": waiting.Load(2, 250, 4)}
    monkeypatch.setattr(waiting, "LOADS", loads)
    monkeypatch.setattr(waiting, "IMAGE_MIB", 4)
    words = ["speed", "--only", "waiting/*", "--rounds", "1", "--seconds", "1"]
    printed, document = measure(tmp_path, *words, "--peer", "native")
    summary = document["summary"]["waiting"]
    assert set(summary) == set(loads)
    for case in loads:
        assert case in printed
        assert set(summary[case]) == {"throttlefs"}  # the file itself has no limits
        figures = summary[case]["throttlefs"]
        assert 0 < figures["cpu"] < 2
        assert 0 < figures["per_second"] < 1.1 * 500
        assert 0 < figures["p50"] <= figures["p99"]


def test_a_mount_is_held_against_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section in (quantiles, depths):
        monkeypatch.setattr(section, "IMAGE_MIB", 8)
    monkeypatch.setattr(depths, "DEPTHS", (1, 8))
    picture = tmp_path / "picture.png"
    words = ["profiles", "--profile", "usb2-stick", "--seconds", "0.5", "--plot", str(picture)]
    printed, document = measure(tmp_path, *words)
    for case in ("reads", "writes", "1", "8"):
        assert f"usb2-stick/{case} " in printed
    assert "its flushes cost nothing" in printed
    figures = {result["case"]: result["figures"] for result in document["results"]}
    reads = figures["usb2-stick/reads"]
    assert reads["expected"]["50"] == 990_000 <= 1.02 * reads["measured"]["50"]
    for depth in (1, 8):
        rates = figures[f"usb2-stick/{depth}"]
        assert 0 < rates["measured"] < 1.05 * rates["expected"]
    assert picture.stat().st_size > 5000


def test_the_same_requests_are_asked_for_by_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "SETTLING", 0.2)
    for kind, sizes in ((IMAGES, (200,)), (GROUPS, (10,)), (MOUNTS, (2,))):
        monkeypatch.setattr(f"benchmarks.scale.{kind.name.upper()}", replace(kind, sizes=sizes))
    only = [word for case in ("images", "groups", "mounts") for word in ("--only", f"{case}/*")]
    printed, document = measure(tmp_path, "scale", *only, "--seconds", "1")
    figures = {result["section"]: result["figures"] for result in document["results"]}
    assert set(figures) == {"images", "groups", "mounts"}
    assert [figures[name]["images"] for name in ("images", "groups", "mounts")] == [200, 100, 2]
    for row in figures.values():
        assert 0 < row["per_second"] < 1.2 * TOTAL
        assert min(row["cpu_us"], row["memory"], row["late_p99"]) > 0
    assert "CPU us/request" in printed


def test_daemons_that_share_a_limit_are_measured(tmp_path: Path) -> None:
    words = ["cluster", "--only", "windows/5-hosts-1ms-*", "--only", "store/20-mixed"]
    printed, document = measure(tmp_path, *words, "--only", "shares/slopes*", "--seconds", "0.5")
    assert set(document["versions"]) == {"fio", "store", "throttlefs"}
    assert "5-hosts-1ms-loss-5" in printed
    figures = {result["case"]: result["figures"] for result in document["results"]}
    if "needs the kernel's fuse tracepoints" not in printed:
        lossy = figures["5-hosts-1ms-loss-5"]
        assert lossy["rate"] > 0
        # A daemon that has to wait for a CPU may answer late what it let go in time.
        assert 0 < lossy["most"]["1 s"] < 1.5 * lossy["bound"]["1 s"]
    assert len(figures["slopes-2-1-8"]["got"]) == 3
    store = figures["20-mixed"]
    assert store["calls_per_second"] > 0
    assert store["script_us"] > 0
    assert 0 < store["highest"] <= 1.000001
