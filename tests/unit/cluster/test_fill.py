"""How a limit is shared out by what hosts ask for: progressive filling, in the model of the script.

`test_script.py` holds the script to the model.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.cluster.fill_model import FIRST, SECOND, Filling, Record, fill
from tests.unit.cluster.store_model import MOST

CAP = MOST * 500e6


def host(read: tuple[float, ...], write: tuple[float, ...] = (0.0,) * 5) -> Record:
    """A host that asks for this; see `Flow`: growing, steady (bytes and requests), full at."""
    return Record(1, 0, 100, 0, [0.0] * 6, [*read, *write], [0.0] * 4, "", "share")


def shares(*records: Record, cap: tuple[float, ...]) -> list[list[float]]:
    hosts = {str(number): record for number, record in enumerate(records)}
    want, _ = fill(hosts, [*cap, *[0.0] * (6 - len(cap))])
    return list(want.values())


def test_a_demand_that_ends_beside_two_that_grow() -> None:
    """200M that is full at a fill of 0.2, beside slopes of 5e8 and 4e9: the fill gets to 0.09."""
    found = shares(
        host((0, 0, 200e6, 800, 0.2)),
        host((5e8, 2000, 0, 0, 0)),
        host((4e9, 16000, 0, 0, 0)),
        cap=(CAP,),
    )
    assert [share[0] / 1e6 for share in found] == pytest.approx([90, 45, 360])


def test_a_demand_that_is_full_before_the_limit_gets_all_that_it_asks_for() -> None:
    found = shares(host((0, 0, 200e6, 800, 0.2)), host((5e8, 2000, 0, 0, 0)), cap=(CAP,))
    assert [share[0] / 1e6 for share in found] == pytest.approx([200, 295])


def test_what_nobody_asks_for_is_handed_out_but_for_a_tenth() -> None:
    found = shares(host((0, 0, 100e6, 400, 0.2)), host((0, 0, 50e6, 200, 0.1)), cap=(CAP,))
    assert sum(share[0] for share in found) == pytest.approx(150e6 + 0.9 * (CAP - 150e6))


amounts = st.sampled_from([0.0, 1e3, 4e5, 5e7, 3e9]) | st.floats(1, 1e9)
flows = st.builds(
    lambda growing, steady, size, full_at: (
        growing, growing / size, steady, steady / size, full_at if steady else 0.0
    ),
    amounts, amounts, st.sampled_from([512, 4096, 1 << 20]), st.sampled_from([0, 0.01, 0.2, 3]),
)  # fmt: skip
hosts = st.lists(st.builds(host, flows, flows), min_size=1, max_size=6)
caps = st.lists(st.sampled_from([0.0, 0.0, 1e3, 5e8]) | st.floats(1, 1e9), min_size=6, max_size=6)


def asks(record: Record, stream: int, f: float) -> float:
    """What a host asks for of a stream (bytes read, requests read, written …) at a fill of f."""
    direction, kind = divmod(stream, 2)
    demand = record.demand[direction * 5 : direction * 5 + 5]
    part = 1.0 if demand[4] <= 0 else min(1.0, f / demand[4])
    return demand[kind] * f + demand[2 + kind] * part


@settings(max_examples=200)
@given(hosts, caps)
def test_no_limit_is_passed_and_who_has_less_than_he_asks_for_needs_one_that_is_full(
    records: list[Record], cap: list[float]
) -> None:
    filling = Filling({str(number): record for number, record in enumerate(records)}, cap)
    sums = [sum(want[stream] for want in filling.want.values()) for stream in range(4)]
    full = []
    for limit in range(6):
        total = filling.of(sums, limit)
        steady = sum(
            filling.of([asks(record, s, 0) for s in range(4)], limit) for record in records
        )
        if cap[limit]:
            # What is asked for at a fill of 0 is not held back here, but by what is granted.
            assert total <= max(cap[limit], steady) * (1 + 1e-6)
            full.append(total >= cap[limit] * (1 - 1e-6))
        else:
            full.append(False)
    for number, record in enumerate(records):
        for stream in range(4):
            direction, kind = divmod(stream, 2)
            mine = [d for d in range(6) if cap[d] and stream in (FIRST[d], SECOND[d])]
            of_direction = [
                d
                for d in range(6)
                if cap[d] and {FIRST[d], SECOND[d]} & {2 * direction, 2 * direction + 1}
            ]
            got = filling.want[str(number)][stream]
            demand = record.demand[direction * 5 : direction * 5 + 5]
            ends = demand[2 + kind]
            if got < ends * (1 - 1e-6) or (demand[kind] > 0 and mine):
                assert any(full[d] for d in of_direction)


@settings(max_examples=200)
@given(hosts, st.floats(1, 1e9))
def test_one_limit_is_filled_evenly(records: list[Record], cap: float) -> None:
    """All get what they ask for at one and the same fill."""
    filling = Filling(
        {str(number): record for number, record in enumerate(records)}, [cap, *[0.0] * 5]
    )
    got = [want[0] + want[2] for want in filling.want.values()]

    def total(f: float) -> float:
        return sum(asks(record, 0, f) + asks(record, 2, f) for record in records)

    low, high = -30.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if total(10**middle) <= cap else (low, middle)
    f = 10**low if total(10**-30) <= cap else 0.0
    for record, amount in zip(records, got, strict=True):
        assert amount == pytest.approx(asks(record, 0, f) + asks(record, 2, f), rel=1e-6, abs=1)
