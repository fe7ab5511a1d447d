"""The cases there are, and reports of runs that are complete, interrupted or failed."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks import accuracy, cli, compare, plots, report, speed
from benchmarks.accuracy.cases import GIB, GRID, KIB, MIB
from benchmarks.accuracy.fairness import rate_within, shares
from benchmarks.accuracy.grid import summarise as summarise_grid
from benchmarks.accuracy.live import delay_of_change
from benchmarks.allowance import RATES
from benchmarks.cli import main
from benchmarks.completions import Completion
from benchmarks.errors import BenchmarkError
from benchmarks.results import Result, Section, Step
from benchmarks.speed.workloads import summarise as summarise_workloads
from click.testing import CliRunner
from rich.console import Console

SECOND = 1_000_000_000
PEERS = ["throttlefs", "qsd", "bindfs", "native"]


def all_sections() -> list[Section]:
    return [
        *accuracy.sections(["throttlefs", "qsd"], 4.0),
        *speed.sections(PEERS, 2.0, rounds=2, image_mib=64),
    ]


def test_the_grid_covers_what_it_claims() -> None:
    assert len(GRID) >= 24
    assert {name for case in GRID for name in case.limits} >= set(RATES)
    byte_rates = {v for case in GRID for name, v in case.limits.items() if name in RATES[:3]}
    assert (min(byte_rates), max(byte_rates)) == (256 * KIB, GIB)
    request_rates = {v for case in GRID for name, v in case.limits.items() if name in RATES[3:]}
    assert (min(request_rates), max(request_rates)) == (10, 20_000)
    loads = [load for case in GRID for load in case.loads]
    assert {1, 64} <= {load.depth for load in loads}
    assert {"4k", "1m"} <= {load.block for load in loads}
    assert {"randread", "randwrite", "randrw"} <= {load.rw for load in loads}
    assert sum("burst" in case.name for case in GRID) >= 3
    assert all(set(case.binding) <= set(case.limits) for case in GRID)


def test_no_two_steps_are_the_same_and_each_takes_its_time() -> None:
    steps = [step for section in all_sections() for step in section.steps()]
    keys = [(step.section, step.case, step.peer, step.round) for step in steps]
    assert len(keys) == len(set(keys))
    assert all(step.seconds > 0 for step in steps)


def test_the_peers_of_a_case_are_measured_in_turn() -> None:
    grid = next(section for section in all_sections() if section.name == "grid")
    steps = list(grid.steps())
    assert [(s.case, s.peer) for s in steps[:4]] == [
        (case.name, peer) for case in GRID[:2] for peer in ("throttlefs", "qsd")
    ]


FIGURES: dict[str, dict[str, Any]] = {
    "grid": {
        "limit": "bps", "ratio": 1.0004, "requests_over": 0.5, "coarse": False, "requests": 9,
        "cpu_wait": 0.01, "verdicts": [], "_curve": [(0.0, 1.0), (4.0, 100.0)],
    },
    "latency": {"p50": 333_000, "p99": 400_000},
    "windows": {"100 ms": 0.01, "10 ms": -0.2},
    "fairness": {"bytes_per_second": [1e6, 2e6], "total_ratio": 1.0, "worst": 0.1, "jain": 0.99},
    "neighbours": {
        "alone": 1e5, "beside": 2e5, "ratio": 2.0, "waiting": None,
        "idle_stat": 1e5, "idle_list": 1e5, "busy_stat": 2e5, "busy_list": 2e7,
    },
    "release": {"release_us": 18.0, "queue_us": 5.0},
    "live": {"raised": [0.001, 0.002], "lowered": []},
    "workloads": {"per_second": 1000.0, "bytes_per_second": 4e6, "cpu_us": 8.0},
    "images": {"per_second": 1000.0, "bytes_per_second": 4e6},
    "stalls": {"p50": 1e5, "p99": 1e6, "max": 2e7},
    "volatile": {"per_second": 1000.0, "bytes_per_second": 4e6, "cpu_us": 8.0},
    "waiting": {"cpu": 0.2, "per_second": 3000.0, "p50": 333_000, "p99": 380_000},
    "files": {
        "open_per_second": 1e4, "read_per_second": 2e4, "memory_idle": None, "memory_open": 1,
        "memory_after": 2, "first": 1e5, "again": 1e5, "with_stat": 1e4,
    },
    "memory": {
        "max_inflight": 64 * MIB, "idle": 40 * MIB, "waiting_peak": 90 * MIB, "waiting": 1000,
        "peak": 100 * MIB, "after": 41 * MIB, "lost": 0,
    },
    "names": {"create": 1e6, "stat": 4_250, "clone": 5e9, "pss": 20 * MIB, "rss": 30 * MIB},
}  # fmt: skip


def result_of(step: Step) -> Result:
    figures = FIGURES[step.section]
    return Result(step.section, step.case, step.peer, step.round, figures)


def printed(sections: list[Section], results: list[Result], monkeypatch: pytest.MonkeyPatch) -> str:
    output = io.StringIO()
    monkeypatch.setattr(report, "Console", lambda **_: Console(file=output, width=200))
    report.print_tables(sections, results, "the clock")
    return output.getvalue()


def test_every_section_reports_every_case_that_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = all_sections()
    results = [result_of(step) for section in sections for step in section.steps()]
    text = printed(sections, results, monkeypatch)
    for section in sections:
        assert section.method.replace("{clock}", "the clock")[:40] in text
    for case in GRID:
        assert case.name in text
    assert "{clock}" not in text
    assert "1.0004" in text


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_run_that_was_cut_short_reports_what_it_has(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for section in all_sections():
        results = [result_of(step) for step in list(section.steps())[:count]]
        text = printed([section], results, monkeypatch)
        assert bool(text.strip()) == bool(results)
        json.dumps(report.document("x", {}, [section], results), allow_nan=False)


def test_what_failed_is_named_once_with_its_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    for section in all_sections():
        results = [
            Result(step.section, step.case, step.peer, step.round, {}, "out of luck", True)
            for step in section.steps()
        ]
        text = printed([section], results, monkeypatch)
        assert "out of luck" in text
        assert text.count("out of luck") <= len({result.peer for result in results})


def test_the_json_document_has_neither_curves_nor_nan() -> None:
    section = next(section for section in all_sections() if section.name == "grid")
    results = [result_of(step) for step in section.steps()]
    document = report.document("accuracy", {"settings": {"seconds": 4}}, [section], results)
    text = json.dumps(document, allow_nan=False)
    assert "_curve" not in text
    assert document["summary"]["grid"]["qsd"]["worst"] == pytest.approx(0.0004)
    assert document["summary"]["grid"]["qsd"]["coarse_worst"] is None
    assert len(document["results"]) == 2 * len(GRID)


def grid_result(ratio: float, coarse: bool = False, over: float = 0.5) -> Result:
    figures = {"ratio": ratio, "coarse": coarse, "requests_over": over, "cpu_wait": 0.01}
    return Result("grid", "x", "qsd", 1, figures)


def test_the_grid_is_summed_up_by_its_worst_and_mean_and_coarse_cases_apart() -> None:
    summary = summarise_grid(
        [grid_result(1.01), grid_result(0.97), grid_result(1.2, coarse=True, over=2.5)]
    )
    assert summary["worst"] == pytest.approx(-0.03)
    assert summary["mean"] == pytest.approx(0.02)
    assert summary["coarse_requests_over"] == 2.5


def test_workloads_are_summed_up_by_medians_and_ratios_to_qsd() -> None:
    rates = {"throttlefs": [50.0, 90.0, 60.0], "qsd": [20.0, 30.0, 90.0]}
    results = [
        Result("workloads", "warm/x", peer, n, {"per_second": rate, "bytes_per_second": 0.0})
        for peer, listed in rates.items()
        for n, rate in enumerate(listed, start=1)
    ]
    row = summarise_workloads(results)["warm/x"]
    assert row["per_second"] == {"throttlefs": 60.0, "qsd": 30.0}
    assert row["ratio_to_qsd"] == {"throttlefs": 2.0, "qsd": 1.0}
    assert row["cpu_us"] == {}


def answers(*moments: float, size: int = 1000) -> list[Completion]:
    return [Completion(round(moment * SECOND), False, size) for moment in moments]


def test_a_share_does_not_depend_on_where_the_stretch_cuts() -> None:
    every_tenth = answers(*(n / 10 for n in range(50)))
    for start, end in [(0.0, 4.0), (0.05, 4.0), (0.01, 3.99)]:
        rate = rate_within(every_tenth, round(start * SECOND), round(end * SECOND))
        assert rate == pytest.approx(10_000)
    assert rate_within(every_tenth, 0, SECOND // 20) == 0


def test_shares_are_taken_from_when_all_have_begun() -> None:
    early = answers(*(n / 100 for n in range(100)), *(1 + n / 10 for n in range(50)))
    late = answers(*(1 + n / 10 for n in range(50)))
    assert shares([early, late], 2.0) == pytest.approx([10_000, 10_000])
    with pytest.raises(BenchmarkError, match="clients 2 "):
        shares([early, []], 2.0)


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.05])
@pytest.mark.parametrize(("old", "new"), [(1e6, 50e6), (50e6, 1e6)])
def test_the_delay_of_a_change_is_found_from_the_bytes_after_it(
    delay: float, old: float, new: float
) -> None:
    size = 1000
    moment, listed = 0.0, []
    while moment < 0.4:
        moment += size / (old if moment < 0.1 + delay else new)
        listed.append(Completion(round(moment * SECOND), False, size))
    found = delay_of_change(listed, SECOND // 10, 0.2, old, new)
    assert found == pytest.approx(delay, abs=0.002)


def test_listing_measures_nothing() -> None:
    runner = CliRunner()
    listed = runner.invoke(main, ["accuracy", "--peer", "qsd", "--list"])
    assert listed.exit_code == 0
    lines = listed.output.splitlines()
    assert [line for line in lines if line.startswith("grid/")] == [
        f"grid/{case.name}" for case in GRID
    ]
    assert len(lines) == len(set(lines))
    speeds = runner.invoke(main, ["speed", "--list", "--only", "cold"]).output.splitlines()
    assert len(speeds) == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["accuracy", "--only", "nonsense"], "matches --only nonsense"),
        (["accuracy", "--peers-only"], "name a --peer"),
        (["accuracy", "--seconds", "0"], "0"),
        (["accuracy", "--peer", "cgroup"], "cgroup"),
        (["speed", "--dir", "/no/such/directory"], "/no/such/directory"),
        (["speed", "--rounds", "0"], "rounds"),
    ],
)
def test_bad_usage_is_told_before_anything_runs(words: list[str], message: str) -> None:
    outcome = CliRunner().invoke(main, words)
    assert outcome.exit_code == 2
    assert message in outcome.output


def test_files_that_cannot_be_written_are_told_before_anything_runs(tmp_path: Path) -> None:
    nowhere = tmp_path / "none" / "x.json"
    outcome = CliRunner().invoke(main, ["accuracy", "--json", str(nowhere)])
    assert outcome.exit_code == 1
    assert str(nowhere) in outcome.output.replace("\n", "")
    picture = CliRunner().invoke(main, ["accuracy", "--plot", str(tmp_path / "x.jpeg")])
    assert picture.exit_code == 1
    assert ".png" in picture.output


def test_every_section_can_be_compared_and_never_with_itself_at_a_loss() -> None:
    versions = ["throttlefs", "checkout:base"]
    sections = [
        *accuracy.sections(versions, 4.0, rounds=3),
        *speed.sections(versions, 2.0, rounds=2, image_mib=64),
    ]
    results = [result_of(step) for section in sections for step in section.steps()]
    rows = compare.compare_all(sections, results)["checkout:base"]
    assert {row.name.partition("/")[0] for row in rows} == {section.name for section in sections}
    assert not any(row.is_worse for row in rows)
    assert {len(row.changes) for row in rows} == {2, 3}


def test_pictures_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = [result_of(step) for section in all_sections() for step in section.steps()]
    for draw in (plots.accuracy, plots.speed):
        picture = tmp_path / f"{draw.__name__}.png"
        draw(results, picture)
        assert picture.read_bytes().startswith(b"\x89PNG")
        with pytest.raises(BenchmarkError, match="nothing is drawn"):
            draw([], picture)


def test_the_chosen_cases_are_drawn_or_else_the_first() -> None:
    def measured(*names: str) -> list[Result]:
        return [Result("grid", name, "qsd", 1, FIGURES["grid"]) for name in names]

    chosen = [case.name for case in GRID if case.plotted]
    plain = [case.name for case in GRID if not case.plotted]
    assert [case.name for case in plots.plotted_cases(measured(*chosen, *plain))] == chosen
    assert [case.name for case in plots.plotted_cases(measured(*plain))] == plain[:6]


@pytest.mark.parametrize("seconds", [1.0, 4.0])
def test_a_burst_of_the_grid_ends_well_within_its_run(seconds: float) -> None:
    steps = {step.case: step for step in accuracy.sections(["throttlefs"], seconds)[0].steps()}
    bursts = [case for case in GRID if case.burst_lasts]
    assert len(bursts) >= 3
    for case in bursts:
        assert steps[case.name].seconds >= max(seconds, 1.5 * case.burst_lasts)


@pytest.mark.parametrize(("name", "limit_s"), [("accuracy", 300), ("speed", 690)])
def test_a_quick_run_has_each_case_once_and_fits(
    name: str, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[list[Step]] = []

    def note(benchmark: cli.Benchmark, choices: cli.Choices) -> None:
        _, _, sections = cli._plan(benchmark, choices, list(cli._peers(choices)))
        taken.append(cli._steps(sections, choices))

    monkeypatch.setattr(cli, "_run", note)
    for words in ([], ["--quick"], ["--quick", "--seconds", "7"]):
        assert CliRunner().invoke(main, [name, *words]).exit_code == 0
    usual, quick, long = taken
    assert sum(step.seconds for step in quick) <= limit_s
    assert sum(step.seconds for step in long) > sum(step.seconds for step in quick)
    assert {step.name for step in quick} == {step.name for step in usual}
    keys = [(step.name, step.peer) for step in quick]
    assert len(keys) == len(set(keys))


def test_names_are_held_against_bindfs_by_the_medians_of_the_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    section = next(section for section in all_sections() if section.name == "names")
    taken = {"throttlefs": [30e3, 90e3], "bindfs": [10e3, 20e3], "native": [1_500, 1_500]}
    results = [
        Result("names", "files-8", peer, number, {"open": ns})
        for number in (0, 1)
        for peer, rounds in taken.items()
        for ns in [rounds[number]]
    ]
    results += [
        Result("names", "idle-memory", peer, 1, {"pss": size * MIB})
        for peer, size in (("throttlefs", 20), ("bindfs", 2))
    ]
    results.append(Result("names", "idle-memory", "native"))
    lines = printed([section], results, monkeypatch).splitlines()

    def cells(label: str) -> list[str]:
        row = next(line for line in lines if label in line)
        return [cell.strip() for cell in row.split("│")[1:-1]]

    assert cells("open, close") == ["open, close", "8", "60.0", "15.0", "1.5", "4.00", "0.10"]
    assert cells("PSS") == ["PSS", "20.0", "2.0", "-", "10.00", "-"]


@pytest.mark.parametrize("peer", ["qsd", "qsd-threads", "blkio"])
def test_names_are_not_measured_of_peers_that_serve_single_images(peer: str) -> None:
    for section in speed.sections([peer], 1.0, 1, image_mib=64):
        if section.name in ("names", "files"):
            assert not list(section.steps())
        elif section.name == "waiting":
            assert bool(list(section.steps())) == (peer != "blkio")  # no daemon takes CPU there


def test_rounds_of_names_are_interleaved_and_qsd_has_none() -> None:
    section = next(section for section in all_sections() if section.name == "names")
    steps = list(section.steps())[:6]
    peers = ["throttlefs", "bindfs", "native"]
    assert [(s.round, s.peer) for s in steps] == [
        *((1, peer) for peer in peers),
        *((2, peer) for peer in reversed(peers)),
    ]


def test_a_section_says_how_long_it_took_and_how_busy_the_machine_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sections = accuracy.sections(["throttlefs"], 4.0)
    steps = [step for section in sections for step in section.steps() if step.section == "latency"]
    results = [
        replace(result_of(step), took=10.0 * number, load=number / 2)
        for number, step in enumerate(steps, start=1)
    ]
    assert "It took 30 s; load average 0.5 to 1.0." in printed(sections, results, monkeypatch)
