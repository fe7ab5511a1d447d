"""Which requests a rule fires for: by count, by time, by chance, and the same each time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.device.faults import FaultTable, NoSuchRuleError
from throttlefs.settings.fault_words import Op
from throttlefs.settings.faults import Fault, assignments

SECOND = 10**9


@dataclass
class Clock:
    now: int = 5 * SECOND

    def __call__(self) -> int:
        return self.now


def table(*lines: str, clock: Clock | None = None) -> FaultTable:
    made = FaultTable(clock or Clock())
    for line in lines:
        made.add(Fault.parse(assignments(line.split())))
    return made


def firings(made: FaultTable, count: int, op: Op = Op.WRITE, path: str = "a") -> list[int]:
    """Which of *count* requests a rule fires for, from 1 on."""
    found = made.candidates(path)
    return [n for n in range(1, count + 1) if made.match(found, op, 0, 4096) is not None]


@pytest.mark.parametrize(
    ("triggers", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ("nth=3", [3]),
        ("every=3", [3, 6, 9]),
        ("after=8", [9, 10]),
        ("times=2", [1, 2]),
        ("after=2 nth=3", [5]),
        ("after=2 every=3", [5, 8]),
        ("every=2 times=3", [2, 4, 6]),
        ("after=10", []),
        ("probability=1", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_a_rule_fires_by_count(triggers: str, expected: list[int]) -> None:
    made = table(f"error=EIO {triggers}")
    assert firings(made, 10) == expected
    (rule,) = made.rules()
    assert (rule.matched, rule.fired) == (10, len(expected))


def test_only_what_matches_counts() -> None:
    made = table("error=EIO op=write path=*.img range=1M-2M nth=2")
    match, img = made.match, made.candidates("a.img")
    mib = 1 << 20
    assert match(made.candidates("a.txt"), Op.WRITE, mib, 1) is None
    assert match(img, Op.READ, mib, 1) is None
    assert match(img, Op.WRITE, 2 * mib, 1) is None
    assert match(img, Op.WRITE, mib - 4096, 4096) is None
    assert made.rules()[0].matched == 0
    assert match(img, Op.WRITE, mib - 4096, 4097) is None
    assert made.rules()[0].matched == 1
    firing = match(img, Op.WRITE, 2 * mib - 1, 1)
    assert firing is not None
    assert firing.count == 2


def test_the_first_rule_that_fires_decides_and_later_ones_do_not_count() -> None:
    made = table("error=EIO every=2", "delay=1s", "hang")
    found = made.candidates("x")
    numbers = []
    for _ in range(4):
        firing = made.match(found, Op.READ, 0, 1)
        assert firing is not None
        numbers.append(firing.rule.number)
    assert numbers == [2, 1, 2, 1]
    assert [rule.matched for rule in made.rules()] == [4, 2, 0]


def test_a_request_of_several_kinds_counts_once() -> None:
    made = table("error=EIO op=write,flush nth=2")
    found = made.candidates("x")
    assert made.match(found, Op.WRITE | Op.FLUSH, 0, 1) is None
    assert made.match(found, Op.FLUSH) is not None


def test_a_rule_with_a_period_holds_then_alone() -> None:
    clock = Clock()
    made = table("error=EIO at=10s lasting=2s repeat=10s times=3", clock=clock)
    found = made.candidates("x")
    begin = clock.now
    on = []
    for second in range(50):
        clock.now = begin + second * SECOND
        if made.match(found, Op.READ, 0, 1) is not None:
            on.append(second)
    assert on == [10, 11, 20]
    assert made.rules()[0].matched == 8  # also when it has fired often enough
    clock.now = begin
    assert made.next_change() == begin + 10 * SECOND


def test_rules_have_numbers_that_are_never_used_again() -> None:
    made = table("error=EIO", "hang")
    made.remove(2)
    assert made.add(Fault.parse({"lose": True})).number == 3
    with pytest.raises(NoSuchRuleError):
        made.remove(2)
    generation = made.generation
    assert made.candidates("x").generation == generation
    made.remove(1)
    assert made.generation != generation
    assert [rule.number for rule in made.rules()] == [3]


def test_several_paths_and_several_patterns() -> None:
    made = table("error=EIO path=d path=d/** op=rename")
    taken = [path for path in ("d", "d/x/y", "e", "dd") if made.candidates(path).rules]
    assert taken == ["d", "d/x/y"]
    assert made.candidates("e", "d/x").rules  # a rename has two


ops = st.sampled_from([Op.READ, Op.WRITE, Op.WRITE | Op.FLUSH, Op.FLUSH, Op.UNLINK])
requests = st.lists(st.tuples(ops, st.sampled_from("ab"), st.integers(0, 8)), max_size=60)
lines = st.lists(
    st.sampled_from(
        [
            "error=EIO probability=0.3 op=read,write,unlink",
            "error=EIO probability=0.3 seed=9",
            "delay=1s every=3 path=a op=write,flush",
            "torn=512 after=2 times=5",
            "lose op=write,flush probability=0.5 times=4",
            "corrupt=flip range=4K-8K probability=0.5",
            "hang op=unlink nth=2",
        ]
    ),
    max_size=5,
)


def played(rules: list[str], asked: list[tuple[Op, str, int]]) -> list[object]:
    made = table(*rules)
    log: list[object] = []
    for op, path, block in asked:
        firing = made.match(made.candidates(path), op, block * 4096, 4096)
        if firing is not None:
            log.append((firing.rule.number, firing.count))
            if firing.rule.fault.effect.value == "torn":
                log.append(firing.torn_length(block * 4096, 4096))
    log.append([(rule.matched, rule.fired) for rule in made.rules()])
    return log


@given(lines, requests)
def test_the_same_requests_get_the_same_faults(
    rules: list[str], asked: list[tuple[Op, str, int]]
) -> None:
    assert played(rules, asked) == played(rules, asked)


def test_a_chance_is_kept_and_a_seed_draws_others() -> None:
    runs = [firings(table(f"error=EIO probability=0.1 seed={seed}"), 5000) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]
    assert all(400 < len(run) < 600 for run in runs)
    # Rules side by side draw apart.
    both = table("error=EIO probability=0.1 op=read", "error=EIO probability=0.1 op=write")
    assert firings(both, 1000, Op.READ) != firings(both, 1000, Op.WRITE)


def test_what_was_damaged_stays_damaged_until_the_rule_goes() -> None:
    made = table("corrupt=zeros nth=1 range=4K-")
    found = made.candidates("x")
    (rule,) = made.rules()
    firing = made.match(found, Op.READ, 0, 8192)
    assert firing is not None
    rule.remember("key", 0, 8192)
    assert made.damage(found, "key", 0, 100_000) == [(rule, [(4096, 8192)])]
    assert made.damage(found, "key", 6000, 10) == [(rule, [(6000, 6010)])]
    assert made.damage(found, "key", 0, 4096) == []
    assert made.damage(found, "other", 0, 8192) == []
    made.forget("key")
    assert made.damage(found, "key", 0, 8192) == []


def test_a_rule_for_all_reads_remembers_nothing() -> None:
    (rule,) = table("corrupt=zeros").rules()
    rule.remember("key", 0, 8192)
    assert not rule.damaged


PLACES = st.integers(0, 40)
RANGES = st.one_of(
    st.just(""),
    st.builds(lambda first, size: f" range={first}-{first + size}", PLACES, st.integers(1, 10)),
    st.builds(lambda first: f" range={first}-", PLACES),
)
RULES = st.lists(st.tuples(st.sampled_from(["read", "write", "read,write"]), RANGES))


@given(RULES, PLACES, st.integers(0, 20))
def test_what_is_outside_of_all_ranges_matches_nothing(
    rules: list[tuple[str, str]], offset: int, size: int
) -> None:
    """So a request that no rule can be for is let go by two comparisons."""
    made = table(*(f"error=EIO op={ops}{places}" for ops, places in rules))
    found = made.candidates("a")
    for op, (first, end) in ((Op.READ, found.reads), (Op.WRITE, found.writes)):
        is_outside = offset >= end or offset + size <= first
        if is_outside:
            assert made.match(found, op, offset, size) is None
        asked = [rule for rule in made.rules() if rule.ops & op]
        if len(asked) == 1 and not is_outside:
            assert asked[0].touches(offset, size)
