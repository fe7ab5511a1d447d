"""The loads of the benchmark of growth, what its client reckons, and its tables."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest
from benchmarks import crowd, plots, scale
from benchmarks.cli import main
from benchmarks.crowd import Limited, lateness
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result
from benchmarks.scale.growth import Growth
from benchmarks.scale.loads import DEPTHS, GROUPS, IMAGES, MOUNTS, TOTAL, Kind
from click.testing import CliRunner
from rich.table import Table

from throttlefs.policy.policy import make_policy
from throttlefs.settings.config import decode_config
from throttlefs.settings.options import MountOptions

ALL = [(kind, size) for kind in (IMAGES, DEPTHS, GROUPS, MOUNTS) for size in kind.sizes]


@pytest.mark.parametrize(("kind", "size"), ALL, ids=lambda value: getattr(value, "name", value))
def test_every_load_asks_for_the_same_rate(kind: Kind, size: int) -> None:
    load = kind.make(size)
    asked = sum(limit["rate"] for limit in load.limited) * load.mounts
    assert asked == pytest.approx(TOTAL)
    names = [name for limit in load.limited for name in limit["files"]]
    assert len(names) == len(set(names))
    assert set(names) <= set(load.files)


@pytest.mark.parametrize(("kind", "size"), ALL, ids=lambda value: getattr(value, "name", value))
def test_the_configuration_holds_each_image_to_its_rate(kind: Kind, size: int) -> None:
    load = kind.make(size)
    policy = make_policy(MountOptions(), decode_config(load.config.encode(), "file"))
    for limit in load.limited:
        groups = set()
        for name in limit["files"]:
            held = policy.for_path(name.encode())
            groups.add(held.group)
            if held.group is None:
                assert float(held.limits.iops) == pytest.approx(limit["rate"])
            else:
                assert not held.limits.iops
                assert float(policy.groups[held.group].limits.iops) == pytest.approx(limit["rate"])
        assert len(groups) == 1


def test_ten_thousand_images_of_which_a_thousand_wait_and_a_hundred_are_busy() -> None:
    load = IMAGES.make(10_000)
    assert len(load.files) == 10_000
    by_depth = [limit["depth"] for limit in load.limited]
    assert (by_depth.count(1), by_depth.count(4)) == (1000, 100)
    assert 64 in MOUNTS.sizes


def test_lateness_is_what_exceeds_the_period() -> None:
    limited = Limited(["x"], 1, 1000.0, answered=[0, 1_000_000, 2_100_000, 3_000_000])
    assert lateness(limited) == [0, 100_000, -100_000]
    assert lateness(Limited(["x"], 1, 1000.0, answered=[5])) == []


def test_the_client_reads_as_its_plan_says(tmp_path: Path) -> None:
    for name in ("read", "idle"):
        (tmp_path / name).write_bytes(bytes(crowd.BLOCK))
    plan = {
        "limited": [{"files": [str(tmp_path / "read")], "depth": 3, "rate": 1000.0}],
        "idle": [str(tmp_path / "idle")],
        "pids": [os.getpid()],
        "settling": 0.01,
    }
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    for seconds in (0.1, 1, 5, 20):  # a busy machine takes longer
        try:
            found = crowd.crowd(plan | {"seconds": seconds})
        except OSError as error:
            pytest.skip(f"no AIO, or no O_DIRECT here: {error}")
        if found["requests"] > 3:
            break
    assert found["open"] == 2
    assert found["requests"] > 3
    assert found["late_p50"] <= found["late_p99"]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= descriptors[0]


def results(peers: tuple[str, ...] = ("throttlefs",)) -> list[Result]:
    figures: dict[str, Any] = {
        "images": 100, "waiting": 14, "per_second": 3001.0, "off": 0.0003, "cpu": 0.42,
        "cpu_us": 140.0, "memory": 30 << 20, "late_p50": -20.0, "late_p99": 310_000.0,
    }  # fmt: skip
    return [
        Result(step.section, step.case, step.peer, 1, figures)
        for section in scale.sections(peers, 1, 1)
        for step in section.steps()
    ]


def test_the_tables_have_a_row_for_each_size() -> None:
    for section in scale.sections(["throttlefs"], 1, 1):
        own = [result for result in results() if result.section == section.name]
        (table,) = section.report(own)
        assert isinstance(table, Table)
        assert table.row_count == len(own) >= 3
        cells = [next(iter(column.cells)) for column in table.columns]
        assert cells[1:] == [
            "throttlefs", "3,001", "+0.03 %", "42 %", "140", "30.0 MiB", "-0 us", "310 us",
        ]  # fmt: skip
        assert [row.value for row in section.rows(own[0])] == [140, 30, 310]


def test_a_short_run_is_small() -> None:
    listed = CliRunner().invoke(main, ["scale", "--quick", "--list"]).output.split()
    assert "images/1000" in listed
    assert "mounts/16" in listed
    assert not {"images/10000", "mounts/64"} & set(listed)
    everything = CliRunner().invoke(main, ["scale", "--list"]).output.split()
    assert set(listed) < set(everything)
    assert {"images/10000", "mounts/64"} <= set(everything)


def test_peers_without_limits_by_path_are_left_out() -> None:
    section = Growth(DEPTHS, ["throttlefs", "qsd", "checkout:old"], 1, 1, None)
    assert {step.peer for step in section.steps()} == {"throttlefs", "checkout:old"}


def test_a_picture_has_a_column_for_each_kind(tmp_path: Path) -> None:
    plots.scale(results(), tmp_path / "picture.svg")
    text = (tmp_path / "picture.svg").read_text()
    assert len(text) > 10_000
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        plots.scale([], tmp_path / "none.png")
