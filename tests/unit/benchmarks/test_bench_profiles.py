"""What the benchmark of profiles expects, on its virtual clock, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks import plots, profiles
from benchmarks.errors import BenchmarkError
from benchmarks.profiles import PROFILES, depths, model, quantiles
from benchmarks.results import Result
from click.testing import CliRunner
from rich.table import Table

MS = 10**6


def test_a_profile_of_one_place_has_its_latency_at_every_depth() -> None:
    at_1, at_32 = (model.expected("sd-card", model.READ, depth, count=2000) for depth in (1, 32))
    assert at_1.quantile(50) == at_1.quantile(99.9) == 667_000
    assert at_1.per_second == pytest.approx(1500, rel=0.01)
    assert at_32.per_second == pytest.approx(1500, rel=0.01)
    assert at_32.quantile(50) == pytest.approx(32 * 667_000, rel=0.01)


def test_a_limit_holds_what_the_latency_would_let_through() -> None:
    found = model.expected("aws-gp3", model.READ, 64)
    assert found.per_second == pytest.approx(3000, rel=0.01)
    assert model.expected("aws-gp3", model.READ, 1).per_second < 2500


def test_a_burst_is_what_a_short_run_sees() -> None:
    assert model.expected("azure-p10", model.READ, 64).per_second == pytest.approx(3500, rel=0.02)


def test_the_head_takes_a_turn_at_most_within_a_small_image() -> None:
    found = model.expected("hdd-7200", model.READ, count=3000)
    assert 0.23 * MS < found.quantile(1) < found.quantile(50) < found.quantile(99.9)
    assert found.quantile(50) == pytest.approx((60_000 / 7200 / 2 + 0.3) * MS, rel=0.1)
    assert model.expected("hdd-7200", model.FLUSH).quantile(50) == 8_330_000


def test_the_quantiles_are_ranks() -> None:
    found = model.Expected(range(1, 1001), 1.0)
    assert [found.quantile(percent) for percent in (0.1, 50, 99, 99.9, 100)] == [
        1, 500, 990, 999, 1000,
    ]  # fmt: skip


def results() -> list[Result]:
    names = {f"{percent:g}": 1000 * percent for percent in quantiles.PERCENT}
    found: list[Result] = []
    for section in profiles.sections(["throttlefs"], 1):
        figures: dict[str, Any] = {"measured": 900.0, "expected": 1000.0}
        if section.name == "quantiles":
            figures = {"measured": names, "expected": names}
        found += [
            Result(step.section, step.case, step.peer, 1, figures) for step in section.steps()
        ]
    return found


def test_a_picture_has_all_that_was_measured(tmp_path: Path) -> None:
    plots.profiles(results(), tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text()
    assert len(text) > 10_000
    plots.profiles(results()[:1], tmp_path / "little.png")
    assert (tmp_path / "little.png").stat().st_size > 1000
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        plots.profiles([], tmp_path / "none.png")


def test_tables_have_the_quantiles_of_both() -> None:
    section = profiles.sections(["throttlefs"], 1)[0]
    found = [result for result in results() if result.section == section.name]
    assert [row.value for row in section.rows(found[0])] == [0, 0, 0]
    (table,) = section.report(found)
    assert isinstance(table, Table)
    cells = [list(column.cells) for column in table.columns]
    assert len(cells) == 2 + 3 * len(quantiles.SHOWN)
    assert "-" not in {cell for column in cells for cell in column}


def test_rows_say_how_far_off_it_is() -> None:
    (row,) = depths.Depths(["throttlefs"], 1, 1, PROFILES).rows(
        Result("depths", "x/1", "throttlefs", 1, {"measured": 900.0, "expected": 1000.0})
    )
    assert row.value == pytest.approx(10)


def test_profiles_are_chosen_by_name() -> None:
    from benchmarks.cli import main

    said = CliRunner().invoke(main, ["profiles", "--list", "--profile", "nvme"]).output
    assert said.splitlines()[0] == "quantiles/nvme/reads"
    assert all("/nvme/" in line for line in said.splitlines())
    wrong = CliRunner().invoke(main, ["profiles", "--profile", "nvm"])
    assert wrong.exit_code == 2
