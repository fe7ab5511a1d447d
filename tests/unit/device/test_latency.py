"""Latencies by percentiles."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from throttlefs.device.latency import CARDS, Curve, Deck

US = 1000
MS = 1000 * US

percentiles = st.lists(st.integers(1, 10**10), min_size=1, max_size=3).map(
    lambda times: tuple(sorted(times))
)


def test_the_curve_goes_through_its_points():
    curve = Curve((200 * US, 2 * MS, 10 * MS))
    assert curve.at(0.5) == 200 * US
    assert curve.at(0.99) == pytest.approx(2 * MS, abs=1)
    assert curve.at(0.999) == pytest.approx(10 * MS, abs=1)


def test_it_is_constant_below_the_first_point_and_above_the_last():
    curve = Curve((200 * US, 2 * MS, 10 * MS))
    assert curve.at(0) == curve.at(0.25) == 200 * US
    assert curve.at(0.9999) == curve.at(1) == 10 * MS
    assert Curve((5 * MS,)).at(0) == Curve((5 * MS,)).at(1) == 5 * MS
    assert Curve((MS, 2 * MS)).at(0.999) == 2 * MS


def test_between_points_the_logarithm_is_linear_in_the_nines():
    curve = Curve((MS, 100 * MS))
    # From one half to one hundredth takes longer; the geometric middle is the square root of both.
    assert curve.at(1 - (0.5 * 0.01) ** 0.5) == pytest.approx(10 * MS, rel=1e-6)


def test_no_latency_is_none():
    curve = Curve(())
    assert curve.at(0.3) == curve.longest == 0
    assert curve.is_constant
    assert Curve((0, 0, MS)).at(0.5) == 0
    assert Curve((0, 0, MS)).at(0.9995) == MS


@given(percentiles, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_it_rises_and_stays_between_its_ends(points, fractions):
    curve = Curve(points)
    drawn = [curve.at(fraction) for fraction in sorted(fractions)]
    assert drawn == sorted(drawn)
    assert all(isinstance(latency, int) for latency in drawn)
    assert points[0] <= drawn[0]
    assert drawn[-1] <= points[-1] == curve.longest


@pytest.mark.parametrize("decks", [1, 3])
def test_each_deck_has_one_number_in_each_thousandth(decks):
    deck = Deck(Random(7))
    for _ in range(decks):
        cards = sorted(int(deck.draw() * CARDS) for _ in range(CARDS))
        assert cards == list(range(CARDS))


def test_the_same_seed_draws_the_same():
    def draws(seed):
        deck = Deck(Random(seed))
        return [deck.draw() for _ in range(2 * CARDS)]

    assert draws("1 a.img") == draws("1 a.img")
    assert draws("1 a.img") != draws("2 a.img")
    assert draws("1 a.img") != draws("1 b.img")


def test_draws_of_a_deck_are_in_no_order():
    deck = Deck(Random(1))
    drawn = [deck.draw() for _ in range(CARDS)]
    rising = sum(early < late for early, late in pairwise(drawn))
    assert 400 < rising < 600
    # Neither half of the deck favours fast or slow ones.
    assert 0.45 < sum(drawn[: CARDS // 2]) / (CARDS // 2) < 0.55


def test_percentiles_of_many_draws_are_those_of_the_curve():
    curve = Curve((200 * US, 2 * MS, 10 * MS))
    deck = Deck(Random(3))
    drawn = sorted(curve.at(deck.draw()) for _ in range(50_000))
    assert drawn[25_000] == pytest.approx(200 * US, rel=0.001)
    assert drawn[49_500] == pytest.approx(2 * MS, rel=0.02)
    assert drawn[49_950] == pytest.approx(10 * MS, rel=0.05)
