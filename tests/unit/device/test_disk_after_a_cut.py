"""A whole disk after power cuts: names, sizes and contents are together a state that it could have.

Programs make, write, truncate, discard, rename and remove files, and sync some. The models know
every state of each file and of the tree. ``tests/trust`` has the long form.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .disk_world import Disk


@pytest.mark.parametrize("ordered", [True, False])
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 120))
@settings(max_examples=60)
def test_what_is_left_is_a_state_that_the_disk_could_have(
    ordered: bool, seed: int, steps: int
) -> None:
    Disk(random.Random(seed), ordered=ordered).run(steps, 40)


def test_cuts_lose_something(rng: random.Random) -> None:
    disk = Disk(rng, ordered=True)
    disk.run(1500, 30)
    assert disk.cuts > 30
    assert disk.lost > 30
