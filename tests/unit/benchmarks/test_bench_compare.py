"""Two versions beside each other: what is better, what is worse, and how sure that is."""

import io
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import pytest
from benchmarks import accuracy, compare, report
from benchmarks.accuracy.cases import GRID
from benchmarks.results import Figures, Result, Row, Section, Step, in_turn
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

OTHER = "checkout:base"


class Fake(Section):
    name = "fake"
    title = "Fake"
    method = "None."

    def __init__(self, better: Literal["lower", "higher", "nearer"] = "lower") -> None:
        self.better = better

    def steps(self) -> Iterable[Step]:
        return ()

    def rows(self, result: Result) -> Iterable[Row]:
        return [Row("it, us", result["it"], self.better)]  # type: ignore[arg-type]

    def report(self, results: Sequence[Result]) -> Iterable[RenderableType]:
        return [f"{len(results)} shown"]


def results(peer: str, values: Iterable[float], case: str = "a") -> list[Result]:
    return [Result("fake", case, peer, n, {"it": value}) for n, value in enumerate(values, 1)]


def compared(section: Section, ours: list[float], theirs: list[float]) -> compare.Comparison:
    found = [*results("throttlefs", ours), *results(OTHER, theirs)]
    (row,) = compare.compare(section, found, OTHER)
    return row


def test_rounds_are_held_against_each_other_in_pairs() -> None:
    # The machine got slower all the time, and this version was always 10 % slower.
    row = compared(Fake(), [110, 220, 440], [100, 200, 400])
    assert (row.name, row.what, row.ours, row.theirs) == ("fake/a", "it, us", 220, 200)
    assert row.ratio == pytest.approx(1.1)
    assert row.changes == pytest.approx([0.1, 0.1, 0.1])
    assert row.is_worse
    assert compare.verdict(row) == "worse"


def test_what_was_worse_in_most_rounds_only_is_in_doubt() -> None:
    row = compared(Fake(), [110, 120, 100], [100, 100, 100])
    assert row.change == pytest.approx(0.1)
    assert compare.verdict(row) == "worse?"
    assert compare.verdict(compared(Fake(), [104], [100])) == ""
    assert compare.verdict(compared(Fake(), [10], [100])) == ""


@given(st.floats(1, 1e9), st.floats(0.5, 2))
def test_more_is_better_of_a_rate_and_less_of_a_time(value: float, factor: float) -> None:
    time = compared(Fake("lower"), [value * factor], [value])
    rate = compared(Fake("higher"), [value / factor], [value])
    assert time.change == pytest.approx(factor - 1, abs=1e-9)
    assert rate.change == pytest.approx(time.change, abs=1e-9)


def test_a_distance_is_worse_by_its_difference() -> None:
    # 0.03 % off the limit is not three times as bad as 0.01 %.
    row = compared(Fake("nearer"), [0.03, 7], [0.01, 1])
    assert row.changes == pytest.approx([0.0002, 0.06])
    assert row.ratio is None


def test_nothing_at_all_is_no_change_and_something_is_one() -> None:
    assert compared(Fake(), [0], [0]).change == 0
    assert compared(Fake(), [5], [0]).is_worse
    assert compared(Fake("higher"), [0], [5]).is_worse


def test_each_way_is_held_against_the_same_way_of_the_other_version() -> None:
    found = [
        *results("throttlefs", [3]), *results("throttlefs, no limits", [2]),
        *results(OTHER, [6]), *results(f"{OTHER}, no limits", [1]), *results("qsd", [9]),
        *results("throttlefs", [1], "b"), Result("fake", "b", OTHER, 1, {}, "it failed", True),
    ]  # fmt: skip
    rows = list(compare.compare(Fake(), found, OTHER))
    assert [(row.name, row.ratio) for row in rows] == [
        ("fake/a", 0.5),
        ("fake/a, no limits", 2.0),
    ]


def test_a_round_that_one_of_them_failed_does_not_count() -> None:
    found = [*results("throttlefs", [1, 2, 3]), *results(OTHER, [1, 2])]
    (row,) = compare.compare(Fake(), found, OTHER)
    assert len(row.changes) == 2


def printed(found: list[Result], monkeypatch: pytest.MonkeyPatch) -> str:
    output = io.StringIO()
    monkeypatch.setattr(report, "Console", lambda **_: Console(file=output, width=200))
    report.print_tables([Fake()], found, "")
    return output.getvalue()


def test_the_last_lines_say_how_many_rows_are_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        *results("throttlefs", [2, 2]), *results(OTHER, [1, 1]),
        *results("throttlefs", [2, 1], "b"), *results(OTHER, [1, 1], "b"),
        *results("throttlefs", [1, 1], "c"), *results(OTHER, [1, 1], "c"),
    ]  # fmt: skip
    text = printed(found, monkeypatch)
    assert "6 shown" in text
    said = "Worse than checkout:base by over 5 %: 2 of 3 rows, 1 of them in every round (worse), 1"
    assert said in text
    document = report.document("speed", {}, [Fake()], found)
    assert [row["verdict"] for row in document["comparison"][OTHER]] == ["worse", "worse?", ""]


def test_ways_through_another_version_are_not_versions_of_their_own() -> None:
    names = [f"{OTHER}, no limits", "throttlefs, no limits", "qsd", OTHER, "checkout:b"]
    assert compare.other_versions(names) == [OTHER, "checkout:b"]
    assert compare.other_versions(["qsd", OTHER]) == []


def test_without_another_version_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed([*results("throttlefs", [2]), *results("qsd", [1])], monkeypatch)
    assert "Worse" not in text
    assert "Worse" not in printed([*results("qsd", [2]), *results(OTHER, [1])], monkeypatch)


def test_a_report_gets_the_middle_round_of_what_was_not_failed() -> None:
    failed = Result("fake", "a", "qsd", 4, {}, "no", True)
    chosen = Fake().for_report([*results("qsd", [9, 1, 5]), failed])
    assert [result["it"] for result in chosen] == [5]
    assert Fake().for_report([failed]) == [failed]
    fails = Fake().for_report([*results("qsd", [3]), *results("qsd", [4], "b")])
    assert [result.case for result in fails] == ["a", "b"]


def test_the_peers_take_turns_and_change_places_each_round() -> None:
    def measure(_bench: object, peer: str) -> Figures:
        return {"peer": peer}

    steps = list(in_turn("s", "c", ["x", "y"], 3, 1.0, measure))
    order = [(1, "x"), (1, "y"), (2, "y"), (2, "x"), (3, "x"), (3, "y")]
    assert [(step.round, step.peer) for step in steps] == order
    assert [step.measure(None)["peer"] for step in steps] == [peer for _, peer in order]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("figures", "distance"),
    [
        ({"coarse": False, "ratio": 0.98}, 2.0),
        ({"coarse": True, "ratio": math.nan, "requests_over": 0.4}, 0.0),
        ({"coarse": True, "ratio": 1.5, "requests_over": 1.5}, 50.0),
        ({"coarse": True, "ratio": 0.5, "requests_over": -0.25}, 25.0),
    ],
)
def test_of_a_limit_the_distance_counts(figures: Figures, distance: float) -> None:
    grid = accuracy.sections(["throttlefs"], 4.0)[0]
    (row,) = grid.rows(Result("grid", GRID[0].name, "throttlefs", 1, figures))
    assert row.value == pytest.approx(distance)
    assert row.better == "nearer"
