"""A limit that hosts share, through many more faults than tests/unit/cluster has time for."""

from __future__ import annotations

import pytest

from tests.soak import Soak
from tests.unit.cluster.test_faults import ALL_FAULTS, AWAY_FROM_ALL, Turmoil
from throttlefs.settings.shared import OnLost


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("on_lost", [OnLost.CLOSED, OnLost.SHARE])
def test_the_sum_never_passes_the_limit(soak: Soak, on_lost: OnLost) -> None:
    for seed in range(soak.choose(1, 1000)):
        turmoil = Turmoil(seed, on_lost, ALL_FAULTS if on_lost is OnLost.CLOSED else AWAY_FROM_ALL)
        turmoil.world.tolerated = 1.0 if on_lost is OnLost.CLOSED else 1.08
        turmoil.run(soak.choose(10, 40))
